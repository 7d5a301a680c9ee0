"""The simulator's pictures: the same prompt, the same bytes; every picture names its prompt."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchgen.simulator.paint import paint, prompt_key, prompt_mark, thumbnail

WORDS = ("portrait", "cat", "vase", "aurora", "sea", "city", "dunes", "lake", "fern", "map")
MORE = ("bauhaus", "terrazzo", "silk", "hills", "달항아리 밤")


@pytest.mark.parametrize("prompt", WORDS + MORE)
def test_every_scene_is_a_whole_jpeg_that_repeats_exactly_and_names_its_prompt(prompt: str) -> None:
    data = paint(prompt, model="m", seed=1)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.format, image.size) == ("JPEG", (1024, 1024))
    assert paint(prompt, model="m", seed=1) == data
    assert prompt_mark(data) == prompt_key(prompt)


def test_another_seed_model_or_prompt_is_another_picture() -> None:
    assert (
        len(
            {
                paint(p, model=m, seed=s)
                for p, m, s in (("a", "m", 1), ("a", "m", 2), ("a", "n", 1), ("b", "m", 1))
            }
        )
        == 4
    )


@pytest.mark.parametrize(("size", "side"), [("2K", 2048), ("4K", 4096)])
def test_larger_sizes_have_their_pixels(size: str, side: int) -> None:
    with Image.open(io.BytesIO(paint("sea", model="m", seed=1, size=size))) as image:
        assert image.size == (side, side)


@given(st.text(max_size=80), st.integers(0, 2**32 - 1))
def test_a_thumbnail_decodes_and_names_any_prompt(prompt: str, seed: int) -> None:
    data = thumbnail(prompt, seed=seed)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    assert prompt_mark(data) == prompt_key(prompt)


@given(st.binary(max_size=200))
def test_other_bytes_carry_no_mark(data: bytes) -> None:
    assert prompt_mark(data) is None
