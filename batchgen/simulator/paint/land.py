"""How does one paint the land: hills, mountains, dunes, the sea, the sky at night?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import mix
from batchgen.simulator.paint.shapes import across, rectangle, stars

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.canvas import Canvas, Point
    from batchgen.simulator.paint.palettes import Palette

STEPS = 72


def hills(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Ridges behind ridges, mist between them, a large sun."""
    x = dice.uniform(0.28, 0.72)
    sun(canvas, x, dice.uniform(0.3, 0.4), dice.uniform(0.1, 0.15), palette)
    for index, colour in enumerate(palette.things):
        base = 0.46 + index * 0.11
        crest = ridge(dice, base, 0.085 - index * 0.008, rough=0.35)
        canvas.fill([below(crest)], colour, mix(colour, palette.sky[2], 0.55 - index * 0.09))
    birds(canvas, dice, palette, x)


def peaks(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Mountains with snow, a lake in front of them that holds the light."""
    x = dice.uniform(0.25, 0.75)
    sun(canvas, x, 0.26, 0.075, palette)
    far = [(at, 0.5 - 0.1 * abs(math.sin(at * 9 + x))) for at in across(STEPS)]
    canvas.fill([below(far)], mix(palette.things[0], palette.sky[2], 0.4))
    tops = sorted((dice.uniform(0.08, 0.92), dice.uniform(0.3, 0.42)) for _ in range(4))
    for index, (top_x, top_y) in enumerate(tops):
        half, colour = dice.uniform(0.28, 0.38), palette.things[1 + index % 2]
        canvas.fill([[(top_x - half, 0.7), (top_x, top_y), (top_x + half, 0.7)]], colour, palette.things[2])
        shade = [
            (top_x, top_y),
            (top_x + half, 0.7),
            (top_x + half * 0.12, 0.7),
            (top_x - half * 0.06, top_y + 0.12),
        ]
        canvas.fill([shade], palette.things[3], palette.things[2], opacity=0.55)
        snow = 0.24
        side, low = half * snow, top_y + (0.7 - top_y) * snow
        edge = [(top_x + side, low), (top_x + side * 0.4, low - 0.012), (top_x + side * 0.1, low + 0.018)]
        edge += [(top_x - side * 0.35, low - 0.014), (top_x - side * 0.7, low + 0.012), (top_x - side, low)]
        canvas.fill([[(top_x, top_y), *edge]], mix(palette.light, palette.sky[2], 0.12))
    canvas.mirror(0.7, mix(palette.sky[2], palette.things[3], 0.55), 0.4)
    canvas.stroke([[(0, 0.7), (1, 0.7)]], 0.003, palette.light, opacity=0.6)
    glints(canvas, dice, palette, x, 0.72)
    _canoe(canvas, dice.uniform(0.25, 0.45), 0.8, palette)
    _canoe(canvas, dice.uniform(0.6, 0.75), 0.765, palette)
    _firs(canvas, dice, palette)


def _canoe(canvas: Canvas, x: float, y: float, palette: Palette) -> None:
    hull = [(x - 0.05, y - 0.008), (x - 0.035, y + 0.009), (x + 0.035, y + 0.009), (x + 0.05, y - 0.008)]
    canvas.fill([[*hull, (x + 0.03, y), (x - 0.03, y)]], palette.accent)
    canvas.disc(x, y - 0.024, 0.007, palette.ink)
    canvas.fill(
        [[(x - 0.008, y - 0.016), (x + 0.008, y - 0.016), (x + 0.011, y + 0.002), (x - 0.011, y + 0.002)]],
        palette.ink,
    )
    canvas.stroke([[(x - 0.014, y - 0.02), (x + 0.024, y + 0.014)]], 0.003, palette.ink)


def dunes(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Crests with a lit and a dark side, and a small caravan."""
    sun(canvas, dice.uniform(0.2, 0.8), dice.uniform(0.2, 0.3), dice.uniform(0.07, 0.11), palette)
    left = dice.random() < 0.5
    for index in range(4):
        base, colour = 0.54 + index * 0.115, palette.things[index]
        peak = (0.3 if left == (index % 2 == 0) else 0.7) + dice.uniform(-0.1, 0.1)
        height, bend = 0.13 + 0.02 * index, dice.uniform(0.1, 0.2)
        crest = [(at, _crest(at - peak, base, height)) for at in across(STEPS)]
        canvas.fill([below(crest)], mix(colour, palette.light, 0.3), colour)
        # The spine runs down from the peak; the wind lies on its left, the shadow on its right.
        spine = [
            (peak + bend * math.sin(at * 4.5) * at, _crest(0, base, height) + 0.6 * at**1.2)
            for at in across(30)
        ]
        lee = [(x, y) for x, y in crest if x > peak]
        canvas.fill(
            [[*reversed(spine), *lee, (1, 1)]], palette.things[min(4, index + 1)], colour, opacity=0.75
        )
        if index == 1:
            _caravan(canvas, peak, base, height, palette)


def _crest(offset: float, base: float, height: float) -> float:
    """How high a dune is, so far from its peak: sharp at the top, running out flat."""
    return base - height * math.exp(-abs(offset) * 3.4) + 0.012 * math.sin(offset * 9)


def _caravan(canvas: Canvas, peak: float, base: float, height: float, palette: Palette) -> None:
    """Three camels, on the lit side of the crest."""
    for n in range(3):
        offset = -0.07 - 0.05 * n
        x, y = peak + offset, _crest(offset, base, height) + 0.002
        camel = [
            (-0.016, -0.02),
            (-0.008, -0.03),
            (0, -0.02),
            (0.012, -0.022),
            (0.015, -0.036),
            (0.022, -0.036),
        ]
        camel += [(0.02, -0.03), (0.014, -0.012), (-0.014, -0.012)]
        canvas.fill([[(x + dx, y + dy) for dx, dy in camel]], palette.ink)
        legs = [[(x + dx, y - 0.014), (x + dx, y + 0.001)] for dx in (-0.012, -0.006, 0.006, 0.011)]
        canvas.stroke(legs, 0.003, palette.ink)


def sea(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Swell after swell with foam on the crests, the sun's road on it, one small sail."""
    x = dice.uniform(0.3, 0.7)
    sun(canvas, x, 0.37, dice.uniform(0.11, 0.15), palette)
    canvas.fill(
        [[(0, 0.46), (1, 0.46), (1, 1), (0, 1)]],
        mix(palette.sky[2], palette.things[1], 0.45),
        palette.things[2],
    )
    glints(canvas, dice, palette, x, 0.475)
    sail(canvas, dice.choice((0.2, 0.8)) + dice.uniform(-0.06, 0.06), 0.47, palette)
    for index in range(5):
        base, length = 0.56 + index * 0.095, 9 - index * 1.1
        phase = dice.uniform(0, 6.28)
        swell = [(at, base + (0.01 + 0.006 * index) * _swell(at * length + phase)) for at in across(STEPS)]
        near, far = palette.things[min(4, index + 1)], palette.things[index]
        canvas.fill([below(swell)], mix(far, palette.light, 0.12), near)
        canvas.stroke([swell], 0.0022 + index * 0.0009, palette.light, opacity=0.75)
        lower = [(px, py + 0.016 + 0.004 * index) for px, py in swell]
        canvas.stroke([lower], 0.0015, palette.light, opacity=0.28)


def aurora(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Curtains of light over dark firs, and a cabin with one lit window."""
    stars(canvas, dice, 130, 0.75)
    tones = [(108, 240, 178), (94, 214, 214), mix(palette.accent, (164, 120, 240), 0.6)]
    for curtain, tone in enumerate(tones):
        phase, base = dice.uniform(0, 6.28), 0.4 + 0.11 * curtain
        rays: list[tuple[list[Point], float]] = []
        for at in across(40):
            low = base - 0.16 * at + 0.07 * math.sin(at * 7 + phase)
            high = low - 0.26 - 0.1 * math.sin(at * 11 + phase * 2)
            outline = [(at - 0.02, low), (at - 0.01, high), (at + 0.01, high), (at + 0.03, low)]
            rays.append((outline, 0.2 + 0.13 * math.sin(at * 23 + phase)))
        canvas.curtain(rays, mix(tone, palette.sky[0], 0.55), tone)
    far = ridge(dice, 0.76, 0.05, rough=0.5)
    canvas.fill([below(far)], palette.things[2], palette.things[3])
    _cabin(canvas, 0.5 + dice.uniform(-0.12, 0.12), 0.835, palette)
    _firs(canvas, dice, palette)


def _cabin(canvas: Canvas, x: float, y: float, palette: Palette) -> None:
    wall = mix(palette.things[3], (120, 74, 52), 0.35)
    canvas.glow(x, y - 0.03, 0.13, palette.light, 0.75)
    canvas.fill([rectangle(x - 0.055, y - 0.06, x + 0.055, y + 0.02)], wall)
    canvas.fill([[(x - 0.075, y - 0.055), (x, y - 0.115), (x + 0.075, y - 0.055)]], palette.things[4])
    canvas.fill([rectangle(x - 0.018, y - 0.042, x + 0.018, y - 0.012)], palette.light)
    frame = [[(x, y - 0.042), (x, y - 0.012)], [(x - 0.018, y - 0.027), (x + 0.018, y - 0.027)]]
    canvas.stroke(frame, 0.003, wall)


def below(line: list[Point]) -> list[Point]:
    """Everything under the line."""
    return [*line, (1, 1), (0, 1)]


def _swell(at: float) -> float:
    """A wave with sharp crests and round troughs."""
    return 1 - 2 * abs(math.sin(at))


def ridge(dice: random.Random, base: float, height: float, *, rough: float) -> list[Point]:
    """A line of hills."""
    waves = [(dice.uniform(1.5, 3) * 2**n, dice.uniform(0, 6.28), rough**n) for n in range(5)]
    return [
        (at, base + height * sum(size * math.sin(at * length + phase) for length, phase, size in waves))
        for at in across(STEPS)
    ]


def sun(canvas: Canvas, x: float, y: float, radius: float, palette: Palette) -> None:
    """The sun, or a moon, in its light."""
    canvas.glow(x, y, radius * 4, palette.light, 0.7)
    canvas.disc(x, y, radius, palette.light, mix(palette.light, palette.warmth, 0.45))


def glints(canvas: Canvas, dice: random.Random, palette: Palette, x: float, top: float) -> None:
    """The road of light on the water."""
    lines: list[list[Point]] = []
    for row in range(22):
        y, reach = top + row * 0.013, 0.03 + row * 0.006
        for _ in range(2):
            middle, half = x + dice.gauss(0, reach), dice.uniform(0.006, 0.03)
            lines.append([(middle - half, y), (middle + half, y)])
    canvas.stroke(lines, 0.003, palette.light, opacity=0.6)


def sail(canvas: Canvas, x: float, y: float, palette: Palette) -> None:
    """A sailing boat."""
    canvas.fill([[(x, y - 0.1), (x + 0.055, y - 0.014), (x, y - 0.014)]], palette.paper)
    canvas.fill([[(x - 0.008, y - 0.085), (x - 0.008, y - 0.014), (x - 0.042, y - 0.014)]], palette.accent)
    canvas.fill(
        [[(x - 0.05, y - 0.008), (x + 0.06, y - 0.008), (x + 0.04, y + 0.014), (x - 0.034, y + 0.014)]],
        palette.ink,
    )


def _firs(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    for row, (base, size) in enumerate(((0.9, 0.12), (1.02, 0.2))):
        trees: list[list[Point]] = []
        x = -0.02
        while x < 1.02:
            height, far = size * dice.uniform(0.6, 1.15), abs(x - 0.5) * 0.12
            trees.append(_fir(x, base, height * (0.55 + far * 8)))
            x += size * dice.uniform(0.2, 0.45)
        canvas.fill([*trees, [(0, base - 0.01), (1, base - 0.01), (1, 1), (0, 1)]], palette.things[3 + row])


def _fir(x: float, base: float, height: float) -> list[Point]:
    """Four tiers, narrow at the top."""
    right: list[Point] = [(x, base - height)]
    for tier in range(1, 5):
        y = base - height + height * tier / 4
        right += [(x + height * 0.06 * tier, y), (x + height * 0.03 * tier, y - height * 0.02)]
    return right + [(2 * x - px, py) for px, py in reversed(right)]


def birds(canvas: Canvas, dice: random.Random, palette: Palette, x: float) -> None:
    """Some gulls, far away."""
    lines: list[list[Point]] = []
    for _ in range(dice.randint(3, 6)):
        at, y, size = x + dice.uniform(-0.25, 0.25), dice.uniform(0.12, 0.3), dice.uniform(0.009, 0.016)
        lines.append([(at - size, y - size * 0.5), (at - size * 0.4, y - size * 0.6), (at, y)])
        lines.append([(at, y), (at + size * 0.4, y - size * 0.6), (at + size, y - size * 0.5)])
    canvas.stroke(lines, 0.0025, palette.ink, opacity=0.8)
