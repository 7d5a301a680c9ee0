"""Gemini's own format: what a row asks for stands where Google documents it; its answers are read in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.client import Answer
from batchgen.dialects import DIALECTS, gemini
from batchgen.dialects.messages import conversation
from batchgen.records import (
    Attached,
    EncodedImage,
    ErrorClass,
    Expect,
    Failure,
    Generation,
    ImageOptions,
    Params,
    ReportedUsage,
    Turn,
)
from tests.test_chat import JPEG, NOW, PNG, b64, data_url, task
from tests.test_client import Sending, answering, chunked, client

if TYPE_CHECKING:
    from collections.abc import Sequence

PICTURES = {"responseModalities": ["TEXT", "IMAGE"]}


def asked(
    *attached: Attached,
    options: ImageOptions = ImageOptions.GOOGLE,
    expect: Expect = Expect.IMAGE,
    **changes: object,
) -> dict[str, Any]:
    request = gemini.request(task(expect=expect, **changes), attached, options=options, stream=False)
    body: dict[str, Any] = json.loads(b"".join(request.body))
    return body


def config(**params: Any) -> dict[str, Any]:
    found: dict[str, Any] = asked(params=Params(**params))["generationConfig"]
    return found


def contents(messages: Sequence[object], *attached: Attached) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(*attached, messages=json.dumps(messages))["contents"]
    return found


# Requests


def test_the_format_is_one_of_those_that_the_dialect_flag_knows() -> None:
    assert DIALECTS["gemini"] is gemini


def test_a_request_holds_the_prompt_and_nothing_that_was_not_given() -> None:
    request = gemini.request(task(), (), options=ImageOptions.NONE, stream=False)
    assert request.content_type == "application/json"
    assert json.loads(b"".join(request.body)) == {
        "contents": [{"role": "user", "parts": [{"text": "a sunset"}]}],
        "generationConfig": PICTURES,
    }


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-pro-image", "/models/gemini-3-pro-image"),
        ("google/gemini-3-pro-image", "/models/gemini-3-pro-image"),
        ("models/gemini-3-pro-image", "/models/gemini-3-pro-image"),
        ("a b/c?d#e:ü", "/models/a%20b%2Fc%3Fd%23e%3A%C3%BC"),
        ("../../other", "/models/..%2F..%2Fother"),
    ],
)
def test_the_model_and_whether_to_stream_stand_in_the_path(model: str, path: str) -> None:
    one = task(model=model)
    plain = gemini.request(one, (), options=ImageOptions.GOOGLE, stream=False)
    stream = gemini.request(one, (), options=ImageOptions.GOOGLE, stream=True)
    assert plain.path == f"{path}:generateContent"
    assert stream.path == f"{path}:streamGenerateContent?alt=sse"
    assert plain.body == stream.body


def test_every_parameter_goes_under_its_documented_name() -> None:
    assert config(
        temperature=0.0,
        top_p=0.95,
        max_tokens=8192,
        seed=0,
        stop=("END", "."),
        aspect_ratio="16:9",
        image_size="2K",
    ) == {
        **PICTURES,
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        "temperature": 0.0,
        "topP": 0.95,
        "maxOutputTokens": 8192,
        "seed": 0,
        "stopSequences": ["END", "."],
    }


@pytest.mark.parametrize("options", ImageOptions)
def test_shape_and_size_have_their_place_however_chat_completions_is_told(options: ImageOptions) -> None:
    body = asked(options=options, params=Params(aspect_ratio="1:8"))
    assert body["generationConfig"]["imageConfig"] == {"aspectRatio": "1:8"}
    assert gemini.cannot(options) == {}


def test_where_words_are_expected_words_are_asked_for() -> None:
    assert asked(expect=Expect.TEXT)["generationConfig"] == {"responseModalities": ["TEXT"]}


SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "text"}, {"responseMimeType": "text/plain"}),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        (
            {"type": "json_object", "response_schema": {"type": "STRING"}},
            {"responseMimeType": "application/json", "responseSchema": {"type": "STRING"}},
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        ),
        ({"type": "grammar", "grammar": "x"}, {"responseFormat": {"type": "grammar", "grammar": "x"}}),
    ],
)
def test_a_response_format_is_translated_or_left_for_the_endpoint_to_object_to(
    given: object, expected: dict[str, Any]
) -> None:
    assert config(response_format=json.dumps(given)) == {**PICTURES, **expected}


def test_functions_are_declared_with_the_json_schema_they_came_with() -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True},
        },
        {"type": "function", "function": {"name": "g"}},
        {"googleSearch": {}},
    ]
    assert asked(params=Params(tools=json.dumps(tools)))["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "d", "parametersJsonSchema": SCHEMA},
                {"name": "g"},
            ]
        },
        {"googleSearch": {}},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"functionCallingConfig": {"mode": "AUTO"}}),
        ("none", {"functionCallingConfig": {"mode": "NONE"}}),
        ("required", {"functionCallingConfig": {"mode": "ANY"}}),
        (
            {"type": "function", "function": {"name": "f"}},
            {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        ),
        ({"functionCallingConfig": {"mode": "VALIDATED"}}, {"functionCallingConfig": {"mode": "VALIDATED"}}),
    ],
)
def test_a_tool_choice_says_which_functions_may_be_called(choice: object, expected: object) -> None:
    assert asked(params=Params(tool_choice=json.dumps(choice)))["toolConfig"] == expected


def test_extra_is_laid_over_the_body_table_by_table() -> None:
    extra = {"generationConfig": {"topK": 3, "temperature": 1}, "safetySettings": [{"category": "c"}]}
    body = asked(params=Params(temperature=0.5, top_p=0.9, extra=json.dumps(extra)))
    assert body["generationConfig"] == {**PICTURES, "temperature": 1, "topP": 0.9, "topK": 3}
    assert body["safetySettings"] == [{"category": "c"}]


async def test_a_stream_is_asked_for_in_the_address_and_comes_over_a_socket() -> None:
    body = f"data: {json.dumps(ANSWER)}\r\n\r\n".encode()
    asked_for = gemini.request(task(model="a b/c"), (), options=ImageOptions.GOOGLE, stream=True)
    with answering(chunked(body, size=7, content_type="text/event-stream")) as server:
        async with client(f"{server.url}/v1beta") as one, one.post(asked_for, sending=Sending()) as answer:
            assert isinstance(answer, Answer)
            found = gemini.read(answer.status, answer.headers, answer.body, now=NOW)
    assert isinstance(found, Generation)
    assert found.images[-1].data == PNG
    line = server.requests[0].partition(b"\r\n")[0].decode()
    assert line == "POST /v1beta/models/a%20b%2Fc:streamGenerateContent?alt=sse HTTP/1.1"


# Conversations


def test_system_prompt_and_history_go_before_the_prompt() -> None:
    history = (Turn(role="user", text="a cat"), Turn(role="assistant", text="Here."))
    body = asked(system="Paint.", history=history)
    assert body["systemInstruction"] == {"parts": [{"text": "Paint."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "a cat"}]},
        {"role": "model", "parts": [{"text": "Here."}]},
        {"role": "user", "parts": [{"text": "a sunset"}]},
    ]


def test_a_system_message_of_one_s_own_goes_before_what_was_said_on_the_way() -> None:
    history = (Turn(role="user", text="a cat"), Turn(role="assistant", text="Here."))
    own = [{"role": "system", "content": "Paint."}, {"role": "user", "content": "at night"}]
    said = conversation(task(history=history, messages=json.dumps(own)), ())
    assert [turn["content"] for turn in said] == ["Paint.", "a cat", "Here.", "at night"]


def test_references_go_before_the_words_as_they_lie_in_memory() -> None:
    pictures = [
        Attached(mime="image/png", base64=pybase64.b64encode(PNG)),
        Attached(url="https://h/x.png"),
        Attached(mime="image/jpeg", base64=pybase64.b64encode(JPEG)),
    ]
    request = gemini.request(task(), pictures, options=ImageOptions.GOOGLE, stream=False)
    assert [piece for piece in request.body if piece is pictures[0].base64 or piece is pictures[2].base64]
    assert request.body[1] is pictures[0].base64
    assert request.body[3] is pictures[2].base64
    assert json.loads(b"".join(request.body))["contents"] == [
        {
            "role": "user",
            "parts": [
                {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}},
                {"fileData": {"fileUri": "https://h/x.png"}},
                {"inlineData": {"mimeType": "image/jpeg", "data": b64(JPEG)}},
                {"text": "a sunset"},
            ],
        }
    ]


def test_a_conversation_is_translated_turn_by_turn() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": data_url(PNG), "detail": "high"}},
        {"type": "image_url", "image_url": "https://h/x.png"},
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg/%3E"}},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Paint it."},
    ]
    body = asked(messages=json.dumps(messages))
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "And kind."}]}
    assert body["contents"] == [
        {
            "role": "user",
            "parts": [
                {"text": "What is this?"},
                {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}},
                {"fileData": {"fileUri": "https://h/x.png"}},
                {"inlineData": {"mimeType": "image/svg+xml", "data": b64(b"<svg/>")}},
            ],
        },
        {"role": "model", "parts": [{"text": "A cat."}]},
        {"role": "user", "parts": [{"text": "Paint it."}]},
    ]


def test_calls_of_tools_and_their_answers_find_each_other() -> None:
    calls = [
        {
            "id": "a",
            "type": "function",
            "function": {"name": "f", "arguments": '{"x": 1}'},
            "extra_content": {"google": {"thought_signature": "Cs"}},
        },
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "fine"}]},
        {"role": "tool", "tool_call_id": "a", "content": '{"y": 2}'},
    ]
    assert contents(messages, Attached(mime="image/png", base64=b"AAAA")) == [
        {"role": "user", "parts": [{"text": "Go."}]},
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "a", "name": "f", "args": {"x": 1}}, "thoughtSignature": "Cs"},
                {"functionCall": {"id": "b", "name": "g", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "b", "name": "g", "response": {"output": "fine"}}},
                {"functionResponse": {"id": "a", "name": "f", "response": {"y": 2}}},
                {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
            ],
        },
    ]


def test_what_is_no_json_object_is_told_as_what_it_is() -> None:
    broken = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": '}}
    messages = [
        {"role": "assistant", "tool_calls": [broken]},
        {"role": "tool", "tool_call_id": "a", "content": "[1, 2]"},
        {"role": "user", "content": "Go on."},
    ]
    assert contents(messages) == [
        {
            "role": "model",
            "parts": [{"functionCall": {"id": "a", "name": "f", "args": {"arguments": '{"x": '}}}],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "f", "response": {"output": [1, 2]}}},
                {"text": "Go on."},
            ],
        },
    ]


def test_a_part_without_a_counterpart_goes_along_as_it_is() -> None:
    native = {"fileData": {"fileUri": "gs://b/x.png", "mimeType": "image/png"}}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    assert contents([{"role": "user", "content": [native, audio]}]) == [
        {"role": "user", "parts": [native, audio]}
    ]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_prompt_arrives_as_it_was_written(prompt: str) -> None:
    assert asked(prompt=prompt)["contents"][-1]["parts"] == [{"text": prompt}]


# Answers


def read(answer: object, *, status: int = 200, expect: Expect = Expect.IMAGE) -> Generation | Failure:
    return gemini.read(status, {}, json.dumps(answer).encode(), now=NOW, expect=expect)


def good(answer: object, *, expect: Expect = Expect.IMAGE) -> Generation:
    found = read(answer, expect=expect)
    assert isinstance(found, Generation), found
    return found


def bad(answer: object, *, status: int = 200, expect: Expect = Expect.IMAGE) -> Failure:
    found = read(answer, status=status, expect=expect)
    assert isinstance(found, Failure), found
    return found


def candidate(*parts: object, reason: str | None = "STOP", **fields: object) -> dict[str, Any]:
    return {"index": 0, "content": {"role": "model", "parts": list(parts)}, "finishReason": reason, **fields}


def inline(data: bytes, **fields: object) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/jpeg", "data": b64(data)}, **fields}


USAGE = {
    "promptTokenCount": 17,
    "candidatesTokenCount": 1306,
    "thoughtsTokenCount": 210,
    "totalTokenCount": 1533,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 17}],
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
}
ANSWER = {
    "candidates": [
        candidate(
            {"text": "Considering the composition", "thought": True},
            inline(JPEG, thought=True),
            {"text": "Here is your image"},
            inline(PNG, thoughtSignature="CsQB"),
        )
    ],
    "usageMetadata": USAGE,
    "modelVersion": "gemini-2.5-flash-image",
    "responseId": "deO6aLeTE4fYvdIPuIm_kQQ",
}


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_gives_its_picture_its_words_its_thoughts_and_its_tokens(*, streamed: bool) -> None:
    body = json.dumps(ANSWER)
    found = gemini.read(200, {}, (f"data: {body}\r\n\r\n" if streamed else body).encode(), now=NOW)
    assert isinstance(found, Generation)
    assert [(image.data, image.draft) for image in found.images] == [(JPEG, True), (PNG, False)]
    assert found.text == "Here is your image"
    assert found.reasoning == "Considering the composition"
    assert found.finish_reason == "STOP"
    assert found.request_id == "deO6aLeTE4fYvdIPuIm_kQQ"
    assert found.usage == ReportedUsage(
        prompt_tokens=17, completion_tokens=1516, total_tokens=1533, image_tokens=1290
    )


def test_snake_case_is_read_too() -> None:
    part = {"inline_data": {"mime_type": "image/png", "data": b64(PNG)}}
    assert [image.data for image in good({"candidates": [candidate(part)]}).images] == [PNG]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_picture_that_comes_as_a_link_is_the_picture(*, streamed: bool) -> None:
    for part in (
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://h/x.jpg"}},
        {"file_data": {"mime_type": "image/jpeg", "file_uri": "https://h/x.jpg"}},
    ):
        body = json.dumps({"candidates": [candidate({"text": "Here it is"}, part)]})
        found = gemini.read(200, {}, (f"data: {body}\r\n\r\n" if streamed else body).encode(), now=NOW)
        assert isinstance(found, Generation), found
        assert found.images == (EncodedImage(url="https://h/x.jpg"),)
        assert found.text == "Here it is"


@pytest.mark.parametrize(
    ("usage", "completion"),
    [
        # The details are parts of the candidates' tokens, whether or not these are given.
        ({"thoughtsTokenCount": 210}, 1330),
        ({"candidatesTokenCount": 0, "thoughtsTokenCount": 210, "totalTokenCount": 227}, 1330),
        ({"candidatesTokenCount": 1136}, 1136),
        ({"candidatesTokenCount": 1136, "thoughtsTokenCount": 210, "totalTokenCount": 1153}, 1346),
    ],
)
def test_what_the_details_count_is_in_the_sum(usage: dict[str, int], completion: int) -> None:
    details: dict[str, Any] = {
        "promptTokenCount": 1137,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 17},
            {"modality": "IMAGE", "tokenCount": 560},
            {"modality": "IMAGE", "tokenCount": 560},
        ],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
    } | usage
    found = good({"candidates": [candidate(inline(PNG))], "usageMetadata": details}).usage
    assert found is not None
    assert (found.completion_tokens, found.image_tokens) == (completion, 1120)
    assert (found.prompt_tokens, found.input_image_tokens) == (1137, 1120)


def test_function_calls_become_tool_calls_with_what_is_needed_to_go_on() -> None:
    parts = [
        {
            "functionCall": {"name": "f", "args": {"x": [1, "ü"], "y": {"data": "lifted-0"}}},
            "thoughtSignature": "Cs",
        },
        {"functionCall": {"id": "7", "name": "g"}},
    ]
    found = good({"candidates": [candidate(*parts)]}, expect=Expect.TEXT)
    first, second = json.loads(found.tool_calls or "")
    assert json.loads(first["function"].pop("arguments")) == {"x": [1, "ü"], "y": {"data": "lifted-0"}}
    assert first == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "f"},
        "extra_content": {"google": {"thought_signature": "Cs"}},
    }
    assert second == {"id": "7", "type": "function", "function": {"name": "g", "arguments": "{}"}}


def test_a_call_goes_out_again_as_it_came() -> None:
    came = {"functionCall": {"id": "7", "name": "f", "args": {"x": 1}}, "thoughtSignature": "Cs"}
    found = good({"candidates": [candidate(came)]}, expect=Expect.TEXT)
    message = {"role": "assistant", "content": None, "tool_calls": json.loads(found.tool_calls or "")}
    assert contents([message, {"role": "user", "content": "Go on."}])[0]["parts"] == [came]


def test_a_large_picture_among_the_arguments_of_a_call_stays_there() -> None:
    arguments = {"image": {"data": b64(PNG)}, "url": data_url(PNG)}
    found = good(
        {"candidates": [candidate({"functionCall": {"name": "f", "args": arguments}})]}, expect=Expect.TEXT
    )
    assert found.images == ()
    assert json.loads(json.loads(found.tool_calls or "")[0]["function"]["arguments"]) == arguments


@pytest.mark.parametrize("candidates", [{}, {"candidates": None}, {"candidates": []}])
def test_a_blocked_prompt_is_blocked_and_its_tokens_count(candidates: dict[str, Any]) -> None:
    feedback = {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "Not that."}
    found = bad({**candidates, "promptFeedback": feedback, "usageMetadata": {"promptTokenCount": 9}})
    assert found.kind is ErrorClass.BLOCKED
    assert found.message == "the model or its filter refused (finish reason PROHIBITED_CONTENT): Not that."
    assert found.usage == ReportedUsage(prompt_tokens=9)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("SAFETY", ErrorClass.BLOCKED),
        ("IMAGE_SAFETY", ErrorClass.BLOCKED),
        ("IMAGE_PROHIBITED_CONTENT", ErrorClass.BLOCKED),
        ("IMAGE_RECITATION", ErrorClass.BLOCKED),
        ("MAX_TOKENS", ErrorClass.LENGTH),
        ("NO_IMAGE", ErrorClass.NO_IMAGE),
        ("IMAGE_OTHER", ErrorClass.NO_IMAGE),
        ("MALFORMED_FUNCTION_CALL", ErrorClass.NO_IMAGE),
        ("STOP", ErrorClass.NO_IMAGE),
    ],
)
def test_without_a_picture_the_reason_and_its_remark_are_told(reason: str, kind: ErrorClass) -> None:
    found = bad({"candidates": [candidate(reason=reason, finishMessage="Try again.")]})
    assert found.kind is kind
    assert found.message.endswith(f"(finish reason {reason}): Try again.")


def test_words_are_enough_where_words_are_expected() -> None:
    answer = {"candidates": [candidate({"text": '{"a": 1}'})]}
    assert good(answer, expect=Expect.TEXT).text == '{"a": 1}'
    assert bad(answer).kind is ErrorClass.NO_IMAGE


def test_an_error_of_googles_is_read() -> None:
    error = {"code": 404, "message": "models/x is not found for API version v1beta", "status": "NOT_FOUND"}
    assert bad({"error": error}, status=404).kind is ErrorClass.MODEL


@given(
    at=st.integers(11, 2000),
    junk=st.sampled_from(["", "", "=", "-", "%2B", "\n", ")", "\\", "ü"]),
    name=st.sampled_from(["data", "data ", "b64_json"]),
    blank=st.sampled_from(["", " ", "\n"]),
)
def test_large_base64_means_the_same_whether_it_is_decoded_before_the_json_or_after(
    at: int, junk: str, name: str, blank: str
) -> None:
    payload = b64(PNG + bytes(300))
    data = f"{payload[:at]}{junk}{payload[at:]}"
    parts = [{"inlineData": {"mimeType": "image/png", name: data}}, {"text": "a"}]
    body = json.dumps({"candidates": [candidate(*parts)]}).replace('": "', f'"{blank}:{blank}"').encode()
    later = body.replace(b"iVBORw0KGgo", b"\\u0069VBORw0KGgo")
    assert later != body
    assert gemini.read(200, {}, body, now=0) == gemini.read(200, {}, later, now=0)
