"""The simulated endpoint: its contract, its bill and its faults, in process and on the wire."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.errors import InputError
from batchgen.records import Model
from batchgen.simulator import Ending, Endpoint, Faults, Reply, Settings
from batchgen.simulator.account import Tokens, cost
from batchgen.simulator.app import LARGEST_REQUEST, serve
from batchgen.simulator.paint import prompt_key, prompt_mark
from batchgen.simulator.transport import SimulatorTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

MODEL = "gemini-3.1-flash-image-preview"
PATH = "/llm/gemini/v1beta/openai/chat/completions"
KEY = {"authorization": "Bearer k"}
FAST: dict[str, Any] = {"latency": 0.0, "paint": False}


def _body(prompt: str = "a cat", **more: object) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}).encode()


def _endpoint(**settings: object) -> Endpoint:
    return Endpoint(msgspec.convert({**FAST, **settings}, Settings), clock=lambda: 0.0)


def _whole(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else reply.body()


def _ask(endpoint: Endpoint, body: bytes | None = None) -> Reply:
    return endpoint.answer("POST", PATH, KEY, _body() if body is None else body)


def test_the_bill_is_tokens_times_price_to_the_last_digit() -> None:
    endpoint = _endpoint()
    usage = json.loads(_whole(_ask(endpoint)))["usage"]
    text = usage["completion_tokens"] - 1120
    expected = (Decimal("0.5") * usage["prompt_tokens"] + 3 * text + 60 * 1120) / 1_000_000
    assert endpoint.account.usd == expected
    assert usage["total_tokens"] == endpoint.account.models[MODEL].total_tokens
    assert endpoint.account.bought("a cat", MODEL) == 1


@pytest.mark.parametrize("shape", ["S1", "S2", "S3", "S4", "S5", "S7"])
def test_every_shape_carries_the_picture_of_its_prompt(shape: str) -> None:
    text = _whole(_ask(_endpoint(shape=shape))).decode()
    encoded = text[text.index("/9j/") :].split('"')[0].rstrip(")")
    assert prompt_mark(base64.b64decode(encoded)) == prompt_key("a cat")


def test_a_link_leads_to_the_picture_of_its_prompt() -> None:
    endpoint = _endpoint(shape="S6")
    content = json.loads(_whole(_ask(endpoint)))["choices"][0]["message"]["content"]
    link = httpx.URL(content.split("](")[1].rstrip(")"))
    assert prompt_mark(_whole(endpoint.answer("GET", link.path, {}, b""))) == prompt_key("a cat")


@pytest.mark.parametrize(
    ("fault", "status", "billed", "ending"),
    [
        ("rate_limited", 429, 0, Ending.WHOLE),
        ("rate_limited_silent", 429, 0, Ending.WHOLE),
        ("daily_quota", 429, 0, Ending.WHOLE),
        ("overloaded", 503, 0, Ending.WHOLE),
        ("server_error", 500, 0, Ending.WHOLE),
        ("no_channel", 503, 0, Ending.WHOLE),
        ("reset_after", 200, 1, Ending.RESET_AFTER),
        ("truncated", 200, 1, Ending.TRUNCATED),
        ("hang", 200, 1, Ending.HANG),
        ("bad_json", 200, 1, Ending.WHOLE),
        ("bad_base64", 200, 1, Ending.WHOLE),
        ("corrupt", 200, 1, Ending.WHOLE),
        ("lost_link", 200, 1, Ending.WHOLE),
        ("refusal", 200, 1, Ending.WHOLE),
        ("no_image", 200, 1, Ending.WHOLE),
    ],
)
def test_each_fault_has_its_status_and_its_bill(fault: str, status: int, billed: int, ending: Ending) -> None:
    endpoint = _endpoint(faults=Faults(**{fault: 1.0}))
    reply = _ask(endpoint)
    assert (reply.status, reply.ending, endpoint.account.billed) == (status, ending, billed)
    assert _whole(reply)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        _body(temperature=3),
        _body(stream="yes"),
        _body(messages=[]),
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_a_request_it_cannot_read_is_a_400_and_free(body: bytes) -> None:
    endpoint = _endpoint()
    assert (_ask(endpoint, body).status, endpoint.account.billed) == (400, 0)


@pytest.mark.parametrize("shape", ["S1", "S4", "S6", "S7"])
def test_a_lost_link_is_a_link_that_was_billed_and_answers_404(shape: str) -> None:
    endpoint = _endpoint(shape=shape, faults=Faults(lost_link=1.0))
    content = json.loads(_whole(_ask(endpoint)))["choices"][0]["message"]["content"]
    link = httpx.URL(content.split("](")[1].rstrip(")"))
    assert endpoint.answer("GET", link.path, {}, b"").status == 404


@pytest.mark.parametrize(("fault", "named"), [("rate_limited", True), ("rate_limited_silent", False)])
def test_a_429_names_the_wait_or_none(fault: str, named: bool) -> None:
    assert (b"retryDelay" in _whole(_ask(_endpoint(faults=Faults(**{fault: 1.0}))))) is named


def test_keys_and_models_are_checked() -> None:
    endpoint = _endpoint(key="right")
    assert endpoint.answer("POST", PATH, {}, _body()).status == 401
    assert b"API_KEY_INVALID" in _whole(_ask(endpoint))
    assert _ask(_endpoint(), _body(model="none")).status == 404


def test_a_model_without_a_price_costs_nothing() -> None:
    assert cost(Model(id="new"), Tokens(prompt=10, text=10, image=1120)) == 0


def test_an_endpoint_may_ask_for_no_key() -> None:
    assert _endpoint(key="").answer("POST", PATH, {}, _body()).status == 200


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("PUT", PATH), ("GET", "/pictures/gone.jpg")])
def test_what_is_not_served_is_a_404_and_free(method: str, path: str) -> None:
    endpoint = _endpoint()
    assert endpoint.answer(method, path, KEY, b"").status == 404
    assert endpoint.account.seen == 0


def test_parts_are_read_and_a_reference_picture_costs_its_tokens() -> None:
    parts = [
        {"type": "text", "text": "a cat"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    messages = [{"role": "system", "content": "draw"}, {"role": "user", "content": parts}]
    endpoint = _endpoint()
    answer = json.loads(_whole(_ask(endpoint, _body(messages=messages))))
    assert answer["usage"]["prompt_tokens"] == 563
    came = hashlib.sha256(b"\x89PNG\r\n\x1a\n").hexdigest()
    assert endpoint.account.bought("a cat", MODEL, [came]) == 1


def test_without_details_the_usage_is_a_sum() -> None:
    usage = json.loads(_whole(_ask(_endpoint(details=False))))["usage"]
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}


@pytest.mark.parametrize("details", [True, False])
@pytest.mark.parametrize("shape", ["S2", "S7"])
def test_money_and_the_split_are_told_with_details_only(shape: str, details: bool) -> None:
    usage = json.loads(_whole(_ask(_endpoint(shape=shape, details=details))))["usage"]
    assert (len(usage) > 3) is details


@pytest.mark.parametrize("shape", ["S2", "S3", "S7"])
def test_a_draft_comes_before_the_picture_and_is_not_billed(shape: str) -> None:
    endpoint = _endpoint(shape=shape, faults={"draft": 1.0})
    found = re.findall(r"/9j/[A-Za-z0-9+/=]+", _whole(_ask(endpoint)).decode())
    assert len(found) == 2
    assert found[0] != found[1]
    assert endpoint.account.models[MODEL].image_tokens == 1120


@pytest.mark.parametrize("shape", ["S4", "S5"])
def test_a_shape_of_one_picture_has_no_draft(shape: str) -> None:
    text = _whole(_ask(_endpoint(shape=shape, faults={"draft": 1.0}))).decode()
    assert text.count("/9j/") == 1


def test_the_oldest_links_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.simulator.endpoint.LINKS_KEPT", 2)
    endpoint = _endpoint(shape="S6")
    paths = []
    for n in range(3):
        content = json.loads(_whole(_ask(endpoint, _body(f"cat {n}"))))["choices"][0]["message"]["content"]
        paths.append(httpx.URL(content.split("](")[1].rstrip(")")).path)
    assert [endpoint.answer("GET", path, {}, b"").status for path in paths] == [404, 200, 200]


def test_a_calm_endpoint_suffers_its_first_fault_after_so_many_requests() -> None:
    endpoint = _endpoint(calm=3, faults={"overloaded": 1.0})
    assert [_ask(endpoint).status for _ in range(5)] == [200, 200, 200, 503, 503]
    refusing = _endpoint(calm=1, faults={"reset_before": 1.0})
    assert not refusing.refuses()
    _ask(refusing)
    assert refusing.refuses()


def test_faults_do_not_depend_on_the_order_of_requests() -> None:
    faults = {"overloaded": 0.3, "refusal": 0.3, "corrupt": 0.3}
    prompts = [f"picture {n}" for n in range(30)]
    forth, back = _endpoint(faults=faults), _endpoint(faults=faults)
    there = {prompt: _whole(_ask(forth, _body(prompt))) for prompt in prompts}
    assert {prompt: _whole(_ask(back, _body(prompt))) for prompt in reversed(prompts)} == there


def test_max_tokens_below_the_picture_buys_none_and_says_length() -> None:
    answer = json.loads(_whole(_ask(_endpoint(), _body(max_tokens=500))))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] <= 500


def test_the_quota_admits_a_burst_and_then_its_rate() -> None:
    now = [0.0]
    endpoint = Endpoint(Settings(**FAST, rpm=60, burst=2), clock=lambda: now[0])
    assert [_ask(endpoint).status for _ in range(3)] == [200, 200, 429]
    now[0] = 1.0
    assert [_ask(endpoint).status for _ in range(2)] == [200, 429]


def test_pictures_a_minute_are_a_quota_of_their_own() -> None:
    now = [0.0]
    endpoint = Endpoint(Settings(**FAST, rpm=600, ipm=30, burst=1), clock=lambda: now[0])
    assert [_ask(endpoint).status for _ in range(2)] == [200, 429]
    now[0] = 1.9
    refused = _ask(endpoint)
    (error,) = json.loads(_whole(refused))
    assert error["error"]["details"][1]["retryDelay"] == "0.100s"
    now[0] = 2.0
    assert _ask(endpoint).status == 200


def test_answers_and_429s_say_what_is_left_as_it_was_when_they_were_asked_for() -> None:
    endpoint = _endpoint(rpm=60, ipm=30, burst=2, quota_headers="openai")
    told = [_ask(endpoint) for _ in range(3)]
    assert [reply.status for reply in told] == [200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in told] == ["1", "0", "0"]
    assert [reply.headers["x-ratelimit-reset-images"] for reply in told] == ["2.000s", "4.000s", "4.000s"]
    assert {reply.headers["x-ratelimit-limit-images"] for reply in told} == {"30"}
    plain = _endpoint(rpm=60)
    assert not [name for name in _ask(plain).headers if "ratelimit" in name]


def test_half_of_the_429_have_the_header_too() -> None:
    endpoint = _endpoint(rpm=1, burst=1)
    _ask(endpoint)
    told = [_ask(endpoint, _body(f"picture {n}")).headers.get("retry-after") for n in range(60)]
    assert set(told) == {None, "60"}
    assert 15 < told.count(None) < 45


def test_the_same_seed_gives_the_same_answers() -> None:
    settings: dict[str, Any] = {
        "faults": Faults(rate_limited=0.3, refusal=0.3, corrupt=0.3),
        "shape": "mixed",
    }
    one, other = (
        [_whole(_ask(e)) for _ in range(20)] for e in (_endpoint(**settings), _endpoint(**settings))
    )
    assert one == other


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"faults": {"hang": 2.0}}, "hang"),
        ({"faults": {"hang": 0.6, "corrupt": 0.6}}, "1.2"),
        ({"rpm": 0}, "rpm"),
        ({"ipm": -1.0}, "ipm"),
        ({"burst": 0}, "burst"),
        ({"latencies": {"m": {"median": 0.0}}}, "median"),
        ({"latencies": {"m": {"median": 1.0, "spread": -0.1}}}, "spread"),
        ({"latency": -1}, "latency"),
        ({"latency": float("nan")}, "latency"),
        ({"calm": -1}, "calm"),
        ({"fault": {}}, "fault"),
        ({"faults": {"overlode": 0.1}}, "overlode"),
        ({"shape": "S9"}, "S9"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, object], told: str) -> None:
    with pytest.raises((InputError, msgspec.ValidationError), match=told):
        msgspec.convert(settings, Settings)


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists).map(
        lambda value: json.dumps({"model": MODEL, "messages": value}).encode()
    )
    | st.text(max_size=40).map(_body)
    | st.sampled_from(["\\ud800", "\\u0000", "\\udfff\\ud800"]).map(
        lambda text: _body().replace(b"a cat", text.encode())
    )
)
def test_no_body_makes_it_raise(body: bytes) -> None:
    _whole(_ask(_endpoint(), body))


async def _inline(painter: Callable[[], bytes]) -> bytes:
    return painter()


async def _post(
    faults: Faults, *, body: bytes | httpx.AsyncByteStream = b""
) -> tuple[httpx.Response, Endpoint]:
    endpoint = Endpoint(Settings(paint=False, faults=faults), clock=anyio.current_time)
    transport = SimulatorTransport(endpoint, offload=_inline)
    async with httpx.AsyncClient(transport=transport, timeout=300) as client:
        answer = await client.post(f"http://s{PATH}", headers=KEY, content=body or _body())
        return answer, endpoint


class _Watched(httpx.AsyncByteStream):
    """A request's body that knows whether it was read."""

    read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.read = True
        yield _body()


