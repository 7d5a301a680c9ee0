"""A streamed answer is read as the one that would have come whole, however it was cut; or as broken off."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.dialects import chat
from batchgen.records import ErrorClass, Expect, Failure, Generation, ReportedUsage
from tests.test_any_answer import sound, values
from tests.test_chat import JPEG, NOW, PNG, b64, completion, data_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
LARGE = PNG + bytes(range(256)) * 8
USAGE = {"prompt_tokens": 4, "completion_tokens": 1359, "total_tokens": 1363}
REPORTED = ReportedUsage(prompt_tokens=4, completion_tokens=1359, total_tokens=1363)


def read(
    body: bytes | str,
    headers: dict[str, str] = EVENTS,
    *,
    status: int = 200,
    expect: Expect = Expect.IMAGE,
) -> Generation | Failure:
    body = body.encode() if isinstance(body, str) else body
    return chat.read(status, headers, bytearray(body), now=NOW, expect=expect)


def good(body: bytes | str, **more: Any) -> Generation:
    found = read(body, **more)
    assert isinstance(found, Generation), found
    return found


def bad(body: bytes | str, **more: Any) -> Failure:
    found = read(body, **more)
    assert isinstance(found, Failure), found
    return found


def events(*chunks: object, done: bool = True) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n" * done


def delta(*, finish_reason: str | None = None, index: int = 0, **fields: object) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


def candidate(*parts: object, **fields: object) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": list(parts), "role": "model"}, "index": 0, **fields}],
        "responseId": "r",
    }


STOP = delta(finish_reason="stop")
PICTURE = {"type": "image_url", "index": 0, "image_url": {"url": data_url(LARGE)}}
NEW_API = (
    delta(role="assistant", content=""),
    delta(content=f"![image]({data_url(LARGE, 'image/jpeg')})"),
    STOP,
    {"id": "chatcmpl-1", "choices": [], "usage": USAGE},
)
"""https://github.com/QuantumNous/new-api sends the whole picture as one piece of the content."""
OPENROUTER = (
    delta(role="assistant", content=None, images=[PICTURE]) | {"usage": None},
    delta(finish_reason="stop") | {"usage": USAGE},
)
"""https://openrouter.ai/docs/guides/overview/multimodal/image-generation"""
CUMULATIVE = tuple(
    chunk | {"usage": {"prompt_tokens": 4, "completion_tokens": count, "total_tokens": 4 + count}}
    for chunk, count in zip((*NEW_API[:2], STOP), (0, 700, 1359), strict=True)
)
NATIVE = (
    candidate({"text": "Considering", "thought": True}),
    candidate({"inlineData": {"mimeType": "image/png", "data": b64(LARGE)}, "thoughtSignature": "Cs"}),
    candidate({"text": ""}, finishReason="STOP")
    | {"usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 1359, "totalTokenCount": 1363}},
)
"""https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent"""
IMAGES_API = (
    {"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": b64(PNG)},
    {
        "type": "image_generation.completed",
        "b64_json": b64(LARGE),
        "usage": {"input_tokens": 4, "output_tokens": 1359, "total_tokens": 1363},
    },
)
"""https://platform.openai.com/docs/api-reference/images-streaming"""
STREAMS = {"new-api": NEW_API, "openrouter": OPENROUTER, "usage everywhere": CUMULATIVE, "native": NATIVE}
streams = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)


def is_the_picture(found: Generation) -> None:
    assert [(image.data, image.draft) for image in found.images] == [(LARGE, False)]
    assert found.text == ""
    assert found.usage == REPORTED


# Whose streams


@streams
@pytest.mark.parametrize("done", [True, False])
def test_each_gateways_stream_gives_its_picture_and_its_last_count(stream: Any, *, done: bool) -> None:
    found = good(events(*stream, done=done))
    is_the_picture(found)
    assert found.finish_reason in {"stop", "STOP"}
    assert found.request_id in {"chatcmpl-1", "r"}


