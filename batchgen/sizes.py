"""
Is a picture of the size that was asked for?

Gateways drop what they do not know, and the picture that then comes is a square of 1024 pixels. The pixels
tell: https://ai.google.dev/gemini-api/docs/image-generation has them for every aspect ratio and size.
"""

from __future__ import annotations

import re
from typing import Final

from batchgen.pricing import bucket
from batchgen.providers import SIZES

_RATIO: Final = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")
_TOLERANCE: Final = 3
"""Percent: pictures come in multiples of 16 or 32 pixels, so 4:5 is 896 × 1152 with one model."""


def as_asked(width: int, height: int, *, aspect_ratio: str | None, image_size: str | None) -> bool | None:
    """
    Whether a picture of these pixels is what was asked for; None where nothing was that pixels can tell.

    :param aspect_ratio: width to height, `16:9`.
    :param image_size: `512`, `1K`, `2K` or `4K`, in any case.
    """
    ratio = _RATIO.fullmatch(aspect_ratio or "")
    size = (image_size or "").upper()
    if ratio is None and size not in SIZES:
        return None
    return (ratio is None or _has(width, height, int(ratio[1]), int(ratio[2]))) and (
        size not in SIZES or bucket(width, height) == size
    )


def _has(width: int, height: int, across: int, down: int) -> bool:
    """Whether pixels have an aspect ratio, as near as pictures come to one."""
    asked, found = across * height, width * down
    return (100 - _TOLERANCE) * asked <= 100 * found <= (100 + _TOLERANCE) * asked
