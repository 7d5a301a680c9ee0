"""Every shape in which gateways send pictures, refusals and errors is read, and nothing hostile raises."""

from __future__ import annotations

import base64
import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.dialects import chat
from batchgen.records import (
    Attached,
    ErrorClass,
    Failure,
    Generation,
    ImageOptions,
    Params,
    ReportedUsage,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(255, -1, -1)) * 4
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"webp" * 10
GIF = b"GIF89a" + b"gif" * 10
HEIC = b"\x00\x00\x00\x18ftypheic" + b"heic" * 10
AVIF = b"\x00\x00\x00\x18ftypavif" + b"avif" * 10
NOW = 1_800_000_000.0


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{b64(data)}"


def completion(content: object = None, *, finish_reason: object = "stop", **fields: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **fields}
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


def read(answer: object, *, status: int = 200, **headers: str) -> Generation | Failure:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return chat.read(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, body, now=NOW
    )


def good(answer: object) -> Generation:
    result = read(answer)
    assert isinstance(result, Generation), result
    return result


def bad(answer: object, *, status: int = 200, **headers: str) -> Failure:
    result = read(answer, status=status, **headers)
    assert isinstance(result, Failure), result
    return result


def pictures(answer: object) -> list[tuple[bytes | str | None, bool]]:
    return [(image.data or image.url, image.draft) for image in good(answer).images]


def task(**changes: object) -> Task:
    fields: dict[str, Any] = {
        "key": "k", "id": "1", "variant": 1, "name": "n", "model": "gemini-3-pro-image-preview",
        "prompt": "a sunset",
    }  # fmt: skip
    return Task(**(fields | changes))


# Requests


def written(
    one: Task, *attached: Attached, options: ImageOptions = ImageOptions.NONE, stream: bool = False
) -> bytes:
    return b"".join(chat.request(one, attached, options=options, stream=stream).body)


def test_a_request_holds_the_model_and_the_prompt_and_nothing_that_was_not_given() -> None:
    assert json.loads(written(task())) == {
        "model": "gemini-3-pro-image-preview",
        "messages": [{"role": "user", "content": "a sunset"}],
    }


def test_a_system_prompt_goes_first_and_parameters_go_under_their_documented_names() -> None:
    params = Params(temperature=0.0, top_p=0.95, max_tokens=4096)
    assert json.loads(written(task(system="Paint.", params=params))) == {
        "model": "gemini-3-pro-image-preview",
        "messages": [{"role": "system", "content": "Paint."}, {"role": "user", "content": "a sunset"}],
        "max_tokens": 4096,
        "temperature": 0.0,
        "top_p": 0.95,
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_prompt_arrives_as_it_was_written(prompt: str) -> None:
    assert json.loads(written(task(prompt=prompt)))["messages"][-1]["content"] == prompt


# Shapes of pictures

SHAPES: dict[str, dict[str, Any]] = {
    "markdown": completion(f"Here.\n![image]({data_url(PNG)})"),
    "markdown with a title": completion(f'Here.\n![image]({data_url(PNG)} "a title")'),
    "markdown in angle brackets": completion(f"Here.\n![image](<{data_url(PNG)}>)"),
    "markdown cut off": completion(f"Here.\n![image]({data_url(PNG)}"),
    "data URL in prose": completion(f"Here.\n{data_url(PNG)}\n"),
    "data URL in HTML": completion(f'Here.\n<img src="{data_url(PNG)}">'),
    "message.images": completion(
        "Here.",
        images=[{"type": "image_url", "index": 0, "image_url": {"url": data_url(PNG), "detail": "auto"}}],
    ),
    "message.image": completion("Here.", image={"url": data_url(PNG), "detail": "auto"}),
    "images[].base64": completion("Here.", images=[{"base64": b64(PNG)}]),
    "images[].b64_json": completion("Here.", images=[{"b64_json": b64(PNG)}]),
    "images[] of strings": completion("Here.", images=[data_url(PNG)]),
    "part image_url object": completion(
        [{"type": "text", "text": "Here."}, {"type": "image_url", "image_url": {"url": data_url(PNG)}}]
    ),
    "part image_url string": completion(["Here.", {"type": "image_url", "image_url": data_url(PNG)}]),
    "part image base64": completion(
        [
            {"type": "text", "text": "Here."},
            {"type": "image", "image": {"base64": b64(PNG), "mime_type": "x"}},
        ]
    ),
    "part image url": completion([{"text": "Here."}, {"type": "image", "image": {"url": data_url(PNG)}}]),
    "part source": completion(
        [
            {"type": "text", "text": "Here."},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(PNG)}},
        ]
    ),
    "part output_image": completion(
        [{"type": "output_text", "text": "Here."}, {"type": "output_image", "image_url": data_url(PNG)}]
    ),
    "part image_generation_call": completion(
        [{"type": "text", "text": "Here."}, {"type": "image_generation_call", "result": b64(PNG)}]
    ),
    "part inline_data": completion(
        [{"text": "Here."}, {"inline_data": {"mime_type": "a/b", "data": b64(PNG)}}]
    ),
    "part inlineData": completion(
        [
            {"text": "Here."},
            {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}, "thoughtSignature": "Cs"},
        ]
    ),
    "markdown in a text part": completion([{"type": "text", "text": f"Here.\n![image]({data_url(PNG)})"}]),
    "one part that is no array": completion({"type": "text", "text": f"Here.\n![image]({data_url(PNG)})"}),
    "message that is a string": {"choices": {"message": f"Here.\n![image]({data_url(PNG)})"}},
    "native": {
        "candidates": [
            {
                "finishReason": "STOP",
                "content": {
                    "parts": [
                        {"text": "Considering", "thought": True},
                        {"text": "Here."},
                        {
                            "inlineData": {"mimeType": "image/jpeg", "data": b64(PNG)},
                            "thoughtSignature": "Cs",
                        },
                    ]
                },
            }
        ]
    },
}


