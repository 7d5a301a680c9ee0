"""What does a picture look like that is made from others?"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from batchgen.errors import CorruptImageError
from batchgen.imaging import Check, examine

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from batchgen.simulator.asked import Picture
    from batchgen.simulator.paint.palettes import Palette

TINT = 0.3
INSETS = 5
"""Further pictures that are shown."""


def edited(
    pictures: Sequence[Picture], pixels: tuple[int, int], dice: random.Random, palette: Palette
) -> Image.Image | None:
    """The first picture in the palette's light, the others above it in a row; None if it cannot be opened."""
    first = _opened(pictures[0], pixels) if pictures else None
    if first is None:
        return None
    light = Image.new("RGB", pixels, dice.choice([palette.accent, *palette.sky]))
    image = Image.blend(first, light, TINT)
    side = min(pixels) // 7
    others = [_opened(picture, (side, side)) for picture in pictures[1 : 1 + INSETS]]
    for index, inset in enumerate(filter(None, others)):
        image.paste(inset, (pixels[0] - (index + 1) * side * 8 // 7, side // 2))
    return image


def _opened(picture: Picture, pixels: tuple[int, int]) -> Image.Image | None:
    try:
        examine(picture.data, Check.FULL)
    except CorruptImageError:
        return None
    with Image.open(io.BytesIO(picture.data)) as image:
        # A palette's transparency is lost with a warning on the direct way.
        return ImageOps.fit(image.convert("RGBA").convert("RGB"), pixels)
