"""How does one paint patterns and plants?"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import mix
from batchgen.simulator.paint.shapes import across, arc, flower, leaf, rectangle

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.canvas import Canvas, Point
    from batchgen.simulator.paint.palettes import Colour, Palette


def bauhaus(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A grid of quarter circles, half circles, discs and triangles."""
    colours = [*palette.things[0:5:2], palette.accent, palette.light, palette.sky[1]]
    cells = 4
    size = 1 / cells
    for row in range(cells):
        for column in range(cells):
            x, y = column * size, row * size
            ground, shape, extra = dice.sample(colours, 3)
            canvas.fill([[(x, y), (x + size, y), (x + size, y + size), (x, y + size)]], ground)
            _tile(canvas, dice, (x, y), size, (shape, extra))


def _tile(
    canvas: Canvas, dice: random.Random, corner: Point, size: float, colours: tuple[Colour, Colour]
) -> None:
    x, y = corner
    turn, kind = dice.randrange(4), dice.randrange(5)
    corners = [(x, y), (x + size, y), (x + size, y + size), (x, y + size)]
    if kind == 0:
        middle = corners[turn]
        for radius, colour in ((size, colours[0]), (size * 0.55, colours[1])):
            edge = arc(middle, radius, turn * math.pi / 2, math.pi / 2)
            canvas.fill([[middle, *edge]], colour)
    elif kind == 1:
        middle = (x + size / 2, y + size / 2)
        canvas.fill([arc(middle, size / 2, turn * math.pi / 2, math.pi)], colours[0])
        canvas.disc(*middle, size * 0.16, colours[1])
    elif kind == 2:
        canvas.disc(x + size / 2, y + size / 2, size * 0.42, colours[0])
        canvas.disc(x + size / 2, y + size / 2, size * 0.22, colours[1])
    elif kind == 3:
        canvas.fill([[corners[turn], corners[turn - 1], corners[turn - 2]]], colours[0])
    else:
        bars = [(x, y + size * n / 5, y + size * (n + 0.5) / 5) for n in range(5)]
        canvas.fill([[(a, b), (a + size, b), (a + size, c), (a, c)] for a, b, c in bars], colours[0])


def ribbons(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A bundle of silk bands that drift, cross and come together again, light running along them."""
    phases = [dice.uniform(0, 6.28) for _ in range(4)]
    colours = [*palette.things, palette.accent, palette.light]
    canvas.glow(dice.uniform(0.2, 0.8), 0.3, 0.7, palette.light, 0.6)
    count = 15
    with canvas.sheet() as sheet:
        for band in range(count):
            share, colour = band / (count - 1), colours[band % len(colours)]
            edges = [_edges(at, share, phases) for at in across(72)]
            for (at, low, high), (then, next_low, next_high) in pairwise(edges):
                sheen = 0.5 + 0.5 * math.sin(at * 6 + share * 5 + phases[3])
                outline = [(at, low), (then, next_low), (then, next_high), (at, high)]
                sheet.fill(outline, mix(colour, palette.light, 0.45 * sheen**3))


def _edges(at: float, share: float, phases: list[float]) -> tuple[float, float, float]:
    """Where a band is at this x: x, upper and lower edge."""
    drift = 0.16 * math.sin(at * 4.2 + phases[0] + share * 2.4) + 0.06 * math.sin(
        at * 9 + phases[1] - share * 4
    )
    middle = 0.16 + 0.7 * share * (0.72 + 0.28 * math.sin(at * 3.1 + phases[2])) + drift
    half = 0.024 * (0.35 + 0.65 * math.sin(at * 5 + share * 5 + phases[2]) ** 2)
    return at, middle - half, middle + half


def contours(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A map of mountains that are nowhere, tinted by height."""
    x, y = dice.uniform(0.35, 0.65), dice.uniform(0.35, 0.65)
    waves = [(n, dice.uniform(0, 6.28), dice.uniform(0.05, 0.16) / n**0.5) for n in (2, 3, 5)]
    tints = [palette.sky[2], palette.sky[1], *palette.things]
    levels = 16
    with canvas.sheet() as sheet:
        for level in range(levels):
            ease = level / levels
            tint = tints[min(len(tints) - 1, level * len(tints) // levels)]
            ring = _ring((x, y), 0.86 * (1 - ease), ease, waves)
            sheet.fill(ring, tint)
            width = 0.0032 if level % 4 == 0 else 0.0014
            sheet.stroke([*ring, ring[0]], width, mix(tint, palette.ink, 0.45))
    canvas.fill([[(x + 0.02, y - 0.05), (x + 0.075, y - 0.035), (x + 0.02, y - 0.018)]], palette.accent)
    canvas.stroke([[(x + 0.02, y - 0.052), (x + 0.02, y + 0.02)]], 0.004, palette.paper)


def _ring(middle: Point, radius: float, ease: float, waves: list[tuple[int, float, float]]) -> list[Point]:
    """A closed contour; `ease` moves it uphill."""
    ring: list[Point] = []
    for at in across(120)[:-1]:
        angle = at * math.tau
        bump = sum(size * math.sin(n * angle + phase + ease * n * 0.5) for n, phase, size in waves)
        reach = radius * (1 + bump)
        ring.append(
            (
                middle[0] + reach * math.cos(angle) * 1.1 + 0.05 * ease,
                middle[1] + reach * math.sin(angle) - 0.03 * ease,
            )
        )
    return ring


def terrazzo(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Chips of stone in every colour of the palette."""
    colours = [*palette.things, palette.accent, palette.sky[0], palette.sky[1]]
    with canvas.sheet() as sheet:
        sheet.fill(rectangle(0, 0, 1, 1), palette.paper)
        for size, count in ((0.062, 34), (0.034, 90), (0.014, 170)):
            for _ in range(count):
                sheet.fill(_chip(dice, size), dice.choice(colours))


def _chip(dice: random.Random, size: float) -> list[Point]:
    x, y, turn, sides = dice.random(), dice.random(), dice.uniform(0, 6.28), dice.randint(4, 6)
    return [
        (
            x + size * dice.uniform(0.6, 1.1) * math.cos(turn + n * math.tau / sides),
            y + size * dice.uniform(0.5, 1) * math.sin(turn + n * math.tau / sides),
        )
        for n in range(sides)
    ]


def leaves(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Stems of leaves rising from below in front of a pale sun."""
    canvas.disc(
        dice.uniform(0.35, 0.65), dice.uniform(0.3, 0.42), 0.24, palette.light, palette.accent, opacity=0.85
    )
    for index in range(9):
        layer = index // 2
        colour = palette.things[min(4, layer)]
        x = (index * 0.37 + dice.uniform(-0.05, 0.05)) % 1
        lean, top = dice.uniform(-0.18, 0.18), 0.14 + 0.08 * layer + dice.uniform(0, 0.12)
        stem = [(x + lean * t * t, 1.04 - (1.04 - top) * t) for t in (step / 20 for step in range(21))]
        plumes: list[list[Point]] = []
        for n in range(4, 21, 2):
            size = 0.17 * (1.12 - n / 22)
            plumes += [leaf(stem[n], -0.65, size), leaf(stem[n], math.pi + 0.65, size)]
        plumes.append(leaf(stem[20], -math.pi / 2, 0.08))
        canvas.fill(plumes, colour, mix(colour, palette.things[4], 0.45))
        canvas.stroke([stem], 0.004, mix(colour, palette.light, 0.35))
    for _ in range(5):
        flower(canvas, (dice.random(), dice.uniform(0.35, 0.95)), dice.uniform(0.025, 0.045), palette)