@pytest.mark.parametrize("answer", SHAPES.values(), ids=SHAPES)
def test_each_shape_gives_its_picture_and_its_text(answer: dict[str, Any]) -> None:
    result = good(answer)
    assert [(image.data, image.draft) for image in result.images] == [(PNG, False)]
    assert result.text.replace('<img src="">', "").strip() == "Here."


@pytest.mark.parametrize(
    "answer",
    [
        completion(data_url(PNG)),
        completion(f" {data_url(PNG)}\n"),
        completion(data_url(PNG, "application/octet-stream")),
        completion(b64(PNG)),
        completion("\n".join(b64(PNG)[at : at + 76] for at in range(0, len(b64(PNG)), 76))),
        completion(None, images=[{"image_url": {"url": data_url(PNG)}}]),
        completion("", images=[{"image_url": {"url": data_url(PNG)}}]),
        {"created": 1, "data": [{"b64_json": b64(PNG)}]},
    ],
)
def test_a_picture_alone_leaves_no_text(answer: dict[str, Any]) -> None:
    result = good(answer)
    assert [image.data for image in result.images] == [PNG]
    assert result.text == ""


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP, GIF, HEIC, AVIF])
def test_the_bytes_decide_what_a_picture_is_and_not_the_declared_type(data: bytes) -> None:
    assert pictures(completion(f"![image]({data_url(data, 'image/png')})")) == [(data, False)]


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        lambda text: text.replace("+", "%2b").replace("/", "%2f").replace("=", "%3d") + "%0D%0A",
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
        lambda text: text + "\r\n",
    ],
)
@pytest.mark.parametrize("data", [PNG, PNG + b"1", PNG + b"12"])
def test_base64_is_read_as_gateways_spell_it(spell: Callable[[str], str], data: bytes) -> None:
    encoded = "data:image/png;base64," + spell(b64(data))
    assert pictures(completion(f"![image]({encoded})")) == [(data, False)]
    assert pictures(completion(None, images=[encoded])) == [(data, False)]
    assert pictures(completion(encoded)) == [(data, False)]


@given(st.binary(min_size=1, max_size=300))
def test_no_byte_of_a_picture_is_lost(tail: bytes) -> None:
    assert pictures(completion(f"a ![image]({data_url(PNG + tail)}) b")) == [(PNG + tail, False)]


# Several pictures