def test_the_images_api_s_stream_gives_its_picture_and_previews_are_none() -> None:
    found = good(events(*IMAGES_API, done=False))
    assert [(image.data, image.draft) for image in found.images] == [(LARGE, False)]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.image_tokens) == (4, 1359)
    assert bad(events(*IMAGES_API[:1], done=False)).kind is ErrorClass.UNCERTAIN
    failed = {"type": "error", "error": {"code": 500, "message": "The server had an error."}}
    assert bad(events(IMAGES_API[0], failed, done=False)).kind is ErrorClass.UNCERTAIN


@streams
@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}, EVENTS])
@pytest.mark.parametrize("opening", ["", "\ufeff", "\n\n", ": OPENROUTER PROCESSING\n\n", "event: message\n"])
def test_a_stream_is_known_by_its_first_line_whatever_its_label(
    stream: Any, headers: dict[str, str], opening: str
) -> None:
    is_the_picture(good(opening + events(*stream), headers=headers))


@pytest.mark.parametrize("opening", ["", "\ufeff", " \n"])
def test_plain_json_is_read_as_ever_where_a_stream_was_asked_for_and_labelled(opening: str) -> None:
    is_the_picture(good(opening + json.dumps(completion(data_url(LARGE)) | {"usage": USAGE})))


def test_a_page_that_is_labelled_a_stream_is_an_unreadable_answer() -> None:
    assert bad("<html><h1>It works!</h1></html>").kind is ErrorClass.BAD_ANSWER


def test_a_stream_without_a_label_and_of_an_unknown_field_is_read_by_its_label() -> None:
    is_the_picture(good("mood: fine\n\n" + events(*NEW_API)))


def test_chunks_that_came_as_one_array_are_read_as_a_stream() -> None:
    is_the_picture(good(json.dumps(NATIVE), headers={"content-type": "application/json"}))
    broken = bad(json.dumps(NATIVE[:2]), headers={})
    assert broken.kind is ErrorClass.UNCERTAIN


def test_a_whole_completion_in_one_event_is_read() -> None:
    is_the_picture(good(events(completion(data_url(LARGE)) | {"usage": USAGE})))


def test_events_with_no_empty_line_between_them_are_told_apart() -> None:
    is_the_picture(good(events(*NEW_API).replace("\n\n", "\n")))


def test_an_event_may_span_lines() -> None:
    lines = "\n".join(f"data:{line}" for line in json.dumps(NEW_API[1], indent=1).splitlines())
    is_the_picture(good(f"{lines}\n\n{events(*NEW_API[2:])}"))


@pytest.mark.parametrize(
    "alive", [": ping\n", ":\n", "data:\n\n", "data: ping\n\n", "event: ping\ndata: {}\n\n", "\n", "id: 7\n"]
)
def test_what_keeps_a_connection_alive_says_nothing(alive: str) -> None:
    parts = events(*NEW_API).split("\n\n")
    is_the_picture(good(alive + "".join(f"{part}\n\n{alive}" for part in parts)))


def test_a_stream_whose_last_line_has_no_end_is_whole() -> None:
    is_the_picture(good(events(*NEW_API).removesuffix("data: [DONE]\n\n").rstrip("\n")))


# How a stream breaks off


@streams
def test_wherever_a_stream_breaks_off_before_its_finish_it_may_have_been_billed(stream: Any) -> None:
    body = events(*stream, done=False)
    ends = body.index('"finish_reason": "stop"') if "choices" in stream[0] else body.index("finishReason")
    whole = body.index("\n\n", ends)
    for cut in [*range(6, 400), *range(400, ends, 97), *range(ends, len(body))]:
        found = read(body[:cut])
        if cut < whole:
            assert isinstance(found, Failure)
            assert found.kind is ErrorClass.UNCERTAIN
            assert found.message.startswith("the stream broke off before its end")
        else:
            assert isinstance(found, Generation)


def test_an_empty_stream_may_have_been_billed() -> None:
    assert bad("").kind is ErrorClass.UNCERTAIN
    assert bad(": ping\n\n: ping\n\n").kind is ErrorClass.UNCERTAIN


def test_an_empty_answer_that_is_no_stream_is_an_unreadable_one() -> None:
    assert bad("", headers={}).kind is ErrorClass.BAD_ANSWER


