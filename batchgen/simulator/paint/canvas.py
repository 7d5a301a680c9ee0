"""
How are smooth shapes, gradients and light put on a picture?

Coordinates are fractions of the picture, y downwards. A shape is drawn as a mask of twice the size and
reduced, no further than its own bounds; many opaque ones share a `Sheet` of twice the size, reduced once.
That is what makes a clean edge cheap.
"""

from __future__ import annotations

import functools
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageChops, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchgen.simulator.paint.palettes import Colour

Point: TypeAlias = tuple[float, float]
OVERSAMPLING = 2
GRAIN = 20
"""Of 255: from the darkest grain to the brightest."""


class Canvas:
    """A square picture of `side` pixels."""

    def __init__(self, side: int, background: Sequence[Colour]) -> None:
        self.side = side
        self.image = gradient(background, (side, side))

    def fill(
        self,
        polygons: Iterable[Sequence[Point]],
        colour: Colour,
        to: Colour | None = None,
        *,
        opacity: float = 1.0,
    ) -> None:
        """Fill polygons; with `to`, from `colour` at their top to it at their bottom."""
        outlines = [[(x * self.side, y * self.side) for x, y in polygon] for polygon in polygons]
        box = self._box([point for outline in outlines for point in outline], 1)
        if box is None:
            return
        mask, draw = self._mask(box)
        for outline in outlines:
            draw.polygon(self._within(box, outline), fill=round(255 * opacity))
        self._paste(colour, to, box, mask)

    def stroke(
        self, lines: Iterable[Sequence[Point]], width: float, colour: Colour, *, opacity: float = 1.0
    ) -> None:
        """Draw lines with round joints."""
        paths = [[(x * self.side, y * self.side) for x, y in line] for line in lines]
        box = self._box([point for path in paths for point in path], width * self.side)
        if box is None:
            return
        mask, draw = self._mask(box)
        thick = max(1, round(width * self.side * OVERSAMPLING))
        for path in paths:
            draw.line(self._within(box, path), fill=round(255 * opacity), width=thick, joint="curve")
        self._paste(colour, None, box, mask)

    def disc(
        self,
        x: float,
        y: float,
        radius: float,
        colour: Colour,
        to: Colour | None = None,
        *,
        opacity: float = 1.0,
    ) -> None:
        """Fill a circle."""
        side, size = self.side, radius * self.side
        ends = [(x * side - size, y * side - size), (x * side + size, y * side + size)]
        box = self._box(ends, 1)
        if box is None:
            return
        mask, draw = self._mask(box)
        draw.ellipse(self._within(box, ends), fill=round(255 * opacity))
        self._paste(colour, to, box, mask)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
        """Light that fades to nothing at the radius."""
        span = max(2, round(2 * radius * self.side))
        mask = _halo(span, strength)
        left, top = round(x * self.side - span / 2), round(y * self.side - span / 2)
        self.image.paste(colour, (left, top, left + span, top + span), mask)

    def veil(self, top: float, bottom: float, colour: Colour, strength: float) -> None:
        """Mist: nothing at the top, `strength` at the bottom."""
        first, last = round(top * self.side), round(bottom * self.side)
        mask = gradient([(0, 0, 0), (round(255 * strength),) * 3], (self.side, last - first)).getchannel(0)
        self.image.paste(colour, (0, first, self.side, last), mask)

    def mirror(self, line: float, colour: Colour, strength: float) -> None:
        """Water below the line: what stands above it upside down, blurred, in the water's colour."""
        first = round(line * self.side)
        above = self.image.crop((0, max(0, 2 * first - self.side), self.side, first))
        size = (self.side, self.side - first)
        # At a quarter of the size a blur costs little, and the enlargement is one itself.
        small = above.resize((self.side // 4, size[1] // 4)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        water = small.filter(ImageFilter.BoxBlur((3, 1))).resize(size, Image.Resampling.BICUBIC)
        self.image.paste(Image.blend(water, Image.new("RGB", size, colour), strength), (0, first))

    def curtain(self, rays: Iterable[tuple[Sequence[Point], float]], top: Colour, bottom: Colour) -> None:
        """Soft light in the shape of overlapping rays, each with its strength."""
        small = 96
        mask = Image.new("L", (small, small))
        for outline, strength in rays:
            ray = Image.new("L", (small, small))
            points = [(x * small, y * small) for x, y in outline]
            ImageDraw.Draw(ray).polygon(points, fill=round(255 * strength))
            mask = ImageChops.add(mask, ray)
        soft = mask.filter(ImageFilter.GaussianBlur(1.6)).resize(self.image.size, Image.Resampling.BICUBIC)
        self.image.paste(gradient([top, bottom], self.image.size), (0, 0), soft)

    @contextmanager
    def sheet(self, top: float = 0.0, bottom: float = 1.0) -> Iterator[Sheet]:
        """The picture from top to bottom at twice its size, to be drawn on."""
        box = (0, round(top * self.side), self.side, round(bottom * self.side))
        size = (self.side * OVERSAMPLING, (box[3] - box[1]) * OVERSAMPLING)
        large = self.image.crop(box).resize(size, Image.Resampling.NEAREST)
        yield Sheet(large, box[1] * OVERSAMPLING)
        self.image.paste(large.reduce(OVERSAMPLING), box)

    def _box(self, points: Sequence[Point], margin: float) -> tuple[int, int, int, int] | None:
        left = max(0, int(min(x for x, _ in points) - margin))
        top = max(0, int(min(y for _, y in points) - margin))
        right = min(self.side, int(max(x for x, _ in points) + margin) + 1)
        bottom = min(self.side, int(max(y for _, y in points) + margin) + 1)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def _mask(self, box: tuple[int, int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        size = ((box[2] - box[0]) * OVERSAMPLING, (box[3] - box[1]) * OVERSAMPLING)
        mask = Image.new("L", size)
        return mask, ImageDraw.Draw(mask)

    def _within(self, box: tuple[int, int, int, int], points: Sequence[Point]) -> list[Point]:
        return [((x - box[0]) * OVERSAMPLING, (y - box[1]) * OVERSAMPLING) for x, y in points]

    def _paste(
        self, colour: Colour, to: Colour | None, box: tuple[int, int, int, int], mask: Image.Image
    ) -> None:
        smooth = mask.reduce(OVERSAMPLING)
        source = colour if to is None else gradient([colour, to], smooth.size)
        self.image.paste(source, box, smooth)


class Sheet:
    """Many opaque shapes, drawn one over the other."""

    def __init__(self, image: Image.Image, above: int) -> None:
        self._side = image.width
        self._above = above
        self._draw = ImageDraw.Draw(image)

    def fill(self, outline: Sequence[Point], colour: Colour) -> None:
        """Fill one polygon."""
        self._draw.polygon(self._within(outline), fill=colour)

    def stroke(self, line: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw one line, without joints: for a straight one, or one of many small steps."""
        self._draw.line(self._within(line), fill=colour, width=max(1, round(width * self._side)))

    def _within(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._side, y * self._side - self._above) for x, y in points]


def gradient(colours: Sequence[Colour], size: tuple[int, int]) -> Image.Image:
    """From the first colour at the top to the last at the bottom."""
    column = Image.new("RGB", (1, len(colours)))
    column.putdata(list(colours))
    tall = column.resize((1, size[1]), Image.Resampling.BILINEAR)
    return tall.resize(size, Image.Resampling.NEAREST)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other in the one."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def grained(image: Image.Image) -> Image.Image:
    """The picture with the soft grain of a print."""
    return ImageChops.add(image, _grain(image.size), offset=-GRAIN // 2)


@functools.lru_cache(maxsize=4)
def _halo(span: int, strength: float) -> Image.Image:
    # The gradient is 180 where the circle touches the edge, and must be nothing there.
    halo = Image.radial_gradient("L").point(
        lambda value: round(255 * strength * max(0.0, 1 - value / 178) ** 1.8)
    )
    return halo.resize((span, span), Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=4)
def _grain(size: tuple[int, int]) -> Image.Image:
    tile = Image.frombytes("L", (512, 512), random.Random("grain").randbytes(512 * 512))
    soft = tile.point(lambda value: value * GRAIN // 255)
    whole = Image.new("L", size)
    for left in range(0, size[0], 512):
        for top in range(0, size[1], 512):
            whole.paste(soft, (left, top))
    return Image.merge("RGB", (whole, whole, whole))
