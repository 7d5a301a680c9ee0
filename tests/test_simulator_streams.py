"""Answers that come piece by piece: the same as whole ones, alive while they are made, broken where told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from batchgen.simulator import Endpoint, Faults, Settings, bodies
from batchgen.simulator.app import CLOSE, RESET, make_app
from batchgen.simulator.events import ALIVE_EVERY, apart
from batchgen.simulator.transport import SimulatorTransport
from tests.test_simulator import served_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

MODEL = "gemini-3.1-flash-image-preview"
KEY = {"authorization": "Bearer k"}
CHAT = "/v1/chat/completions"
NATIVE = f"/v1beta/models/{MODEL}:streamGenerateContent"
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}},
}


def _chat(**more: object) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "a cat"}], "stream": True, **more}


def _native() -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": "a cat"}]}]}


def _endpoint(**settings: Any) -> Endpoint:
    return Endpoint(Settings(**{"latency": 0.0, "paint": False, **settings}), clock=lambda: 0.0)


def _streamed(endpoint: Endpoint, body: dict[str, Any], path: str = CHAT) -> bytes:
    reply = endpoint.answer("POST", path, KEY, json.dumps(body).encode())
    assert reply.stream is not None
    return reply.stream.first + (reply.body if isinstance(reply.body, bytes) else reply.body())


def _events(stream: bytes, blank: bytes = b"\n\n") -> list[Any]:
    """The JSON of every event; comments and the mark of the end are none."""
    assert stream.endswith(blank)
    lines = [line for line in stream.split(blank) if line and not line.startswith(b":")]
    assert all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    return [json.loads(line[6:]) for line in lines if line != b"data: [DONE]"]


def _joined(events: list[Any]) -> dict[str, Any]:
    """What the deltas of a stream come to."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "images": [], "calls": [], "finish": None}
    for choice in (choice for event in events for choice in event["choices"]):
        delta = choice["delta"]
        message["content"] += delta.get("content") or ""
        message["reasoning"] += delta.get("reasoning_content", "")
        message["images"] += delta.get("images", [])
        message["calls"] += delta.get("tool_calls", [])
        message["finish"] = choice["finish_reason"] or message["finish"]
    return message


@pytest.mark.parametrize("shape", bodies.SHAPES)
def test_the_pieces_come_to_the_whole_answer(shape: str) -> None:
    whole_body = _chat(stream=False)
    shown = "S1" if shape in {"S3", "S7"} else shape
    whole = _endpoint(shape=shown).answer("POST", CHAT, KEY, json.dumps(whole_body).encode())
    content = whole.body if isinstance(whole.body, bytes) else whole.body()
    message = json.loads(content)["choices"][0]["message"]
    joined = _joined(_events(_streamed(_endpoint(shape=shape), _chat())))
    assert joined["content"] == message["content"]
    assert joined["images"] == message.get("images", [])
    assert joined["finish"] == "stop"


def test_the_tokens_are_told_where_they_are_asked_for_and_are_those_of_the_bill() -> None:
    endpoint = _endpoint()
    last = _events(_streamed(endpoint, _chat(stream_options={"include_usage": True})))[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == endpoint.account.models[MODEL].total_tokens
    assert b'"usage"' not in _streamed(_endpoint(), _chat())


@pytest.mark.parametrize("shape", ["S1", "S2"])
def test_drafts_stand_among_the_thoughts_and_the_picture_in_one_line(shape: str) -> None:
    stream = _streamed(_endpoint(shape=shape, faults=Faults(draft=1.0)), _chat())
    joined = _joined(_events(stream))
    assert joined["reasoning"].count("/9j/") == 1
    assert (joined["content"] + json.dumps(joined["images"])).count("/9j/") == 1
    assert stream.count(b"data:image/") == 2


def test_a_call_comes_in_pieces_that_make_its_arguments() -> None:
    calls = _joined(_events(_streamed(_endpoint(), _chat(tools=[TOOL]))))["calls"]
    assert [call["index"] for call in calls] == [0, 0, 0]
    assert calls[0]["function"]["name"] == "f"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"a": "a cat"}