def test_the_mark_at_the_end_is_enough_without_a_finish_reason() -> None:
    is_the_picture(good(events(*NEW_API[:2], NEW_API[3])))
    assert bad(events(*NEW_API[:2], NEW_API[3], done=False)).kind is ErrorClass.UNCERTAIN


def test_what_was_counted_and_said_before_a_stream_broke_off_is_told() -> None:
    found = bad(events(delta(content="Let me ") | {"usage": USAGE}, delta(content="see"), done=False))
    assert found.usage == REPORTED
    assert found.text == "Let me see"
    assert found.message == "the stream broke off before its end: Let me see"
    assert found.request_id == "chatcmpl-1"


def test_behind_an_event_that_cannot_be_read_nothing_is_believed() -> None:
    broken = events(delta(content="a"), done=False) + "data: {oops\n\n" + events(STOP)
    assert bad(broken).kind is ErrorClass.UNCERTAIN


# Errors in mid-stream


@pytest.mark.parametrize(
    "chunk",
    [
        {"error": {"code": 503, "message": "Provider returned error"}},
        {"error": {"code": 503, "message": "Provider returned error"}, "choices": []},
        {
            "choices": [
                {"index": 0, "delta": {}, "error": {"code": 503, "message": "Provider returned error"}}
            ]
        },
        {"choices": [{"error": {"code": 503, "message": "Provider returned error"}}]},
        [{"error": {"code": 503, "message": "Provider returned error", "status": "UNAVAILABLE"}}],
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_an_error_behind_pieces_of_an_answer_may_have_been_billed(chunk: object, *, done: bool) -> None:
    for pieces in (NEW_API[:1], NEW_API[:2], NATIVE[:1], OPENROUTER[:1]):
        found = bad(events(*pieces, chunk, done=done))
        assert found.kind is ErrorClass.UNCERTAIN
        assert found.message == "the stream broke off with an error: Provider returned error"
    assert bad(": PROCESSING\n\n" + events(chunk, done=done)).kind is ErrorClass.TRANSIENT


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (429, ErrorClass.UNCERTAIN),
        ("model_not_found", ErrorClass.UNCERTAIN),
        (401, ErrorClass.AUTH),
        (402, ErrorClass.CREDITS),
        ("content_filter", ErrorClass.BLOCKED),
    ],
)
def test_what_stops_a_run_or_a_row_does_so_in_mid_stream_too(code: object, kind: ErrorClass) -> None:
    error = {"code": code, "message": "no"} | ({"status": 503} if code == "model_not_found" else {})
    assert bad(events(*NEW_API[:2], {"error": error})).kind is kind


def test_a_bare_complaint_is_what_ended_a_stream_unless_it_went_on_to_its_end() -> None:
    complaint = {"code": 503, "message": "Provider returned error"}
    assert bad(events(complaint, done=False)).kind is ErrorClass.TRANSIENT
    assert bad(events(*NEW_API[:2], complaint, done=False)).message.endswith("error: Provider returned error")
    is_the_picture(good(events(NEW_API[0], complaint, *NEW_API[1:])))


def test_an_error_after_the_finish_does_not_take_the_picture_away() -> None:
    error = {"code": 500, "message": "no usage"}
    is_the_picture(good(events(*NEW_API, {"error": error})))
    is_the_picture(good(events(*NEW_API, {"choices": [{"index": 0, "error": error}]})))


def test_a_finish_reason_error_is_an_error_without_words_of_its_own() -> None:
    streamed = bad(events(delta(content="Let me"), delta(finish_reason="error")), expect=Expect.TEXT)
    assert streamed.kind is ErrorClass.UNCERTAIN
    assert streamed.text == "Let me"
    whole = bad(json.dumps(completion("Let me", finish_reason="error")), expect=Expect.TEXT)
    assert whole.kind is ErrorClass.TRANSIENT


