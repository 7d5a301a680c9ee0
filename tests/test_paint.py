"""The simulator's pictures: the same prompt, the same bytes; every picture names its prompt."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageStat

from batchgen.simulator import paint as painter
from batchgen.simulator.asked import Picture
from batchgen.simulator.paint import (
    built,
    creatures,
    land,
    motif,
    paint,
    people,
    prompt_key,
    prompt_mark,
    reference_marks,
    still,
    thumbnail,
)
from batchgen.simulator.paint.canvas import Canvas

HOURS = ("at night", "in spring")
PROMPTS = [
    f"{words.split('|')[0]} {HOURS[n % 2]}" for n, (_, words) in enumerate(painter._scenes + painter._kinds)
]


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.convert("RGB")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_scene_is_a_whole_picture_that_names_its_prompt(prompt: str) -> None:
    data = paint(prompt, model="m", seed=1)
    assert data.startswith(b"\xff\xd8\xff")
    assert data.endswith(b"\xff\xd9")
    image = opened(data)
    assert image.size == (1024, 1024)
    assert max(ImageStat.Stat(image).stddev) > 20, "nothing is on it"
    assert prompt_mark(data) == prompt_key(prompt)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_prompt_model_and_seed_are_the_same_bytes(seed: int) -> None:
    for prompt in ("a portrait", "no word that is known", "a vase"):
        assert paint(prompt, model="m", seed=seed) == paint(prompt, model="m", seed=seed)


def test_another_seed_model_or_prompt_is_another_picture() -> None:
    asked = (("a", "m", 1), ("a", "m", 2), ("a", "n", 1), ("b", "m", 1))
    pictures = {opened(paint(p, model=m, seed=s)).tobytes() for p, m, s in asked}
    assert len(pictures) == 4


@pytest.mark.parametrize("pixels", [(2048, 2048), (4096, 4096), (512, 512), (1584, 672), (384, 3072)])
def test_a_picture_has_the_pixels_that_are_wanted(pixels: tuple[int, int]) -> None:
    assert opened(paint("sea", model="m", seed=1, pixels=pixels)).size == pixels


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("A fox in a garden, beside a cat", creatures.fox),
        ("Catalog shot of a linen lamp", still.lamp),
        ("CATS", creatures.cat),
        ("two foxes", creatures.fox),
        ("고양이가 창가에 앉아 있다", creatures.cat),
        ("一只熊猫在喝茶", creatures.panda),
        ("قطة على سطح القمر", creatures.cat),
        ("달항아리 하나", still.jar),
        ("Un jardín secreto", motif.leaves),
        ("portrait of an old man", people.gentleman),
        ("a harbor at dusk, a hundred lanterns", built.harbour),
        ("first light on the dunes", land.dunes),
        ("a carpet of catkins", None),
        ("", None),
    ],
)
def test_the_first_subject_a_prompt_names_is_painted(prompt: str, scene: object) -> None:
    assert painter._told(painter._scenes, prompt) is scene


def test_a_colour_named_in_the_prompt_is_the_picture_s() -> None:
    red, blue = (
        ImageStat.Stat(opened(paint(f"a {colour} car", model="m", seed=1)).crop((300, 710, 700, 740))).mean
        for colour in ("red", "blue")
    )
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a cat,\nand a dog", "a cat, and a dog"),
        ("Un jardín secreto", "Un jardin secreto"),
        ("고양이 poster 하나", "poster"),
        ("고양이", f"No. {prompt_key('고양이')}"),
        ("", f"No. {prompt_key('')}"),
        ("word " * 30, "word " * 10 + "word …"),
        ("w" * 80, "w" * 56 + "…"),
    ],
)
def test_a_caption_is_the_first_words_in_letters_the_font_has(prompt: str, caption: str) -> None:
    assert painter._caption(prompt) == caption


def test_what_lies_outside_is_not_drawn() -> None:
    canvas = Canvas(64, [(9, 9, 9), (9, 9, 9)])
    canvas.fill([[(1.5, 1.5), (2, 1.5), (2, 2)]], (255, 0, 0))
    canvas.stroke([[(-3, -3), (-2, -2)]], 0.1, (255, 0, 0))
    canvas.disc(0.5, 3, 0.2, (255, 0, 0))
    canvas.glow(-4, -4, 0.5, (255, 0, 0))
    assert canvas.image.getcolors() == [(64 * 64, (9, 9, 9))]


@given(st.text(max_size=80))
def test_any_prompt_has_a_caption_of_one_line(prompt: str) -> None:
    caption = painter._caption(prompt)
    assert 0 < len(caption) <= 60
    assert len(caption.splitlines()) == 1


@given(st.text(max_size=80), st.integers(0, 2**32 - 1))
def test_a_thumbnail_decodes_and_names_any_prompt(prompt: str, seed: int) -> None:
    data = thumbnail(prompt, seed=seed)
    assert opened(data).size == (64, 64)
    assert prompt_mark(data) == prompt_key(prompt)


def picture(data: bytes) -> Picture:
    return Picture(sha256=hashlib.sha256(data).hexdigest(), data=data)


def encoded(colour: tuple[int, ...], mode: str = "RGB", kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new(mode, (40, 30), colour).save(data, kind)
    return data.getvalue()


RED, BLUE = picture(encoded((230, 20, 20))), picture(encoded((20, 20, 230)))


def test_a_picture_made_from_another_shows_it_in_another_light() -> None:
    red, blue = (
        ImageStat.Stat(opened(paint("a night", model="m", seed=1, references=[one]))).mean
        for one in (RED, BLUE)
    )
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40


def test_further_pictures_are_shown_within_the_first() -> None:
    alone, together = (
        opened(paint("a night", model="m", seed=1, references=pictures)) for pictures in ([RED], [RED, BLUE])
    )
    inset = together.getpixel((1024 - 146 // 2 - 40, 146))
    assert isinstance(inset, tuple)
    assert inset[2] > inset[0]
    assert alone.getpixel((1024 - 146 // 2 - 40, 146)) != inset


@pytest.mark.parametrize(
    "reference",
    [
        picture(b"\x89PNG\r\n\x1a\nbroken"),
        picture(b"\0\0\0\x18ftypheic"),
        Picture(sha256="ab" * 32),
        picture(encoded((9, 9, 9, 0), "RGBA", "WEBP")),
        picture(encoded((7,), "P")),
        picture(encoded((7,), "L", "JPEG")),
    ],
)
def test_whatever_went_along_there_is_a_picture_that_names_it(reference: Picture) -> None:
    data = paint("sea", model="m", seed=1, references=[reference])
    assert opened(data).size == (1024, 1024)
    assert prompt_mark(data) == prompt_key("sea")
    assert reference_marks(data) == (reference.sha256[:16],)


def test_pictures_that_cannot_be_opened_make_different_pictures_all_the_same() -> None:
    one, other = (
        opened(paint("sea", model="m", seed=1, references=[Picture(sha256=name * 32)]))
        for name in ("ab", "cd")
    )
    assert one.tobytes() != other.tobytes()


def test_a_picture_is_marked_with_the_last_words_and_is_one_of_all_of_them() -> None:
    data = paint("a fox\nmake it night", last="make it night", model="m", seed=1)
    assert prompt_mark(data) == prompt_key("make it night")
    assert reference_marks(data) == ()


@pytest.mark.parametrize("pixels", [(1376, 768), (384, 3072)])
def test_a_plain_picture_has_the_pixels_that_are_wanted(pixels: tuple[int, int]) -> None:
    data = thumbnail("sea", seed=1, pixels=pixels, references=[RED, BLUE])
    assert opened(data).size == pixels
    assert reference_marks(data) == (RED.sha256[:16], BLUE.sha256[:16])


@given(st.binary(max_size=200))
def test_other_bytes_carry_no_mark(data: bytes) -> None:
    assert prompt_mark(data) is None
    assert reference_marks(data) == ()