@pytest.mark.virtual_time
async def test_in_process_an_answer_takes_its_time() -> None:
    start = anyio.current_time()
    response, endpoint = await _post(Faults())
    assert (response.status_code, endpoint.account.billed) == (200, 1)
    assert 4 < anyio.current_time() - start < 40


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("fault", "error", "sent"),
    [
        ("reset_before", httpx.ConnectError, False),
        ("reset_after", httpx.ReadError, True),
        ("truncated", httpx.RemoteProtocolError, True),
        ("hang", httpx.ReadTimeout, True),
    ],
)
async def test_in_process_a_broken_connection_raises_what_a_real_one_would(
    fault: str, error: type[Exception], sent: bool
) -> None:
    body = _Watched()
    with pytest.raises(error):
        await _post(Faults(**{fault: 1.0}), body=body)
    assert body.read is sent


@pytest.mark.virtual_time
async def test_in_process_whoever_has_the_last_piece_cannot_lose_the_answer_to_a_cancellation() -> None:
    endpoint = Endpoint(Settings(paint=False), clock=anyio.current_time)
    transport = SimulatorTransport(endpoint, offload=_inline)
    request = httpx.Request("POST", f"http://s{PATH}", headers=KEY, content=_body())
    response = await transport.handle_async_request(request)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    with anyio.CancelScope() as scope:
        scope.cancel()
        pieces = [piece async for piece in response.stream]
    assert not scope.cancelled_caught
    assert json.loads(b"".join(pieces))["choices"]