def test_an_error_status_with_events_says_what_they_say() -> None:
    found = bad(
        events({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down"}}, done=False),
        status=429,
    )
    assert found.kind is ErrorClass.RATE
    assert found.message == "slow down"
    assert bad("data: upstream is gone\n\n", status=502).kind is ErrorClass.TRANSIENT


def test_a_blocked_prompt_in_a_stream_is_blocked() -> None:
    found = bad(events({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, done=False))
    assert found.kind is ErrorClass.BLOCKED


# Tool calls


def call(index: int | None, arguments: str, **fields: object) -> dict[str, Any]:
    numbered = {} if index is None else {"index": index}
    return {**numbered, **fields, "function": {"arguments": arguments} | ({"name": "f"} if fields else {})}


@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, "", id="a"), call(0, '{"x"'), call(0, ": 1}"), call(1, '{"x": ', id="b"), call(1, "2}")],
        [call(0, "", id="a"), call(1, "", id="b"), call(1, '{"x": 2}'), call(0, '{"x": 1}')],
        [call(0, '{"x": 1}', id="a"), call(0, '{"x": 2}', id="b")],
        [call(None, '{"x": 1}', id="a"), call(None, '{"x": ', id="b"), call(None, "2}")],
        [call(0, '{"x": ', id="a"), call(0, "1}", id="a"), call(1, '{"x": 2}', id="b")],
    ],
    ids=["in turn", "interleaved", "all number 0", "not numbered", "id repeated"],
)
def test_tool_calls_are_joined_from_their_pieces(pieces: list[dict[str, Any]]) -> None:
    stream = events(*(delta(tool_calls=[piece]) for piece in pieces), delta(finish_reason="tool_calls"))
    calls = json.loads(good(stream, expect=Expect.TEXT).tool_calls or "")
    assert calls == [
        {"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "function": {"name": "f", "arguments": '{"x": 2}'}},
    ]


# However it is cut


def pieces_of(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)] or [""]


WORDS = st.sampled_from(
    ["Here. ", "\n", "ü€😀", "lifted-0", ") ", '"', "](", "A" * 50, "data:", "\\n", "a [1] "]
)
SEGMENTS = st.one_of(
    WORDS,
    st.sampled_from([f"![image]({data_url(data)})" for data in (PNG, JPEG, LARGE)]),
    st.sampled_from([f"![a](<{data_url(LARGE)}>)", f'<img src="{data_url(LARGE)}">', data_url(LARGE) + "\n"]),
    st.sampled_from([f"![a]({data_url(LARGE)}", data_url(LARGE), b64(LARGE), "![a](https://h/x.png)"]),
)
CUTS = st.lists(st.integers(0, 4000), max_size=6)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
ALIVE = st.lists(st.sampled_from(["", "", ": ping", "event: message", "id: 1"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    "content", [f"![image]({data_url(LARGE)}) Done.", data_url(LARGE), f'<img src="{data_url(LARGE)}">']
)
@pytest.mark.parametrize("second", [1, 1200])
def test_a_data_url_may_be_cut_anywhere(content: str, second: int) -> None:
    whole = chat.read(200, {}, json.dumps(completion(content)).encode(), now=NOW)
    for first in range(0, len(content) - second, 3):
        pieces = pieces_of(content, [first, first + second])
        stream = events(*(delta(content=piece) for piece in pieces), STOP)
        assert read(stream) == whole, first


def wired(chunks: Sequence[object], line_end: str, alive: Sequence[str], indent: int | None) -> bytes:
    lines = []
    for number, chunk in enumerate(chunks):
        lines += [line for line in [alive[number % len(alive)]] if line]
        text = json.dumps(chunk, indent=indent, ensure_ascii=bool(number % 2))
        lines += [f"data:{' ' * (number % 3 < 2)}{line}" for line in text.split("\n")]
        lines.append("")
    return (line_end.join(lines) + line_end).encode()


@settings(max_examples=150, deadline=None)
@given(
    segments=st.lists(SEGMENTS, max_size=4),
    thoughts=st.lists(SEGMENTS, max_size=2),
    arguments=st.lists(st.sampled_from(['{"a": "', "ü", '\\"}', "1"]), max_size=4),
    images=st.lists(st.sampled_from([PNG, JPEG, LARGE]), max_size=2),
    cuts=st.tuples(CUTS, CUTS, CUTS),
    line_end=LINE_ENDS,
    alive=ALIVE,
    indent=st.sampled_from([None, 0]),
    finish=st.sampled_from(["stop", "length", "content_filter", "image_safety"]),
    expect=st.sampled_from(Expect),
)
def test_a_stream_reads_the_same_as_the_whole_however_it_is_cut(
    *,
    segments: list[str],
    thoughts: list[str],
    arguments: list[str],
    images: list[bytes],
    cuts: tuple[list[int], list[int], list[int]],
    line_end: str,
    alive: list[str],
    indent: int | None,
    finish: str,
    expect: Expect,
) -> None:
    content, reasoning, given = "".join(segments), "".join(thoughts), "".join(arguments)
    pictures = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in images]
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": given}}
    whole = completion(
        content, finish_reason=finish, reasoning_content=reasoning, images=pictures, tool_calls=[called]
    ) | {"usage": USAGE}
    first = called | {"index": 0, "function": {"name": "f", "arguments": ""}}
    chunks = [
        delta(role="assistant", content=""),
        *(delta(reasoning_content=piece) for piece in pieces_of(reasoning, cuts[0])),
        delta(tool_calls=[first]),
        *(delta(images=[picture]) for picture in pictures),
        *(delta(content=piece) for piece in pieces_of(content, cuts[1])),
        *(
            delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}])
            for piece in pieces_of(given, cuts[2])
        ),
        delta(finish_reason=finish),
        {"choices": [], "usage": USAGE},
    ]
    streamed = read(wired(chunks, line_end, alive, indent), expect=expect)
    assert streamed == read(json.dumps(whole), {}, expect=expect)