@pytest.mark.parametrize("wanted", ["sse", "json"])
def test_google_s_stream_is_events_or_an_array_and_its_last_part_tells_the_tokens(wanted: str) -> None:
    endpoint = _endpoint(faults=Faults(draft=1.0))
    stream = _streamed(endpoint, _native(), f"{NATIVE}?alt={wanted}")
    events = _events(stream, b"\r\n\r\n") if wanted == "sse" else json.loads(stream)
    parts = [part for event in events for part in event["candidates"][0]["content"]["parts"]]
    assert [set(part) - {"thoughtSignature"} for part in parts] == [
        {"text", "thought"},
        {"inlineData", "thought"},
        {"text"},
        {"inlineData"},
        {"text"},
    ]
    assert [event["candidates"][0].get("finishReason") for event in events] == [None] * 4 + ["STOP"]
    assert events[-1]["usageMetadata"]["totalTokenCount"] == endpoint.account.models[MODEL].total_tokens


def test_a_refusal_is_streamed_as_one() -> None:
    refusing = Faults(refusal=1.0)
    (event,) = _events(_streamed(_endpoint(faults=refusing), _native(), f"{NATIVE}?alt=sse"), b"\r\n\r\n")
    assert event["promptFeedback"]["blockReason"] == "PROHIBITED_CONTENT"
    assert _joined(_events(_streamed(_endpoint(faults=refusing), _chat())))["finish"] == "content_filter"


def test_the_images_api_streams_its_drafts_as_partial_images() -> None:
    body = {"model": MODEL, "prompt": "a cat", "stream": True}
    endpoint = _endpoint(faults=Faults(draft=1.0))
    partial, made = _events(_streamed(endpoint, body, "/v1/images/generations"))
    assert (partial["type"], made["type"]) == ("image_generation.partial_image", "image_generation.completed")
    assert made["usage"]["total_tokens"] == endpoint.account.models[MODEL].total_tokens


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        (CHAT, _chat(), "S1"),
        (CHAT, _chat(), "S2"),
        (f"{NATIVE}?alt=sse", _native(), "S1"),
        ("/v1/images/generations", {"model": MODEL, "prompt": "a", "stream": True}, "S1"),
    ],
)
def test_an_error_in_the_middle_ends_a_stream_that_was_billed(
    path: str, body: dict[str, Any], shape: str
) -> None:
    endpoint = _endpoint(shape=shape, faults=Faults(stream_error=1.0))
    stream = _streamed(endpoint, body, path)
    assert b'"error"' in stream.strip().splitlines()[-1]
    assert b"[DONE]" not in stream
    assert b"/9j/" not in stream
    assert endpoint.account.billed == 1


def test_an_answer_that_is_not_streamed_has_no_error_in_its_middle() -> None:
    endpoint = _endpoint(faults=Faults(stream_error=1.0))
    reply = endpoint.answer("POST", CHAT, KEY, json.dumps(_chat(stream=False)).encode())
    assert callable(reply.body)
    assert "/9j/" in json.loads(reply.body())["choices"][0]["message"]["content"]


@pytest.mark.parametrize("faults", [{"overloaded": 1.0}, {"rate_limited": 1.0}])
def test_an_error_before_the_answer_has_its_status_though_a_stream_was_wanted(
    faults: dict[str, float],
) -> None:
    reply = _endpoint(faults=Faults(**faults)).answer("POST", CHAT, KEY, json.dumps(_chat()).encode())
    assert reply.stream is None
    assert reply.status in {429, 503}


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n"])
def test_events_are_sent_one_by_one_and_lose_nothing(blank: bytes) -> None:
    stream = blank.join([b"data: 1", b": alive", b"data: 2", b"cut off"])
    pieces = [*apart(stream, blank)]
    assert b"".join(pieces) == stream
    assert len(pieces) == 4