def test_unmarked_pictures_stay_in_order_so_that_the_last_is_the_picture() -> None:
    content = f"![image]({data_url(PNG)})\nbetter:\n![image]({data_url(JPEG)})"
    assert pictures(completion(content)) == [(PNG, False), (JPEG, False)]
    assert good(completion(content)).text == "better:"


def test_marked_drafts_are_apart_from_the_final_picture() -> None:
    parts = [{"inlineData": {"data": b64(PNG)}, "thought": True}, {"inlineData": {"data": b64(JPEG)}}]
    native = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    assert pictures(completion(parts)) == pictures(native) == [(PNG, True), (JPEG, False)]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_pictures_in_the_reasoning_are_drafts(name: str) -> None:
    answer = completion(data_url(JPEG), **{name: f"Thinking ![image]({data_url(PNG)})"})
    assert pictures(answer) == [(PNG, True), (JPEG, False)]
    assert good(answer).text == ""


def test_when_only_drafts_came_the_last_of_them_is_the_picture() -> None:
    parts = [{"inlineData": {"data": b64(data)}, "thought": True} for data in (PNG, JPEG)]
    assert pictures(completion(parts)) == [(PNG, True), (JPEG, False)]


def test_a_draft_before_a_refusal_is_not_the_picture() -> None:
    answer = completion([{"inlineData": {"data": b64(PNG)}, "thought": True}], finish_reason="image_safety")
    assert bad(answer).kind is ErrorClass.BLOCKED


def test_the_same_picture_counts_once_where_it_last_stands_as_final() -> None:
    content = "".join(f"![image]({data_url(data)})" for data in (PNG, JPEG, PNG))
    assert pictures(completion(content)) == [(JPEG, False), (PNG, False)]
    twice = completion(data_url(PNG), images=[data_url(PNG)], reasoning_content=data_url(PNG))
    assert pictures(twice) == [(PNG, False)]


def test_a_draft_that_repeats_a_final_picture_does_not_make_it_a_draft() -> None:
    parts = [{"inlineData": {"data": b64(PNG)}}, {"inlineData": {"data": b64(PNG)}, "thought": True}]
    assert pictures(completion(parts)) == [(PNG, False)]


# Links


@pytest.mark.parametrize(
    "answer",
    [
        completion("Here: ![image](https://cdn.example/x.png)"),
        completion('Here: ![a cat](https://cdn.example/x.png "title")'),
        completion("Here: ![a cat](<https://cdn.example/x.png>)"),
        completion("Here: [![a cat](https://cdn.example/x.png)](https://example.com)"),
        completion(" https://cdn.example/x.png\n"),
        completion("", images=[{"image_url": {"url": "https://cdn.example/x.png"}}]),
        completion([{"type": "image_url", "image_url": {"url": "https://cdn.example/x.png"}}]),
        {"data": [{"url": "https://cdn.example/x.png"}]},
    ],
)
def test_a_link_that_is_a_picture_by_its_shape_is_one(answer: dict[str, Any]) -> None:
    assert pictures(answer) == [("https://cdn.example/x.png", False)]


def test_parentheses_belong_to_a_link() -> None:
    assert pictures(completion("![a](https://h/a_(1).png?b=(2)) end")) == [
        ("https://h/a_(1).png?b=(2)", False)
    ]


@pytest.mark.parametrize(
    "content",
    [
        "See https://example.com/x.png for more.",
        "[a link](https://example.com/x.png)",
        "![missing](x.png) and [a link](https://example.com/x.png)",
        "![local](file:///etc/passwd)",
        "ftp://example.com/x.png",
        "https://a.example/x.png https://b.example/y.png",
    ],
)
def test_a_link_in_prose_is_no_picture(content: str) -> None:
    failure = bad(completion(content))
    assert failure.kind is ErrorClass.NO_IMAGE
    assert failure.text == content


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "http://", "https://[::1", "javascript:x", ""]
)
def test_only_http_links_are_followed(url: str) -> None:
    assert bad(completion("", images=[{"image_url": {"url": url}}])).kind is ErrorClass.CORRUPT