PARTS: st.SearchStrategy[tuple[dict[str, Any], str | None]] = st.one_of(
    st.tuples(st.just({}), st.lists(WORDS, min_size=1, max_size=3).map("".join)),
    st.tuples(st.just({"thought": True}), st.lists(WORDS, min_size=1, max_size=3).map("".join)),
    st.sampled_from([PNG, JPEG, LARGE]).map(
        lambda data: ({"inlineData": {"mimeType": "image/png", "data": b64(data)}}, None)
    ),
    st.just(({"functionCall": {"name": "f", "args": {"x": [1, "ü"]}}, "thoughtSignature": "Cs"}, None)),
)


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(PARTS, max_size=6),
    cuts=st.lists(CUTS, min_size=1, max_size=3),
    line_end=LINE_ENDS,
    alive=ALIVE,
    together=st.booleans(),
    expect=st.sampled_from(Expect),
)
def test_a_native_stream_reads_the_same_as_the_whole_however_it_is_cut(
    parts: list[tuple[dict[str, Any], str | None]],
    cuts: list[list[int]],
    line_end: str,
    alive: list[str],
    expect: Expect,
    *,
    together: bool,
) -> None:
    whole: list[dict[str, Any]] = []
    pieces: list[dict[str, Any]] = []
    for number, (form, text) in enumerate(parts):
        if text is None:
            whole.append(form)
            pieces.append(form)
        elif not whole or {**whole[-1], "text": ""} != {**form, "text": ""}:  # else it would be one part
            whole.append({**form, "text": text})
            pieces += [{**form, "text": piece} for piece in pieces_of(text, cuts[number % len(cuts)])]
    chunks = [candidate(piece) for piece in pieces] or [candidate()]
    if together and len(chunks) > 1:
        chunks[-2:] = [candidate(*pieces[-2:])] if pieces[-2].keys() != pieces[-1].keys() else chunks[-2:]
    chunks.append(candidate(finishReason="STOP") | {"usageMetadata": {"promptTokenCount": 3}})
    answer = candidate(*whole, finishReason="STOP") | {"usageMetadata": {"promptTokenCount": 3}}
    assert read(wired(chunks, line_end, alive, None), expect=expect) == read(
        json.dumps(answer), {}, expect=expect
    )


