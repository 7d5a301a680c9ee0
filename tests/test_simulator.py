"""The simulated endpoint: its contract, its bill and its faults, in process and on the wire."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.errors import InputError
from batchgen.simulator import Ending, Endpoint, Faults, Reply, Settings
from batchgen.simulator.paint import prompt_key, prompt_mark
from batchgen.simulator.transport import SimulatorTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

MODEL = "gemini-3.1-flash-image-preview"
PATH = "/llm/gemini/v1beta/openai/chat/completions"
KEY = {"authorization": "Bearer k"}
FAST: dict[str, Any] = {"latency": 0.0, "paint": False}


def _body(prompt: str = "a cat", **more: object) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}).encode()


def _endpoint(**settings: Any) -> Endpoint:
    return Endpoint(Settings(**{**FAST, **settings}), clock=lambda: 0.0)


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
        ("daily_quota", 429, 0, Ending.WHOLE),
        ("overloaded", 503, 0, Ending.WHOLE),
        ("server_error", 500, 0, Ending.WHOLE),
        ("reset_after", 200, 1, Ending.RESET_AFTER),
        ("truncated", 200, 1, Ending.TRUNCATED),
        ("hang", 200, 1, Ending.HANG),
        ("bad_json", 200, 1, Ending.WHOLE),
        ("bad_base64", 200, 1, Ending.WHOLE),
        ("corrupt", 200, 1, Ending.WHOLE),
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
    [b"", b"[]", b"{", _body(temperature=3), _body(stream=True), _body(messages=[]), b"[" * 100_000],
)
def test_a_request_it_cannot_read_is_a_400_and_free(body: bytes) -> None:
    endpoint = _endpoint()
    assert (_ask(endpoint, body).status, endpoint.account.billed) == (400, 0)


def test_keys_and_models_are_checked() -> None:
    endpoint = _endpoint(key="right")
    assert endpoint.answer("POST", PATH, {}, _body()).status == 401
    assert b"API_KEY_INVALID" in _whole(_ask(endpoint))
    assert _ask(_endpoint(), _body(model="none")).status == 404


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


def test_the_same_seed_gives_the_same_answers() -> None:
    settings: dict[str, Any] = {
        "faults": Faults(rate_limited=0.3, refusal=0.3, corrupt=0.3),
        "shape": "mixed",
    }
    one, other = (
        [_whole(_ask(e)) for _ in range(20)] for e in (_endpoint(**settings), _endpoint(**settings))
    )
    assert one == other


@pytest.mark.parametrize("rates", [{"hang": 2.0}, {"hang": 0.6, "corrupt": 0.6}])
def test_impossible_rates_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Faults(**rates)


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists).map(
        lambda value: json.dumps({"model": MODEL, "messages": value}).encode()
    )
    | st.text(max_size=40).map(_body)
)
def test_no_body_makes_it_raise(body: bytes) -> None:
    _whole(_ask(_endpoint(), body))


async def _inline(painter: Callable[[], bytes]) -> bytes:
    return painter()


async def _post(
    faults: Faults, *, trace: Callable[[str, Any], Awaitable[None]] | None = None
) -> tuple[httpx.Response, Endpoint]:
    endpoint = Endpoint(Settings(paint=False, faults=faults), clock=anyio.current_time)
    async with httpx.AsyncClient(
        transport=SimulatorTransport(endpoint, offload=_inline), timeout=300
    ) as client:
        extensions = {"trace": trace} if trace else {}
        return await client.post(
            f"http://s{PATH}", headers=KEY, content=_body(), extensions=extensions
        ), endpoint


@pytest.mark.virtual_time
async def test_in_process_an_answer_takes_its_time_and_tells_when_it_was_sent() -> None:
    told: list[str] = []

    async def trace(name: str, _info: Any) -> None:
        told.append(name)

    start = anyio.current_time()
    response, endpoint = await _post(Faults(), trace=trace)
    assert (response.status_code, endpoint.account.billed) == (200, 1)
    assert anyio.current_time() - start > 1
    assert told.index("connection.connect_tcp.complete") < told.index("http11.send_request_body.complete")


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset_before", httpx.ConnectError),
        ("reset_after", httpx.ReadError),
        ("truncated", httpx.RemoteProtocolError),
        ("hang", httpx.ReadTimeout),
    ],
)
async def test_in_process_a_broken_connection_raises_what_a_real_one_would(
    fault: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await _post(Faults(**{fault: 1.0}))


SERVE = """
import sys, msgspec
from batchgen.simulator import Settings
from batchgen.simulator.app import serve
serve(msgspec.json.decode(sys.argv[1], type=Settings), on_ready=lambda url: print(url, flush=True))
"""


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    faults = {request.param: 1.0} if request.param else {}
    settings = json.dumps({**FAST, "faults": faults})
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, settings], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("served", [""], indirect=True)
def test_on_the_wire_it_answers_lists_models_and_tells_its_bill(served: str) -> None:
    with httpx.Client(base_url=served) as client:
        assert client.post(PATH, headers=KEY, content=_body()).status_code == 200
        assert len(client.get("/v1/models", headers=KEY).json()["data"]) == 2
        assert client.get("/account").json()["billed"] == 1
        assert client.get("/").text.startswith("batchgen")
        assert client.get("/nothing").status_code == 404


@pytest.mark.parametrize(
    ("served", "error", "billed"),
    [
        ("reset_before", (httpx.ReadError, httpx.WriteError), 0),
        ("reset_after", httpx.ReadError, 1),
        ("truncated", httpx.RemoteProtocolError, 1),
        ("hang", httpx.ReadTimeout, 1),
    ],
    indirect=["served"],
)
def test_on_the_wire_a_connection_breaks_as_told(served: str, error: Any, billed: int) -> None:
    with httpx.Client(base_url=served, timeout=0.5) as client:
        with pytest.raises(error):
            client.post(PATH, headers=KEY, content=_body())
        assert client.get("/account").json()["billed"] == billed