def test_a_link_counts_only_when_no_picture_came_with_the_answer() -> None:
    answer = completion("![image](https://cdn.example/x.png)", images=[data_url(PNG)])
    assert pictures(answer) == [(PNG, False)]
    draft_only = completion("![image](https://cdn.example/x.png)", reasoning_content=data_url(PNG))
    assert pictures(draft_only) == [(PNG, True), ("https://cdn.example/x.png", False)]


# What is no picture


@pytest.mark.parametrize(
    "answer",
    [
        completion("![image](data:image/png;base64,)"),
        completion("![image](data:image/png;base64,????)"),
        completion("![image](data:image/png;base64,AAAA)"),
        completion("![image](data:image/svg+xml,<svg/>)"),
        completion(f"![image]({data_url(b'<html>not found</html>')})"),
        completion(f"![image]({data_url(b'RIFF....WAVE')})"),
        completion("data:image/png;base64"),
        completion(b64(PNG) + "!"),
        completion("", images=[{"image_url": {"url": "not base64!"}}]),
        {"data": [{"b64_json": ""}]},
    ],
)
def test_what_stands_for_a_picture_and_is_none_is_corrupt(answer: dict[str, Any]) -> None:
    assert bad(answer).kind is ErrorClass.CORRUPT


def test_a_broken_picture_beside_a_good_one_is_left_out() -> None:
    assert pictures(completion(f"![a](data:image/png;base64,AAAA) ![b]({data_url(PNG)})")) == [(PNG, False)]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (f"Prose ]({data_url(PNG)}) and more", "Prose ]( and more"),
        (f"A list [1] first.\n![image]({data_url(PNG)})\nEnd.", "A list [1] first.\n\nEnd."),
        (f"[image]({data_url(PNG)}) End.", "End."),
        (f"{data_url(PNG)} Done", "Done"),
        (f"{data_url(PNG)}\nDone", "Done"),
    ],
)
def test_cutting_a_picture_out_loses_no_word(content: str, text: str) -> None:
    result = good(completion(content))
    assert [image.data for image in result.images] == [PNG]
    assert result.text == text