def test_texts_that_stand_apart_in_one_event_stay_apart() -> None:
    parts = [{"text": "a"}, {"text": "b"}]
    stream = events(candidate(*parts), candidate({"text": "c"}, finishReason="STOP"), done=False)
    assert good(stream, expect=Expect.TEXT).text == "a\nbc"


# Hostile input

TOOLS = (delta(tool_calls=[call(0, "", id="a")]), delta(tool_calls=[call(0, "{}")]), STOP)
LINES = st.one_of(
    st.sampled_from(["data: [DONE]", "data:", "", ": x", "event: error", "data: {", "data", "data: [", "\r"]),
    values.map(lambda value: f"data: {json.dumps(value)}"),
    st.sampled_from([f"data: {json.dumps(chunk)}" for chunk in (*NEW_API, *NATIVE, *TOOLS)]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(LINES, max_size=4), st.sampled_from(["\n", "\n\n", "\r\n\r\n", "\r"]))
def test_any_events_are_read_without_raising(lines: list[str], line_end: str) -> None:
    for status in (200, 500):
        sound(read("data: {}\n\n" + line_end.join(lines), status=status), Expect.IMAGE)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*STREAMS.values(), TOOLS]), values, st.data(), st.sampled_from(Expect))
def test_a_good_stream_with_anything_anywhere_is_read_without_raising(
    stream: Sequence[dict[str, Any]], value: object, data: st.DataObject, expect: Expect
) -> None:
    mutated = json.loads(json.dumps(stream))
    place: Any = mutated
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    found = read(events(*mutated), expect=expect)
    sound(found, expect)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"data: ", b"data:{", b": ", b"\xef\xbb\xbfdata:"]), st.binary(max_size=100))
def test_any_bytes_of_a_stream_are_read_without_raising(opening: bytes, body: bytes) -> None:
    sound(read(opening + body), Expect.IMAGE)


def test_a_lone_surrogate_in_a_tool_call_does_no_harm() -> None:
    body = events(delta(tool_calls=[call(0, "", id="a")])).replace('"a"', '"\\ud800"')
    assert "\\ud800" in body
    found = good(body, expect=Expect.TEXT)
    json.loads(found.tool_calls or "")
    (found.tool_calls or "").encode()


@pytest.mark.parametrize(
    "body",
    [
        b"\n" * 10_000_000,
        b":\n" * 5_000_000,
        b"data:\n" * 500_000,
        b"data: {}\n\n" * 100_000,
        b"data: {\n" * 300_000,
        b"data:" * 2_000_000,
        b"data: " + b"[" * 5_000_000,
        b"\r" * 2_000_000,
        b'data: {"choices":[{"delta":{"content":[{}]}}]}\n\n' * 20_000,
        b'data: {"choices":[{"index":1,"delta":{"tool_calls":[{}]}}]}\n\n' * 20_000,
    ],
    ids=range(10),
)
def test_hostile_streams_are_read_in_linear_time(body: bytes) -> None:
    sound(read(body), Expect.IMAGE)


# A picture of megabytes in one line


@pytest.mark.parametrize(
    "chunks",
    [
        lambda url, _: [delta(content=f"![image]({url})")],
        lambda url, _: [delta(content="![image]("), delta(content=url), delta(content=")")],
        lambda url, _: [delta(content=url)],
        lambda url, _: [delta(images=[{"image_url": {"url": url}}])],
        lambda _, bare: [candidate({"inlineData": {"mimeType": "image/png", "data": bare}})],
    ],
    ids=["markdown", "markdown in pieces", "bare", "images", "native"],
)
def test_a_large_picture_in_one_line_is_decoded_from_where_it_lies(
    chunks: Callable[[str, str], list[dict[str, Any]]],
) -> None:
    picture = PNG + bytes(9_000_000)
    bare = b64(picture)
    body = bytearray(events(*chunks(f"data:image/png;base64,{bare}", bare), STOP).encode())
    tracemalloc.start()
    try:
        found = chat.read(200, EVENTS, body, now=NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, Generation)
    assert [image.data for image in found.images] == [picture]
    assert peak < len(picture) * 1.2, "it was copied, or became a string"
