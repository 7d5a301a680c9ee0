"""How an answer is built: every known shape is told by its name, and no bytes make the look raise."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.dialects import anatomy
from batchgen.dialects.anatomy import Anatomy, look

CODE = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(3000)).decode()
URL = f"data:image/png;base64,{CODE}"
LINK = "https://pictures.example/1.png"


def chat(content: object, **message: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content, **message}}]}


def seen(value: object) -> Anatomy:
    return look(json.dumps(value).encode())


SHAPES = {
    "S1": (chat(f"Here: ![image]({URL})"), anatomy.MARKDOWN),
    "S2": (chat(None, images=[{"type": "image_url", "image_url": {"url": URL}}]), anatomy.IMAGES),
    "S2, one": (chat("", image={"url": URL}), anatomy.IMAGES),
    "S2, links": (chat("", images=[{"image_url": {"url": LINK}}]), anatomy.IMAGES + anatomy.LINKED),
    "S3": (
        chat([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": URL}}]),
        anatomy.PARTS,
    ),
    "S4": (chat(URL), anatomy.DATA_URL),
    "S5": (chat(CODE), anatomy.BASE64),
    "S6": (chat(f"![image]({LINK})"), anatomy.MARKDOWN_LINK),
    "S6, bare": (chat(LINK), anatomy.LINK),
    "S7": ({"created": 1, "data": [{"b64_json": CODE, "revised_prompt": "x"}]}, anatomy.IMAGES_API),
    "S7, link": ({"data": [{"url": LINK}]}, anatomy.IMAGES_API + anatomy.LINKED),
    "S8": (
        {
            "candidates": [
                {
                    "content": {
                        "parts": [{"text": "x"}, {"inlineData": {"mimeType": "image/png", "data": CODE}}]
                    }
                }
            ]
        },
        anatomy.NATIVE,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_told_by_its_name(name: str) -> None:
    body, shape = SHAPES[name]
    assert seen(body).shapes == (shape,)


@pytest.mark.parametrize("content", ["a picture of a cat", "see https://example.com/x for more", "", None, 7])
def test_words_are_no_shape_of_a_picture(content: object) -> None:
    assert seen(chat(content)).shapes == ()


def test_a_stream_is_put_together_and_told_as_one() -> None:
    pieces = ["![image](data:ima", f"ge/png;base64,{CODE}", ")"]
    chunks: list[dict[str, Any]] = [
        {"model": "m", "choices": [{"delta": {"content": piece}}]} for piece in pieces
    ]
    chunks.append({"choices": [], "usage": {"prompt_tokens": 1}})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    lines = [": keep-alive", *(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
    found = look("\r\n\r\n".join(lines).encode())
    assert found.streamed
    assert (found.shapes, found.model) == ((anatomy.MARKDOWN,), "m")
    assert found.usage == ("prompt_tokens", "completion_tokens")


def test_pictures_of_a_stream_in_a_field_of_their_own_are_told() -> None:
    chunk = {"choices": [{"delta": {"content": None, "images": [{"image_url": {"url": URL}}]}}]}
    assert look(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()).shapes == (anatomy.IMAGES,)


def test_declared_types_are_read_from_data_urls_and_from_beside_base64() -> None:
    assert seen(SHAPES["S1"][0]).mimes == ("image/png",)
    assert seen(SHAPES["S8"][0]).mimes == ("image/png",)
    assert look(json.dumps(chat(URL)).replace("/", "\\/").encode()).mimes == ("image/png",), (
        "as PHP writes it"
    )
    assert seen(SHAPES["S7"][0]).mimes == ()


def test_the_figures_of_a_usage_are_told_by_name() -> None:
    usage = {
        "prompt_tokens": 1,
        "cost": 0.1,
        "completion_tokens_details": {"image_tokens": 2, "text_tokens": None},
    }
    assert seen({"usage": usage}).usage == ("prompt_tokens", "cost", "completion_tokens_details.image_tokens")
    native = {"promptTokenCount": 1, "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 2}]}
    found = seen({"modelVersion": "gemini", "usageMetadata": native})
    assert (found.usage, found.model) == (("promptTokenCount", "candidatesTokensDetails"), "gemini")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([URL, LINK, CODE]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "images",
                    "data",
                    "b64_json",
                    "candidates",
                    "parts",
                    "usage",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_no_json_makes_it_raise(value: object) -> None:
    assert isinstance(seen(value), Anatomy)


@settings(max_examples=200, deadline=None)
@given(st.binary() | st.text().map(lambda text: f"data: {text}\n".encode("utf-8", "replace")))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    assert isinstance(look(body), Anatomy)
    assert isinstance(look(b"[" * 100_000 + body), Anatomy)
