"""The pixels tell whether a picture is of the size that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.cli.running import _told
from batchgen.pricing import bucket
from batchgen.simulator import Settings
from batchgen.sizes import as_asked
from tests.nights import Nights

if TYPE_CHECKING:
    from pathlib import Path

# At 1K; the other way round for the other way round, half of it for 512, twice for 2K, four times for 4K:
# https://ai.google.dev/gemini-api/docs/image-generation
PIXELS = {
    "1:1": (1024, 1024), "2:3": (848, 1264), "3:2": (1264, 848), "3:4": (896, 1200), "4:3": (1200, 896),
    "4:5": (928, 1152), "5:4": (1152, 928), "9:16": (768, 1376), "16:9": (1376, 768), "21:9": (1584, 672),
    "1:4": (512, 2048), "4:1": (2048, 512), "1:8": (384, 3072), "8:1": (3072, 384),
}  # fmt: skip
# Gemini 2.5 Flash Image, which has one size.
FORMER = {
    "1:1": (1024, 1024), "2:3": (832, 1248), "3:2": (1248, 832), "3:4": (864, 1184), "4:3": (1184, 864),
    "4:5": (896, 1152), "5:4": (1152, 896), "9:16": (768, 1344), "16:9": (1344, 768), "21:9": (1536, 672),
}  # fmt: skip
TIMES = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}

ratios, sizes = st.sampled_from([*PIXELS]), st.sampled_from([*TIMES])
pixels = st.integers(1, 20_000)


def delivered(ratio: str, size: str) -> tuple[int, int]:
    width, height = PIXELS[ratio]
    return round(width * TIMES[size]), round(height * TIMES[size])


@given(ratios, sizes, ratios, sizes)
def test_a_picture_of_the_vendor_s_table_is_what_was_asked_for_and_none_of_its_others_is(
    ratio: str, size: str, asked_ratio: str, asked_size: str
) -> None:
    found = as_asked(*delivered(ratio, size), aspect_ratio=asked_ratio, image_size=asked_size)
    assert found is ((ratio, size) == (asked_ratio, asked_size))


@given(ratios, sizes, ratios, sizes)
def test_what_was_not_asked_for_may_be_anything(
    ratio: str, size: str, asked_ratio: str, asked_size: str
) -> None:
    width, height = delivered(ratio, size)
    assert as_asked(width, height, aspect_ratio=asked_ratio, image_size=None) is (ratio == asked_ratio)
    assert as_asked(width, height, aspect_ratio=None, image_size=asked_size) is (size == asked_size)
    assert as_asked(width, height, aspect_ratio=None, image_size=None) is None


@pytest.mark.parametrize("ratio", FORMER)
def test_the_rounding_of_an_older_model_is_no_fault(ratio: str) -> None:
    assert as_asked(*FORMER[ratio], aspect_ratio=ratio, image_size="1k") is True


@given(pixels, pixels, st.integers(1, 32), st.integers(1, 32), st.none() | sizes)
def test_an_aspect_ratio_is_met_within_three_percent_and_a_size_by_its_bucket(
    width: int, height: int, across: int, down: int, size: str | None
) -> None:
    found = as_asked(width, height, aspect_ratio=f"{across}:{down}", image_size=size)
    off = abs(width * down / (height * across) - 1)
    if not 0.0299 < off < 0.0301:
        assert found is (off < 0.03 and size in {None, bucket(width, height)})


@given(st.text(max_size=12), st.text(max_size=12), pixels, pixels)
def test_what_pixels_cannot_tell_is_not_held_against_them(
    ratio: str, size: str, width: int, height: int
) -> None:
    assert as_asked(width, height, aspect_ratio=ratio, image_size=size) in {None, True, False}
    for unclear in ("auto", "0:0", "1:0", "16:9:4", "-1:1", "", "²:³"):
        assert as_asked(width, height, aspect_ratio=unclear, image_size="large") is None
        assert as_asked(width, height, aspect_ratio=unclear, image_size=bucket(width, height)) is True


@pytest.mark.blocks
def test_the_summary_counts_the_pictures_of_another_size(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, ignores_size=True))  # its pictures are small squares
    nights.write("id,prompt,aspect_ratio,image_size\na,p,1:1,\nb,p,,512\nc,p,,\nd,p,16:9,\n")
    summary = nights.run(image_options="flat")
    one = "1 picture is not of the size that was asked for: `size_ok` in the table tells which"
    assert any(line.endswith(one) for line in _told(summary))
    assert [row["size_ok"] for row in nights.table()] == [True, True, None, False]
    nights.write("id,prompt,aspect_ratio,image_size\na,p,1:1,\ne,p,4:3,\nf,p,,2K\n")
    summary = nights.run(image_options="flat")
    assert summary.wrong_size == 2
    assert any("2 pictures are not of the size" in line for line in _told(summary))
