"""How many pixels has a picture of this shape and size?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.records import Model

SQUARE = (1024, 1024)

# At 1K: https://ai.google.dev/gemini-api/docs/image-generation#aspect_ratios
_PIXELS = {
    "1:1": SQUARE,
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
    "1:4": (512, 2048),
    "4:1": (2048, 512),
    "1:8": (384, 3072),
    "8:1": (3072, 384),
}
CLOSE = 0.05
STEP = 16
"""Of the Images API's pixels."""

_HALVES = {"512": 1, "1K": 2, "2K": 4, "4K": 8}
_ASKED = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")


def pixels(aspect_ratio: str | None, size: str) -> tuple[int, int]:
    """Width and height: the vendor's table is for 1K; 2K and 4K are its multiples, 512 its half."""
    width, height = _PIXELS[aspect_ratio or "1:1"]
    halves = _HALVES[size]
    return width * halves // 2, height * halves // 2


def asked(text: str | None, model: Model, *, exact: bool) -> tuple[int, int] | None:
    """
    Width and height of an Images API's `size`; None where it leaves them to the model.

    A model that is not `exact` knows shapes instead of pixels: it takes the nearest shape and size.
    """
    found = _ASKED.fullmatch(text or "")
    if found is None:
        return None
    width, height = int(found[1]), int(found[2])
    if exact:
        return width, height
    known = [size for size in model.image_sizes or ("1K",) if size in _HALVES]
    size = min(known, key=lambda size: abs(_HALVES[size] * 512 - min(width, height)))
    return pixels(_nearest(model, width, height), size)


def bucket(width: int, height: int) -> str:
    """The size of a picture of so many pixels, by its shorter edge, as the Images API's are named."""
    return min(_HALVES, key=lambda size: abs(_HALVES[size] * 512 - min(width, height)))


def check(aspect_ratio: str | None, size: str | None, text: str | None, model: Model, *, exact: bool) -> None:
    """
    Hold what is asked for against what the model has.

    :param text: an Images API's `size`; one that is `exact` is made to the pixel, if the model has its shape.
    :raises ValueError: it has no such shape or size.
    """
    ratios = model.aspect_ratios or tuple(_PIXELS)
    if aspect_ratio is not None and (aspect_ratio not in ratios or aspect_ratio not in _PIXELS):
        raise ValueError(f"aspect_ratio {aspect_ratio!r} is none of {', '.join(ratios)}.")
    known = tuple(_HALVES) if model.image_sizes is None else model.image_sizes
    if size is not None and (size not in known or size not in _HALVES):
        raise ValueError(f"image_size {size!r} is none of {', '.join(known) or 'those of this model'}.")
    if text is None or text == "auto":
        return
    found = _ASKED.fullmatch(text)
    if found is None or (exact and not _has(model, int(found[1]), int(found[2]))):
        raise ValueError(f"Invalid value: size {text!r} is not supported by {model.id}.")


def _has(model: Model, width: int, height: int) -> bool:
    """
    Whether a model makes pictures of just so many pixels.

    https://platform.openai.com/docs/guides/image-generation#size-and-quality-options
    """
    near = _nearest(model, width, height)
    wide, high = (int(side) for side in near.split(":"))
    shaped = abs(_slope(wide, high) - _slope(width, height)) < CLOSE
    sized = model.image_sizes is None or bucket(width, height) in model.image_sizes
    return shaped and sized and width % STEP == height % STEP == 0


def _nearest(model: Model, width: int, height: int) -> str:
    ratios = [ratio for ratio in model.aspect_ratios if ratio in _PIXELS] or [*_PIXELS]
    return min(ratios, key=lambda ratio: abs(_slope(*_PIXELS[ratio]) - _slope(width, height)))


def _slope(width: int, height: int) -> float:
    return width / height if width > height else 2 - height / width