# In process, in virtual time


async def _inline(painter: Callable[[], bytes]) -> bytes:
    return painter()


async def _arrivals(
    settings: Settings, body: dict[str, Any], path: str = CHAT, *, timeout: float = 300
) -> list[tuple[float, bytes]]:
    """What arrived when, in seconds since the request."""
    transport = SimulatorTransport(Endpoint(settings, clock=anyio.current_time), offload=_inline)
    began, found = anyio.current_time(), []
    async with (
        httpx.AsyncClient(transport=transport, timeout=timeout) as client,
        client.stream("POST", f"http://s{path}", headers=KEY, json=body) as response,
    ):
        assert "content-length" not in response.headers
        assert response.headers["content-type"] == "text/event-stream"
        found.append((anyio.current_time() - began, b""))
        try:
            async for piece in response.aiter_raw():
                found.append((anyio.current_time() - began, piece))  # noqa: PERF401  kept when it breaks off
        except httpx.TransportError as error:
            found.append((anyio.current_time() - began, type(error).__name__.encode()))
    return found


@pytest.mark.virtual_time
async def test_a_stream_begins_at_once_and_stays_alive_until_the_answer_is_there() -> None:
    found = await _arrivals(Settings(paint=False, latency=3.0), _chat())
    assert [at for at, _ in found[:2]] == [0, 0]
    assert b'"role":"assistant"' in found[1][1]
    alive = [at for at, piece in found if piece == b": PING\n\n"]
    assert alive == [ALIVE_EVERY * n for n in range(1, len(alive) + 1)]
    assert len(alive) >= 1
    assert found[-1][0] - alive[-1] <= ALIVE_EVERY
    assert _joined(_events(b"".join(piece for _, piece in found)))["finish"] == "stop"


@pytest.mark.virtual_time
async def test_a_stream_outlives_a_read_timeout_that_its_signs_of_life_keep() -> None:
    found = await _arrivals(Settings(paint=False, latency=9.0), _chat(), timeout=ALIVE_EVERY + 1)
    assert found[-1][0] > 3 * ALIVE_EVERY
    assert found[-1][1].endswith(b"[DONE]\n\n")
    silent = await _arrivals(
        Settings(paint=False, latency=9.0), _native(), f"{NATIVE}?alt=sse", timeout=ALIVE_EVERY + 1
    )
    assert silent[1:] == [(ALIVE_EVERY + 1, b"ReadTimeout")]


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("fault", "error"),
    [("reset_after", b"ReadError"), ("truncated", b"RemoteProtocolError"), ("hang", b"ReadTimeout")],
)
async def test_in_process_a_stream_breaks_in_its_middle(fault: str, error: bytes) -> None:
    found = await _arrivals(Settings(paint=False, faults=Faults(**{fault: 1.0})), _chat())
    assert b'"role":"assistant"' in found[1][1]
    assert found[-1][1] == error
    assert b"[DONE]" not in b"".join(piece for _, piece in found)


@pytest.mark.virtual_time
async def test_in_process_half_a_document_ends_as_if_it_were_whole() -> None:
    found = await _arrivals(Settings(paint=False, faults=Faults(bad_json=1.0)), _chat())
    stream = b"".join(piece for _, piece in found)
    assert not stream.endswith(b"\n\n")
    assert b"/9j/" in stream


# On the wire


