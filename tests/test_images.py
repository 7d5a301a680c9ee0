"""A task becomes a request of OpenAI's Images API, JSON or a form, and its answers are read."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pybase64
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchgen import pricing
from batchgen.dialects import images
from batchgen.errors import InputError
from batchgen.job import Job, endpoint
from batchgen.providers import find, model_of, speaking
from batchgen.records import (
    Attached,
    ErrorClass,
    Failure,
    Generation,
    ImageOptions,
    Params,
    ReportedUsage,
    Request,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
MODEL = "gpt-image-2"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), max_size=60)
"""Of fields: what else there is, libraries escape in different ways."""
files = st.builds(
    lambda data, mime: Attached(mime=mime, base64=pybase64.b64encode(data)),
    st.binary(max_size=200),
    st.sampled_from(["image/png", "image/jpeg", "image/webp"]),
)


def task(prompt: str = "a sunset", model: str = MODEL, **params: Any) -> Task:
    return Task(key="k", id="1", variant=1, name="n", model=model, prompt=prompt, params=Params(**params))


def written(one: Task, *attached: Attached, options: ImageOptions = ImageOptions.NONE) -> Request:
    return images.request(one, attached, options=options, stream=False)


def said(one: Task, *, options: ImageOptions = ImageOptions.NONE) -> dict[str, Any]:
    request = written(one, options=options)
    assert (request.path, request.content_type) == ("/images/generations", "application/json")
    found: dict[str, Any] = json.loads(b"".join(request.body))
    return found


def attached(data: bytes, mime: str = "image/png") -> Attached:
    return Attached(mime=mime, base64=pybase64.b64encode(data))


def form(fields: Mapping[str, str], pictures: list[tuple[str, bytes, str]], content_type: str) -> bytes:
    """The same form as a well-kept library writes it."""
    parts = [("image[]", picture) for picture in pictures]
    request = httpx.Request(
        "POST", "http://x", data=dict(fields), files=parts, headers={"content-type": content_type}
    )
    return request.read()


# Words alone


def test_a_request_holds_the_model_the_prompt_one_picture_and_nothing_that_was_not_given() -> None:
    assert said(task()) == {"model": MODEL, "prompt": "a sunset", "n": 1}


@given(texts)
def test_any_prompt_arrives_as_it_was_written(prompt: str) -> None:
    assert said(task(prompt))["prompt"] == prompt


@pytest.mark.parametrize(
    "model", ["gpt-image-1", "GPT-Image-1.5", "openai/gpt-image-2", "chatgpt-image-latest"]
)
def test_models_that_reject_a_format_are_not_asked_for_one(model: str) -> None:
    assert "response_format" not in said(task(model=model))


@pytest.mark.parametrize("model", ["gemini-2.5-flash-image", "dall-e-3", "not-gpt-image-1"])
def test_other_models_are_asked_for_base64_because_links_expire(model: str) -> None:
    assert said(task(model=model))["response_format"] == "b64_json"


@pytest.mark.parametrize(
    ("ratio", "size", "pixels"),
    [
        ("1:1", None, "1024x1024"),
        ("3:2", None, "1536x1024"),
        ("2:3", None, "1024x1536"),
        ("2:3", "1K", "1024x1536"),
        ("16:9", None, "1824x1024"),
        ("9:16", "2K", "2048x3648"),
        ("4:3", "1K", "1360x1024"),
        ("21:9", "512", "1200x512"),
        ("1:8", "4K", "4096x32768"),
        (None, "1K", "1024x1024"),
        (None, "2K", "2048x2048"),
        # The endpoint's own words go as they are.
        ("auto", None, "auto"),
        ("auto", "1K", "auto"),
        ("1792x1024", None, "1792x1024"),
        (None, "1792x1024", "1792x1024"),
        ("16:9", "hd", "hd"),
        ("0:1", None, "0:1"),
        ("1:00001", None, "1:00001"),
        (None, None, None),
    ],
)
def test_a_ratio_and_a_size_become_pixels(ratio: str | None, size: str | None, pixels: str | None) -> None:
    assert said(task(aspect_ratio=ratio, image_size=size)).get("size") == pixels


@pytest.mark.parametrize("model", find("openai").models, ids=lambda model: model.id)
def test_every_ratio_and_size_that_a_model_is_said_to_take_is_one_it_takes(model: Any) -> None:
    for ratio in model.aspect_ratios:
        for size in model.image_sizes:
            wide, high = map(int, said(task(aspect_ratio=ratio, image_size=size))["size"].split("x"))
            assert wide % 16 == high % 16 == 0
            assert max(wide, high) <= min(3840, 3 * min(wide, high))
            assert 655_360 <= wide * high <= 8_294_400
            if model.id.startswith("gpt-image-1"):
                assert (wide, high) in {(1024, 1024), (1536, 1024), (1024, 1536)}


def test_a_gateway_may_be_told_of_ratio_and_size_by_their_names() -> None:
    body = said(task(aspect_ratio="16:9", image_size="2K"), options=ImageOptions.FLAT)
    assert (body["aspect_ratio"], body["image_size"]) == ("16:9", "2K")
    assert "size" not in body
    assert said(task(), options=ImageOptions.FLAT) == said(task())


def test_extra_is_laid_over_the_body() -> None:
    extra = '{"quality": "low", "size": "auto", "n": 2, "user": {"a": 1}}'
    body = said(task(aspect_ratio="1:1", extra=extra))
    assert body == {
        "model": MODEL, "prompt": "a sunset", "n": 2, "size": "auto", "quality": "low", "user": {"a": 1},
    }  # fmt: skip


# Pictures that go along


def test_a_picture_goes_along_as_its_own_bytes() -> None:
    request = written(task(aspect_ratio="3:2"), attached(PNG))
    assert request.path == "/images/edits"
    fields = {"model": MODEL, "prompt": "a sunset", "n": "1", "size": "1536x1024"}
    pictures = [("1.png", PNG, "image/png")]
    assert b"".join(request.body) == form(fields, pictures, request.content_type)
    assert PNG in request.body


@given(st.lists(files, min_size=1, max_size=16), texts, st.dictionaries(names, texts, max_size=3))
@example([attached(b"--batchgen-\r\n")], "--batchgen", {'a"\r\nb': "\r\n--x--\r\n"})
def test_any_form_is_what_a_library_would_have_written(
    references: list[Attached], prompt: str, extra: dict[str, str]
) -> None:
    request = written(task(prompt, extra=json.dumps(extra)), *references)
    pictures = [
        (f"{number}.{one.mime.removeprefix('image/')}", pybase64.b64decode(one.base64), one.mime)
        for number, one in enumerate(references, 1)
    ]
    fields = {"model": MODEL, "prompt": prompt, "n": "1"} | extra
    assert b"".join(request.body) == form(fields, pictures, request.content_type)


@given(st.lists(files, min_size=1, max_size=4), texts)
def test_the_boundary_stands_between_the_parts_and_nowhere_else(
    references: list[Attached], prompt: str
) -> None:
    request = written(task(prompt), *references)
    boundary = request.content_type.partition("boundary=")[2]
    assert len(boundary) <= 70  # RFC 2046
    assert b"".join(request.body).count(boundary.encode()) == 3 + len(references) + 1
    assert written(task(prompt), *references) == request


def test_another_form_has_another_boundary() -> None:
    one, other = (written(task(), attached(data)).content_type for data in (b"a", b"b"))
    assert one != other


def test_extra_becomes_fields_of_the_form_scalars_as_their_text() -> None:
    extra = (
        '{"quality": "low", "stream": false, "output_compression": 80, "mask": null, "n": 2, "x": [1, "a"]}'
    )
    request = written(task(extra=extra), attached(PNG))
    fields = {
        "model": MODEL, "prompt": "a sunset", "n": "2", "quality": "low", "stream": "false",
        "output_compression": "80", "x": '[1,"a"]',
    }  # fmt: skip
    assert b"".join(request.body) == form(fields, [("1.png", PNG, "image/png")], request.content_type)


def test_a_link_cannot_go_along_and_nothing_is_written() -> None:
    with pytest.raises(InputError, match=r"https://h/x\.png: .* download it"):
        written(task(), attached(PNG), Attached(url="https://h/x.png"))


# What there is no place for


@pytest.mark.parametrize("options", ImageOptions)
def test_what_the_format_has_no_place_for_is_named_with_its_reason(options: ImageOptions) -> None:
    found = images.cannot(options)
    shape = {"aspect_ratio", "image_size"}
    assert found.keys() - shape == {
        "system", "messages", "parent", "temperature", "top_p", "max_tokens", "seed", "stop",
        "response_format", "tools", "tool_choice", "expect", "stream",
    }  # fmt: skip
    told = options in {ImageOptions.NONE, ImageOptions.FLAT}
    assert found.keys() & shape == (set() if told else shape)
    assert all(found.values())


def test_a_stream_is_refused_before_anything_is_sent() -> None:
    job = Job(manifest="x.csv", provider="openai", model=MODEL, stream=True)
    with pytest.raises(InputError, match=r"--stream: .* leave it out"):
        endpoint(job, {"OPENAI_API_KEY": "sk-xxxxxxxxxxxxxxxxxxxx"})


# Answers


def read(body: object, *, status: int = 200) -> Generation | Failure:
    return images.read(status, {}, json.dumps(body).encode(), now=0)


def answer(usage: object = None, **item: object) -> dict[str, Any]:
    return {"created": 1, "data": [{"b64_json": pybase64.b64encode(PNG).decode(), **item}], "usage": usage}


def good(body: object) -> Generation:
    found = read(body)
    assert isinstance(found, Generation), found
    return found


def test_the_prompt_that_the_picture_was_made_of_is_its_text() -> None:
    found = good(answer(revised_prompt="A wide sunset."))
    assert ([image.data for image in found.images], found.text) == ([PNG], "A wide sunset.")


@pytest.mark.parametrize(
    "spaced", [b'"b64_json":"', b'"b64_json": "', b'"b64_json" :\n"', b'"b64\\u005fjson": "']
)
def test_a_picture_is_the_same_whether_it_is_decoded_before_the_json_or_after(spaced: bytes) -> None:
    body = json.dumps(answer()).encode().replace(b'"b64_json": "', spaced)
    found = images.read(200, {}, body, now=0)
    assert isinstance(found, Generation)
    assert [image.data for image in found.images] == [PNG]


def test_a_link_in_place_of_a_picture_is_one() -> None:
    assert [image.url for image in good({"data": [{"url": "https://h/x.png"}]}).images] == ["https://h/x.png"]


def test_all_output_is_pictures_where_the_answer_does_not_split_it() -> None:
    usage = {"total_tokens": 4200, "input_tokens": 200, "output_tokens": 4000}
    assert good(answer(usage)).usage == ReportedUsage(
        prompt_tokens=200, completion_tokens=4000, total_tokens=4200, image_tokens=4000
    )


def test_words_are_words_where_the_answer_splits_them() -> None:
    usage = {"output_tokens": 4000, "output_tokens_details": {"text_tokens": 100, "image_tokens": 3900}}
    assert good(answer(usage)).usage == ReportedUsage(completion_tokens=4000, image_tokens=3900)


def test_output_without_a_picture_is_no_picture() -> None:
    found = read({"created": 1, "data": [], "usage": {"input_tokens": 9, "output_tokens": 3}})
    assert isinstance(found, Failure)
    assert found.kind is ErrorClass.NO_IMAGE
    assert found.usage == ReportedUsage(prompt_tokens=9, completion_tokens=3)


def test_pictures_that_went_along_are_counted_at_their_own_price() -> None:
    usage = {
        "total_tokens": 1406, "input_tokens": 350, "output_tokens": 1056,
        "input_tokens_details": {"text_tokens": 27, "image_tokens": 323},
    }  # fmt: skip
    model = model_of(find("openai"), "gpt-image-1")
    split = pricing.split(good(answer(usage)).usage, [(1024, 1024)], model.image_tokens)
    # 27 words at $5, 323 of pictures at $10, 1056 of the picture at $40 a million.
    assert pricing.cost(split, model.price) == Decimal("0.045605")


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (400, "moderation_blocked", "image_generation_user_error", "Your request was rejected"),
        (400, "content_policy_violation", "invalid_request_error", "Your prompt was rejected"),
        (400, None, "image_generation_user_error", "Your request was rejected by the safety system."),
        (400, None, "", "Your request was rejected as a result of our safety system. Your prompt may …"),
    ],
)
def test_a_refusal_is_one_whatever_it_is_called(
    status: int, code: str | None, kind: str, message: str
) -> None:
    found = read({"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status)
    assert isinstance(found, Failure)
    assert found.kind is ErrorClass.BLOCKED


def test_a_spent_account_stops_the_run_though_it_is_called_a_bad_request() -> None:
    error = {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}
    found = read({"error": error}, status=400)
    assert isinstance(found, Failure)
    assert found.kind is ErrorClass.CREDITS


def test_a_task_for_google_s_images_endpoint_is_what_it_documents() -> None:
    provider = speaking(find("google"), "images")
    body = written(
        task(model="gemini-2.5-flash-image", aspect_ratio="1:1"), options=provider.image_options
    ).body
    assert json.loads(b"".join(body)) == {
        "model": "gemini-2.5-flash-image", "prompt": "a sunset", "n": 1, "size": "1024x1024",
        "response_format": "b64_json",
    }  # fmt: skip