def test_sound_is_no_broken_picture() -> None:
    answer = completion([{"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}])
    assert bad(answer).kind is ErrorClass.NO_IMAGE


def test_prose_that_could_be_base64_is_prose() -> None:
    assert bad(completion("word" * 300)).kind is ErrorClass.NO_IMAGE
    assert bad(completion("/9j/ is how a JPEG begins")).text == "/9j/ is how a JPEG begins"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("SAFETY", ErrorClass.BLOCKED),
        ("Image_Safety", ErrorClass.BLOCKED),
        ("prohibited_content", ErrorClass.BLOCKED),
        ("IMAGE_PROHIBITED_CONTENT", ErrorClass.BLOCKED),
        ("IMAGE_RECITATION", ErrorClass.BLOCKED),
        ("RECITATION", ErrorClass.BLOCKED),
        ("BLOCKLIST", ErrorClass.BLOCKED),
        ("SPII", ErrorClass.BLOCKED),
        ("length", ErrorClass.LENGTH),
        ("MAX_TOKENS", ErrorClass.LENGTH),
        ("max_tokens", ErrorClass.LENGTH),
        ("content_filter", ErrorClass.NO_IMAGE),
        ("NO_IMAGE", ErrorClass.NO_IMAGE),
        ("IMAGE_OTHER", ErrorClass.NO_IMAGE),
        ("OTHER", ErrorClass.NO_IMAGE),
        ("MALFORMED_RESPONSE", ErrorClass.NO_IMAGE),
        ("stop", ErrorClass.NO_IMAGE),
        ("error", ErrorClass.NO_IMAGE),
        (None, ErrorClass.NO_IMAGE),
        (7, ErrorClass.NO_IMAGE),
    ],
)
def test_the_finish_reason_says_why_there_is_no_picture(reason: object, kind: ErrorClass) -> None:
    answer = completion("I can't.", finish_reason=reason) | {
        "usage": {"prompt_tokens": 9, "completion_tokens": 4}
    }
    failure = bad(answer)
    assert failure.kind is kind
    assert failure.text == "I can't."
    assert failure.usage == ReportedUsage(prompt_tokens=9, completion_tokens=4)
    assert failure.http_status == 200
    assert failure.request_id == "chatcmpl-1"
    native = {"candidates": [{"finishReason": reason, "content": {"parts": [{"text": "I can't."}]}}]}
    assert bad(native).kind is kind


def test_the_native_finish_reason_is_believed_beside_a_flattened_one() -> None:
    answer = completion("", finish_reason="stop")
    answer["choices"][0]["native_finish_reason"] = "IMAGE_SAFETY"
    failure = bad(answer)
    assert failure.kind is ErrorClass.BLOCKED
    assert failure.finish_reason == "IMAGE_SAFETY"


def test_a_picture_with_an_unusual_finish_reason_is_a_picture() -> None:
    result = good(completion(data_url(PNG), finish_reason="content_filter"))
    assert result.finish_reason == "content_filter"


@pytest.mark.parametrize("candidates", [{}, {"candidates": None}, {"candidates": []}])
def test_a_blocked_prompt_in_the_native_format_is_blocked(candidates: dict[str, Any]) -> None:
    answer = {
        "promptFeedback": {"blockReason": "OTHER"},
        "usageMetadata": {"promptTokenCount": 5},
        **candidates,
    }
    failure = bad(answer)
    assert failure.kind is ErrorClass.BLOCKED
    assert failure.usage == ReportedUsage(prompt_tokens=5)


@pytest.mark.parametrize(
    "choices", [[], None, [None], ["x"], [5], {}, "x", [[]], [{"message": 5}], [{"message": None}]]
)
def test_an_answer_without_a_message_is_an_answer_without_a_picture(choices: object) -> None:
    failure = bad({"choices": choices, "usage": {"prompt_tokens": 3}})
    assert failure.kind is ErrorClass.NO_IMAGE
    assert failure.usage == ReportedUsage(prompt_tokens=3)


def test_a_refusal_keeps_its_words() -> None:
    assert bad(completion(None, refusal="I won't.")).text == "I won't."
    assert bad(completion([{"type": "refusal", "refusal": "I won't."}])).text == "I won't."


def test_text_can_be_written_to_any_file_and_is_no_undecoded_picture() -> None:
    broken = bad(b'{"choices":[{"message":{"content":"half \\ud83d a pair"}}]}')
    assert broken.text.encode() == b"half ? a pair"
    assert len(bad(completion("word " * 100_000)).text) == 65_536


# Errors


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (
            {"error": {"message": "No candidates returned", "type": "server_error", "code": 500}},
            ErrorClass.TRANSIENT,
        ),
        ({"error": {"code": 502, "message": "Provider returned error"}}, ErrorClass.TRANSIENT),
        ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}}], ErrorClass.RATE),
        (
            {"choices": [{"error": {"code": 504, "message": "Upstream idle timeout exceeded"}}]},
            ErrorClass.TRANSIENT,
        ),
        ({"error": "Insufficient funds"}, ErrorClass.CREDITS),
        ({"error": "RATE_LIMITED", "message": "slow down", "statusCode": 429}, ErrorClass.RATE),
        ({"code": 401, "msg": "bad token"}, ErrorClass.AUTH),
        ({"detail": "what?"}, ErrorClass.BAD_ANSWER),
        ({"message": "The model is overloaded."}, ErrorClass.TRANSIENT),
    ],
)
def test_an_error_in_a_200_is_an_error(answer: object, kind: ErrorClass) -> None:
    assert bad(answer).kind is kind


def test_an_error_beside_a_picture_is_an_error_with_its_usage() -> None:
    answer = completion(data_url(PNG)) | {
        "error": {"code": 502, "message": "x"},
        "usage": {"prompt_tokens": 3},
    }
    failure = bad(answer)
    assert failure.kind is ErrorClass.TRANSIENT
    assert failure.usage == ReportedUsage(prompt_tokens=3)
    assert failure.request_id == "chatcmpl-1"


