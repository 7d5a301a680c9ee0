"""
Nothing an endpoint sends makes a dialect raise, and whatever is read can be kept.

What is sent here are the answers of `examples`, and what becomes of them when any part is replaced by
anything, said twice or cut off, as JSON and as server-sent events; and bytes that were never an answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.dialects import DIALECTS
from batchgen.records import Expect, Failure, Generation
from tests.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchgen.dialects import Dialect

NOW = 1_800_000_000.0
DEFAULT, NIGHTLY = 2_000, 50_000
"""Answers: of all dialects together, and of each."""

BODIES = sorted({example.body for example in EXAMPLES.values() if example.body[:1] in {"{", "["}})


def _names(value: object) -> set[str]:
    inner: list[Any] = list(value.values()) if isinstance(value, dict) else []
    inner += value if isinstance(value, list) else []
    own = set(value) if isinstance(value, dict) else set()
    return own.union(*map(_names, inner))


NAMES = sorted(set[str]().union(*(_names(json.loads(body)) for body in BODIES)))
WORDS = [
    "![a](", "](data:image/", "data:image/png;base64,iVBORw0KGgo=", "data:,", "iVBORw0KGgo=", "/9j/" * 300,
    "https://h/x", "https://[", "http://", "SAFETY", "{", "[[", '{"error":', "%", "%2", "\ud83d",
    "\x00\x1b[2J", "lifted-0", "data: ", "\n\n", "[DONE]", "NaN", "-1", "1e999", "9" * 400, "", " ", "stop",
    "22s",
]  # fmt: skip
RAW = [
    "9" * 5_000, "-" + "9" * 5_000, "NaN", "-Infinity", "1e999", "-0.0", "1e-400", '"\\ud83d"',
    '"\\udc00\\ud800"', '{"a":1,"a":{"b":2}}', "[" * 3_000 + "]" * 3_000, '{"a":' * 3_000 + "1" + "}" * 3_000,
    "[" * 200_000, "{}" + ",[]" * 300_000, '"' + "x" * 300_000 + '"', "\x00", "\ufeff1", "'x'", "",
    "undefined", '"\n\t\x01"',
]  # fmt: skip
"""JSON that few writers write, and what is none."""
_HOLE = "\u2603 a hole \u2603"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)
statuses = st.sampled_from([200, 200, 200, 200, 204, 301, 400, 401, 403, 404, 429, 500, 503, 599, 999])
header_values = st.text(max_size=12) | st.sampled_from(["text/event-stream", "application/json", "-1", "1e9"])
headers = st.dictionaries(
    st.sampled_from(["content-type", "retry-after", "x-request-id", "location", "x-ratelimit-reset"])
    | st.text(max_size=8),
    header_values,
    max_size=3,
)


def holds(dialect: Dialect, status: int, sent: dict[str, str], body: bytes, expect: Expect) -> None:
    found = dialect.read(status, sent, bytearray(body), now=NOW, expect=expect)
    texts = [found.text, found.request_id or "", found.finish_reason or ""]
    if isinstance(found, Generation):
        assert found.images or (expect is Expect.TEXT and (found.text or found.tool_calls))
        assert not found.images or not all(image.draft for image in found.images)
        assert all((image.data is None) != (image.url is None) for image in found.images)
        texts += [found.reasoning, found.tool_calls or "", *(image.url or "" for image in found.images)]
    else:
        assert isinstance(found, Failure)
        assert 0 < len(found.message) <= 500
        assert found.message.isprintable()
        assert found.retry_after is None or 0 <= found.retry_after < 10**9
        texts += [found.message]
    for text in texts:
        text.encode()  # half a character cannot be kept


def replaced(data: st.DataObject, body: str, value: object) -> str:
    """An answer with any node of it replaced by a value."""
    root = [json.loads(body)]
    place: Any = root
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = value
    return json.dumps(root[0])


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def any_bytes(data: st.DataObject) -> bytes:
    return data.draw(st.binary(max_size=200))


def any_json(data: st.DataObject) -> bytes:
    return encoded(json.dumps(data.draw(values), ensure_ascii=data.draw(st.booleans())))


def any_node_by_anything(data: st.DataObject) -> bytes:
    body = data.draw(st.sampled_from(BODIES))
    for _ in range(data.draw(st.integers(1, 3))):
        body = replaced(data, body, data.draw(values))
        if not isinstance(json.loads(body), dict | list):
            break
    return encoded(body)


def any_node_by_what_is_hardly_json(data: st.DataObject) -> bytes:
    body = replaced(data, data.draw(st.sampled_from(BODIES)), _HOLE)
    return encoded(body.replace(json.dumps(_HOLE), data.draw(st.sampled_from(RAW))))


def any_name_said_twice(data: st.DataObject) -> bytes:
    body = data.draw(st.sampled_from(BODIES))
    opened = data.draw(st.sampled_from([at for at, sign in enumerate(body) if sign == "{"]))
    again = f"{json.dumps(data.draw(st.sampled_from(NAMES)))}:{json.dumps(data.draw(values))},"
    return encoded(body[: opened + 1] + again + body[opened + 1 :])


def any_damage(data: st.DataObject) -> bytes:
    body = encoded(data.draw(st.sampled_from(BODIES)))
    at = data.draw(st.integers(0, len(body)))
    if data.draw(st.booleans()):
        return body[:at]
    return body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]


def any_events(data: st.DataObject) -> bytes:
    """Server-sent events, of whatever of all this."""
    makers = (any_node_by_anything, any_json, any_damage, any_name_said_twice)
    lines = []
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from([b"data: ", b"data:", b": ", b"event: x\ndata: ", b"", b"data"]))
        body = data.draw(st.sampled_from(makers))(data).replace(b'"message"', b'"delta"')
        lines.append(name + body + data.draw(st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n", b"\r", b""])))
    return b"".join(lines) + data.draw(st.sampled_from([b"data: [DONE]\n\n", b"data: [DONE]", b""]))


KINDS: list[Callable[[st.DataObject], bytes]] = [
    any_bytes, any_json, any_node_by_anything, any_node_by_what_is_hardly_json, any_name_said_twice,
    any_damage, any_events,
]  # fmt: skip


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(DEFAULT // len(DIALECTS), id="some"),
        pytest.param(NIGHTLY, id="many", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_no_answer_makes_a_dialect_raise(
    dialect: Dialect, kind: Callable[[st.DataObject], bytes], examples: int
) -> None:
    @settings(
        max_examples=-(-examples // len(KINDS)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data(), statuses, headers, st.sampled_from(Expect))
    def read(data: st.DataObject, status: int, sent: dict[str, str], expect: Expect) -> None:
        holds(dialect, status, sent, kind(data), expect)

    read()


SMALL = [raw for raw in RAW if len(raw) < 10_000]
RICH = [
    EXAMPLES[name].body
    for name in (
        "Markdown with a data URL, usage without image tokens", "message.images with cost",
        "content parts, image_url", "Gemini's own body on chat", "Images API, output that is not split",
        "Google's shape, a day's quota with a delay of seconds",
    )
]  # fmt: skip


def each_node_replaced(body: str, value: str) -> Iterator[str]:
    root = [json.loads(body)]
    open_: list[Any] = [root]
    while open_:
        place = open_.pop()
        for key in list(place) if isinstance(place, dict) else range(len(place)):
            kept, place[key] = place[key], value
            yield json.dumps(root[0])
            place[key] = kept
            if isinstance(kept, dict | list):
                open_.append(kept)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_what_is_hardly_json_is_read_wherever_it_stands_in_an_answer(dialect: Dialect) -> None:
    for body in RICH:
        for holed in each_node_replaced(body, _HOLE):
            for raw in SMALL:
                holds(dialect, 200, {}, encoded(holed.replace(json.dumps(_HOLE), raw)), Expect.TEXT)


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_what_is_hardly_json_is_read_where_answers_begin(dialect: Dialect, raw: str) -> None:
    for body in ("%s", '{"choices":%s}', '{"data":[{"b64_json":%s}]}', '{"candidates":[%s]}', '{"error":%s}'):
        for status in (200, 400):
            holds(dialect, status, {}, encoded(body % raw), Expect.IMAGE)