class _Line:
    """The server's side of one connection, without a socket: virtual time knows none."""

    def __init__(self, body: dict[str, Any], *, leaves_at: float = float("inf")) -> None:
        self.sent: list[tuple[float, MutableMapping[str, Any]]] = []
        self.broken: list[str] = []
        self._body = json.dumps(body).encode()
        self._leaves_at = leaves_at
        self._read = False
        self._began = anyio.current_time()

    async def receive(self) -> MutableMapping[str, Any]:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await anyio.sleep(self._leaves_at - (anyio.current_time() - self._began))
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append((anyio.current_time() - self._began, message))

    async def run(self, settings: Settings) -> bytes:
        scope = {
            "method": "POST",
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer k")],
            "extensions": {RESET: lambda: self._end("reset"), CLOSE: lambda: self._end("close")},
        }
        app = make_app(Endpoint(settings, clock=anyio.current_time))
        await app(scope, self.receive, self.send)
        return b"".join(message.get("body", b"") for _, message in self.sent)

    def _end(self, how: str) -> None:
        self.broken.append(how)
        self._leaves_at = 0.0


WORDS = Faults(no_image=1.0)
"""Nothing to paint: virtual time knows no threads."""


@pytest.mark.virtual_time
async def test_the_server_sends_signs_of_life_and_each_event_by_itself() -> None:
    line = _Line(_chat())
    stream = await line.run(Settings(paint=False, latency=9.0, faults=WORDS))
    assert _joined(_events(stream))["finish"] == "stop"
    alive = [at for at, message in line.sent if message.get("body") == b": PING\n\n"]
    assert alive == [ALIVE_EVERY * n for n in range(1, len(alive) + 1)]
    assert len(alive) > 2
    assert line.sent[0][0] == line.sent[1][0] == 0
    *pieces, (_, end) = [item for item in line.sent if item[0] > alive[-1]]
    assert len(pieces) == len(_events(stream))
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.virtual_time
async def test_the_server_notices_a_client_that_leaves_between_two_signs_of_life() -> None:
    line = _Line(_chat(), leaves_at=ALIVE_EVERY * 1.5)
    stream = await line.run(Settings(paint=False, latency=9.0, faults=WORDS))
    assert stream.count(b": PING") == 2
    assert b'finish_reason":"stop' not in stream


@pytest.fixture(scope="module")
def served() -> Iterator[httpx.Client]:
    with served_simulator() as url, httpx.Client(base_url=url, headers=KEY, timeout=20) as client:
        yield client


def test_on_the_wire_a_stream_comes_in_chunks_and_is_billed(served: httpx.Client) -> None:
    before = served.get("/account").json()["billed"]
    with served.stream("POST", CHAT, json=_chat()) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.headers["content-type"] == "text/event-stream"
        stream = response.read()
    assert stream.endswith(b"data: [DONE]\n\n")
    assert "/9j/" in _joined(_events(stream))["content"]
    assert served.get("/account").json()["billed"] == before + 1


def test_on_the_wire_google_s_stream_is_whole(served: httpx.Client) -> None:
    answer = served.post(f"{NATIVE}?alt=sse&key=k", json=_native(), headers={"authorization": ""})
    assert _events(answer.content, b"\r\n\r\n")[-1]["candidates"][0]["finishReason"] == "STOP"
    assert len(served.post(NATIVE, json=_native()).json()) == 4


@pytest.mark.parametrize(
    ("fault", "error", "patience"),
    [
        ("reset_after", httpx.ReadError, 20),
        ("truncated", httpx.RemoteProtocolError, 20),
        ("hang", httpx.ReadTimeout, 0.5),
    ],
)
def test_on_the_wire_a_stream_breaks_in_its_middle(
    fault: str, error: type[Exception], patience: float
) -> None:
    with served_simulator(faults={fault: 1.0}) as url:
        pieces: list[bytes] = []
        with (
            pytest.raises(error),
            httpx.stream("POST", url + CHAT, headers=KEY, json=_chat(), timeout=patience) as response,
        ):
            pieces.extend(response.iter_raw())
        stream = b"".join(pieces)
        assert b"[DONE]" not in stream
        # A reset may overtake what was sent before it, and a slow machine may send nothing in time.
        assert fault != "truncated" or b'"role":"assistant"' in stream
        assert httpx.get(f"{url}/account", timeout=20).json()["billed"] == 1