@pytest.mark.parametrize("error", [None, "", {}, [], False, 0])
def test_an_empty_error_is_none(error: object) -> None:
    assert pictures(completion(data_url(PNG)) | {"error": error}) == [(PNG, False)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"<html>hello</html>",
        b"null",
        b"5",
        b'"text"',
        b"{",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b"[NaN," + b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_a_200_that_is_no_completion_is_a_bad_answer(body: bytes) -> None:
    failure = bad(body)
    assert failure.kind is ErrorClass.BAD_ANSWER
    assert failure.message


@pytest.mark.parametrize("status", [204, 299])
def test_any_2xx_is_read_as_an_answer(status: int) -> None:
    assert isinstance(read(completion(data_url(PNG)), status=status), Generation)
    assert bad(b"", status=status).kind is ErrorClass.BAD_ANSWER


def test_a_picture_in_an_error_status_is_no_picture() -> None:
    answer = completion(data_url(PNG)) | {"usage": {"completion_tokens": 1120}}
    failure = bad(answer, status=500)
    assert failure.kind is ErrorClass.TRANSIENT
    assert failure.usage == ReportedUsage(completion_tokens=1120)


@pytest.mark.parametrize(
    "wrap", ["\ufeff%s", "%s\n\n", '{"x":NaN,%.0s' + json.dumps(completion(data_url(PNG)))[1:]]
)
def test_json_that_is_slightly_wrong_is_read(wrap: str) -> None:
    assert pictures((wrap % json.dumps(completion(data_url(PNG)))).encode()) == [(PNG, False)]


def test_the_request_id_of_a_header_goes_before_that_of_the_body() -> None:
    answer = completion(data_url(PNG))
    assert read(answer, x_request_id="r-1", cf_ray="ray").request_id == "r-1"
    assert read(answer, request_id="r-2").request_id == "r-2"
    assert read(answer, cf_ray="ray").request_id == "chatcmpl-1"
    assert read({"choices": []}, cf_ray="ray").request_id == "ray"
    assert read({"choices": []}).request_id is None


# Usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 16,
                "completion_tokens": 1307,
                "total_tokens": 1323,
                "completion_tokens_details": {},
            },
            ReportedUsage(prompt_tokens=16, completion_tokens=1307, total_tokens=1323),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 1290,
                "cost": 0.0387,
                "completion_tokens_details": {"image_tokens": 1290},
            },
            ReportedUsage(
                prompt_tokens=10, completion_tokens=1290, image_tokens=1290, cost_usd=Decimal("0.0387")
            ),
        ),
        (
            {"input_tokens": "20", "output_tokens": 30.0, "output_tokens_details": {"image_tokens": "25"}},
            ReportedUsage(prompt_tokens=20, completion_tokens=30, image_tokens=25),
        ),
        (
            {"prompt_tokens": -1, "completion_tokens": None, "total_tokens": True, "input_tokens": 4},
            None,
        ),
        ({"prompt_tokens": None, "input_tokens": 4}, ReportedUsage(prompt_tokens=4)),
        ({"total_tokens": 10**400, "prompt_tokens": "many", "completion_tokens": [1]}, None),
        ({"cost": "0.5"}, ReportedUsage(cost_usd=Decimal("0.5"))),
        ({"cost": 0}, ReportedUsage(cost_usd=Decimal(0))),
        ({"cost": 1e-12}, ReportedUsage(cost_usd=Decimal(0))),
        ({"cost": "free"}, None),
        ({"cost": "NaN"}, None),
        ({"cost": -1}, None),
        ({"cost": 1e300}, None),
        (
            {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}},
            ReportedUsage(cost_usd=Decimal("0.21")),
        ),
        (
            {"cost": 0.2, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}},
            ReportedUsage(cost_usd=Decimal("0.2")),
        ),
        ({"cost": 0.2, "is_byok": True}, ReportedUsage(cost_usd=Decimal("0.2"))),
        ([], None),
        ("x", None),
        ({}, None),
    ],
)
def test_usage_is_read_under_all_its_names_and_garbage_is_silence(
    usage: object, expected: ReportedUsage | None
) -> None:
    assert good(completion(data_url(PNG)) | {"usage": usage}).usage == expected