async def test_in_process_painting_is_done_in_a_thread_and_arrives_in_pieces() -> None:
    endpoint = Endpoint(Settings(latency=0.0), clock=anyio.current_time)
    async with httpx.AsyncClient(transport=SimulatorTransport(endpoint), base_url="http://s") as client:
        async with client.stream("POST", PATH, headers=KEY, content=_body()) as response:
            pieces = [piece async for piece in response.aiter_raw()]
        assert len(pieces) > 1
        assert len(b"".join(pieces)) == int(response.headers["content-length"])
        assert (await client.get("/account")).json()["billed"] == 1


SERVE = """
import sys, msgspec
from batchgen.simulator import Settings
from batchgen.records import Model
from batchgen.simulator.account import Tokens, cost
from batchgen.simulator.app import serve
serve(msgspec.json.decode(sys.argv[1], type=Settings), on_ready=lambda url: print(url, flush=True))
"""


@contextmanager
def served_simulator(*, stop: signal.Signals = signal.SIGINT, **settings: object) -> Iterator[str]:
    """A simulator in a process of its own, that ends in time and without a word."""
    command = [sys.executable, "-c", SERVE, json.dumps({**FAST, **settings})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            start = time.monotonic()
            process.send_signal(stop)
            _, told = process.communicate(timeout=5)
    assert time.monotonic() - start < 1.5
    assert process.returncode in {0, -stop}
    assert told == ""


def _head(prompt: str) -> bytes:
    """The head of a request, as bytes on a socket."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: s", "Authorization: Bearer k", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Length: {len(_body(prompt))}", "", ""]).encode()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with served_simulator() as url:
        yield url


def test_on_the_wire_it_answers_lists_models_and_tells_its_bill(served: str) -> None:
    with httpx.Client(base_url=served) as client:
        before = client.get("/account").json()["billed"]
        assert client.post(PATH, headers=KEY, content=_body()).status_code == 200
        assert len(client.get("/v1/models", headers=KEY).json()["data"]) >= 2
        assert client.get("/v1/models").status_code == 401
        assert client.get("/account").json()["billed"] == before + 1
        assert client.get("/").text.startswith("batchgen")
        assert client.get("/nothing").status_code == 404


def test_on_the_wire_a_request_over_the_cap_is_a_413_and_free(served: str) -> None:
    with httpx.Client(base_url=served, timeout=20) as client:
        seen = client.get("/account").json()["seen"]
        answer = client.post(PATH, headers=KEY, content=b" " * (LARGEST_REQUEST + 1))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert client.get("/account").json()["seen"] == seen


def test_on_the_wire_a_client_that_leaves_in_the_middle_of_its_request_is_not_seen(served: str) -> None:
    at = httpx.URL(served)
    with httpx.Client(base_url=served) as client:
        seen = client.get("/account").json()["seen"]
        with socket.create_connection((at.host, at.port)) as connection:
            connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: s\r\nContent-Length: 99\r\n\r\n{{".encode())
        assert client.get("/account").json()["seen"] == seen
        assert client.post(PATH, headers=KEY, content=_body()).status_code == 200


def test_on_the_wire_200_connections_are_answered_at_once() -> None:
    with served_simulator(latency=0.03) as url:  # 0.4 s for each
        at = httpx.URL(url)
        start = time.monotonic()
        connections = [socket.create_connection((at.host, at.port), timeout=10) for _ in range(200)]
        for n, connection in enumerate(connections):
            connection.sendall(_head(f"picture {n}") + _body(f"picture {n}"))
        for connection in connections:
            with connection, connection.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
                assert answer.read().endswith(b"}")
        assert time.monotonic() - start < 10, "one after the other takes 70 s"
        account = httpx.get(f"{url}/account").json()
        assert (account["billed"], account["bought_again"]) == (200, 0)


def _reading(status: int, body: bytes) -> tuple[str, object]:
    """What a client finds: a word for it, and the content without the time of day."""
    try:
        content = json.loads(body)
    except ValueError:
        return "half a document", None
    if status != 200:
        return str(status), content
    del content["created"]
    found = re.search(rb"/9j/[^\")]+(?=[^/]*$)", body)
    if found is None:
        return "no picture", content
    if not re.fullmatch(rb"[A-Za-z0-9+/=]+", found[0]):
        return "no base64", content
    return "whole" if base64.b64decode(found[0]).endswith(b"\xff\xd9") else "corrupt", content


def test_on_the_wire_comes_what_the_endpoint_decided_whatever_the_fault() -> None:
    faults = dict.fromkeys(
        ["rate_limited", "daily_quota", "overloaded", "server_error", "bad_json", "bad_base64", "corrupt"],
        0.1,
    )
    faults |= {"refusal": 0.1, "no_image": 0.1, "draft": 0.5}
    settings: dict[str, Any] = {"faults": faults, "shape": "S2", "seed": 5}
    decides, seen = _endpoint(**settings), set()
    with served_simulator(**settings) as url, httpx.Client(base_url=url) as client:
        for n in range(80):
            expected = _ask(decides, _body(f"picture {n}"))
            answer = client.post(PATH, headers=KEY, content=_body(f"picture {n}"))
            assert (answer.status_code, expected.headers.items() <= dict(answer.headers).items()) == (
                expected.status,
                True,
            )
            reading = _reading(answer.status_code, answer.content)
            assert reading == _reading(expected.status, _whole(expected))
            seen.add(reading[0])
        assert client.get("/account").json()["usd"] == str(decides.account.usd)
    broken = {"429", "500", "503", "half a document", "no picture", "no base64", "corrupt"}
    assert seen == broken | {"whole"}


@pytest.mark.parametrize(
    ("fault", "error", "billed"),
    [
        ("reset_before", (httpx.ReadError, httpx.WriteError), 0),
        ("reset_after", (httpx.ReadError,), 1),
        ("truncated", (httpx.RemoteProtocolError,), 1),
        ("hang", (httpx.ReadTimeout,), 1),
    ],
)
def test_on_the_wire_a_connection_breaks_as_told(
    fault: str, error: tuple[type[Exception], ...], billed: int
) -> None:
    with served_simulator(faults={fault: 1.0}) as url, httpx.Client(base_url=url, timeout=0.5) as client:
        with pytest.raises(error):
            client.post(PATH, headers=KEY, content=_body())
        assert client.get("/account").json()["billed"] == billed


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_within_a_second_though_requests_hang(stop: signal.Signals) -> None:
    with served_simulator(stop=stop, faults={"hang": 1.0}) as url:
        at = httpx.URL(url)
        hanging = [socket.create_connection((at.host, at.port)) for _ in range(5)]
        for connection in hanging:
            connection.sendall(_head("a cat") + _body("a cat"))
        with httpx.Client(base_url=url) as client:
            while client.get("/account").json()["billed"] < 5:
                time.sleep(0.01)
    for connection in hanging:
        connection.close()


def test_an_address_in_use_is_told_before_anything_isserved_simulator(served: str) -> None:
    port = httpx.URL(served).port
    assert port is not None
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1 port {port}"):
        serve(Settings(), port=port, on_ready=pytest.fail)


def test_a_models_latency_is_as_it_is_told() -> None:
    told = {MODEL: {"median": 3.0, "spread": 0.0}}
    delays = [
        [_ask(_endpoint(latencies=told, latency=times)).delay for _ in range(5)] for times in (1.0, 2.0)
    ]
    assert delays == [pytest.approx([3.0] * 5), pytest.approx([6.0] * 5)]
    other = _endpoint(latencies={"another": {"median": 3.0}}, latency=1.0)
    assert _ask(other).delay != pytest.approx(3.0)
