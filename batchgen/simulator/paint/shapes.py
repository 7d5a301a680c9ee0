"""Which outlines and small things do several scenes draw?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import mix

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.canvas import Canvas, Point
    from batchgen.simulator.paint.palettes import Colour, Palette

STEPS = 60


def across(steps: int) -> list[float]:
    """From 0 to 1 in even steps, both ends included."""
    return [step / steps for step in range(steps + 1)]


def rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """An upright one."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> list[Point]:
    """A rectangle with round corners."""
    corners = (
        (right - radius, top + radius, -math.pi / 2),
        (right - radius, bottom - radius, 0.0),
        (left + radius, bottom - radius, math.pi / 2),
        (left + radius, top + radius, math.pi),
    )
    return [point for x, y, start in corners for point in arc((x, y), radius, start, math.pi / 2)]


def ellipse(x: float, y: float, wide: float, high: float) -> list[Point]:
    """With its half width and half height."""
    return [(x + wide * math.cos(at * math.tau), y + high * math.sin(at * math.tau)) for at in across(STEPS)]


def arc(middle: Point, radius: float, start: float, span: float) -> list[Point]:
    """Part of a circle; angles clockwise from the right, as y points down."""
    return [
        (middle[0] + radius * math.cos(start + span * at), middle[1] + radius * math.sin(start + span * at))
        for at in across(STEPS // 2)
    ]


def smile(x: float, y: float, wide: float, high: float) -> list[Point]:
    """The lower half of an ellipse: a smile, or an eye that is closed."""
    return ellipse(x, y, wide, high)[: STEPS // 2 + 1]


def mirrored(half: list[Point], x: float) -> list[Point]:
    """A right half and its mirror image, as one outline."""
    return half + [(2 * x - px, py) for px, py in reversed(half)]


def leaf(foot: Point, angle: float, length: float) -> list[Point]:
    """Pointed at both ends, a third as wide as long."""
    along, aside = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    edge = [(at, math.sin(at * math.pi) ** 0.8 * 0.17) for at in across(12)]
    outline = edge + [(at, -width) for at, width in reversed(edge)]
    return [
        (
            foot[0] + length * (at * along[0] + width * aside[0]),
            foot[1] + length * (at * along[1] + width * aside[1]),
        )
        for at, width in outline
    ]


def flower(canvas: Canvas, middle: Point, size: float, palette: Palette) -> None:
    """Seven petals around a heart of the accent's colour."""
    petals = [leaf(middle, n * math.tau / 7, size * 1.2) for n in range(7)]
    canvas.fill(petals, palette.light, mix(palette.light, palette.accent, 0.35))
    canvas.disc(*middle, size * 0.3, palette.accent)


def steam(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    """Three wisps, rising from (x, y)."""
    for offset in (-0.04, 0.0, 0.04):
        wisp = [(x + offset + 0.012 * math.sin(at * 7 + offset * 60), y - 0.11 * at) for at in across(20)]
        canvas.stroke([wisp], 0.007, colour, opacity=0.5)


def stars(canvas: Canvas, dice: random.Random, count: int, bottom: float) -> None:
    """Small ones, more of them towards the top."""
    for size, share in ((0.0011, 0.7), (0.0019, 0.3)):
        dots: list[list[Point]] = []
        for _ in range(int(count * share)):
            x, y = dice.random(), dice.random() ** 1.3 * bottom
            dots.append([(x - size, y), (x, y - size), (x + size, y), (x, y + size)])
        canvas.fill(dots, (255, 250, 235), opacity=0.9)