def test_native_usage_counts_thinking_as_output_and_pictures_apart() -> None:
    answer = SHAPES["native"] | {
        "usageMetadata": {
            "promptTokenCount": 17,
            "toolUsePromptTokenCount": 3,
            "candidatesTokenCount": 1306,
            "thoughtsTokenCount": 210,
            "totalTokenCount": 1536,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}, {"modality": "TEXT"}, 5],
        },
        "responseId": "deO6",
    }
    assert good(answer).usage == ReportedUsage(
        prompt_tokens=20, completion_tokens=1516, total_tokens=1536, image_tokens=1290
    )
    assert good(answer).request_id == "deO6"


# Hostile input


@pytest.mark.parametrize(
    "content",
    [
        "](data:image/" * 100_000,
        "![](" * 200_000,
        "](https://a" * 100_000,
        "data:image/png;base64,A\n" * 50_000,
        "![a](https://h/" + "(" * 10**6,
        "https://" + "a" * 10**6,
        "/9j/" * 300_000 + "!",
        "<script" * 100_000,
    ],
)
def test_hostile_text_is_searched_in_linear_time(content: str) -> None:
    assert isinstance(read(completion(content)), Failure)
    assert isinstance(read({"error": {"message": content}}, status=400), Failure)


_ENDS = st.sampled_from(
    ["", ")", ") and more", " more", "\nmore", "\n" + "A" * 60, '"', "'", "](x)", ' "t")', "\\", ">"]
)


@given(
    before=st.sampled_from(["", "![a](", "![a](<", "see ", "[a](", '<img src="', "data:image/png;base64,x "]),
    kind=st.sampled_from(["image/png", "image/svg+xml", "image/PNG", "image/", "text/plain"]),
    junk=st.sampled_from(["", "", "", "=", "-", "%2B", "\n", " ", "ü", "A"]),
    at=st.integers(0, 2000),
    end=_ENDS,
    twice=st.booleans(),
)
def test_a_large_data_url_means_the_same_whether_it_is_decoded_before_the_json_or_after(
    before: str, kind: str, junk: str, at: int, end: str, *, twice: bool
) -> None:
    payload = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 6).decode()
    url = f"{before}data:{kind};base64,{payload[:at]}{junk}{payload[at:]}{end}"
    message = {"content": url * (1 + twice), "images": [{"image_url": {"url": url}}]}
    body = json.dumps({"choices": [{"message": message}]}).encode()
    later = body.replace(b";base64,", b";base64\\u002c")
    assert later != body
    assert chat.read(200, {}, body, now=0) == chat.read(200, {}, later, now=0)


def test_what_only_looks_like_a_data_url_that_was_decoded_early_is_no_picture() -> None:
    found = read(completion("![a](data:image/png;base64,lifted-0)"))
    assert isinstance(found, Failure)
    assert found.kind is ErrorClass.CORRUPT


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'{"text": "a"}'])
@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_of_millions_of_values_is_not_unfolded(value: bytes, status: int) -> None:
    body = b'{"choices": [{"message": {"content": [' + (value + b",") * 3_000_000 + value + b"]}}]}"
    began = time.process_time()
    found = read(body, status=status)
    assert time.process_time() - began < 10
    assert isinstance(found, Failure)
    assert found.kind is (ErrorClass.BAD_ANSWER if status == 200 else ErrorClass.BAD_REQUEST)


def test_a_text_full_of_commas_is_an_answer() -> None:
    found = read(completion("a, " * 65_536))
    assert isinstance(found, Failure)
    assert found.kind is ErrorClass.NO_IMAGE


def test_keys_of_megabytes_take_no_minutes() -> None:
    body = json.dumps({"error": {f"{'k' * 100_000}{n}": "code" for n in range(390)} | {"message": "told"}})
    began = time.process_time()
    found = read(body.encode(), status=400)
    assert time.process_time() - began < 20
    assert isinstance(found, Failure)
    assert found.message == "told"


def test_one_absurd_number_does_not_spoil_an_answer() -> None:
    body = b'{"choices": [], "x": %s, "usage": {"prompt_tokens": 7, "total_tokens": %s}}'
    found = read(body % (b"9" * 5000, b"-" + b"9" * 5000))
    assert isinstance(found, Failure)
    assert found.usage == ReportedUsage(prompt_tokens=7)
