"""How does one paint places: hills, dunes, the sea, forests, a city, the sky at night?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import Canvas, Point, mix

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.palettes import Palette

STEPS = 72


def hills(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Ridges behind ridges, mist between them, a large sun."""
    x = dice.uniform(0.28, 0.72)
    _sun(canvas, x, dice.uniform(0.3, 0.4), dice.uniform(0.1, 0.15), palette)
    for index, colour in enumerate(palette.things):
        base = 0.46 + index * 0.11
        ridge = _ridge(dice, base, 0.085 - index * 0.008, rough=0.35)
        canvas.fill([_below(ridge)], colour, mix(colour, palette.sky[2], 0.55 - index * 0.09))
    _birds(canvas, dice, palette, x)


def peaks(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Mountains with snow, a lake in front of them that holds the light."""
    x = dice.uniform(0.25, 0.75)
    _sun(canvas, x, 0.26, 0.075, palette)
    far = [(at, 0.5 - 0.1 * abs(math.sin(at * 9 + x))) for at in _across()]
    canvas.fill([_below(far)], mix(palette.things[0], palette.sky[2], 0.4))
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
        canvas.fill([shade], palette.things[3], palette.things[2], 0.55)
        snow = 0.24
        side, low = half * snow, top_y + (0.7 - top_y) * snow
        edge = [(top_x + side, low), (top_x + side * 0.4, low - 0.012), (top_x + side * 0.1, low + 0.018)]
        edge += [(top_x - side * 0.35, low - 0.014), (top_x - side * 0.7, low + 0.012), (top_x - side, low)]
        canvas.fill([[(top_x, top_y), *edge]], mix(palette.light, palette.sky[2], 0.12))
    lake = [(0, 0.69), (1, 0.69), (1, 1), (0, 1)]
    canvas.fill([lake], mix(palette.sky[2], palette.things[2], 0.3), palette.things[4])
    _glints(canvas, dice, palette, x, 0.71)
    _firs(canvas, dice, palette)


def dunes(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Crests with a lit and a dark side, and a small caravan's worth of silence."""
    _sun(canvas, dice.uniform(0.2, 0.8), dice.uniform(0.2, 0.32), dice.uniform(0.07, 0.12), palette)
    for index in range(4):
        base, colour = 0.5 + index * 0.12, palette.things[index]
        peak, height = dice.uniform(0.15, 0.85), 0.1 + 0.02 * index
        crest = [(at, base - height * math.exp(-(((at - peak) / 0.3) ** 2))) for at in _across()]
        canvas.fill([_below(crest)], mix(colour, palette.light, 0.22), colour)
        lee = [(px, py) for px, py in crest if px >= peak]
        swing = 0.16 * dice.choice((-1, 1))
        spine = [
            (peak + swing * math.sin(t * 2.6) * t, crest_y(peak, base, height) + t * 0.5) for t in _across(24)
        ]
        canvas.fill([[*lee, (1, 1), *reversed(spine)]], palette.things[min(4, index + 1)], None, 0.6)
    ripples = [
        [(at, 0.93 + row * 0.016 + 0.006 * math.sin(at * 22 + row * 1.7)) for at in _across()]
        for row in range(5)
    ]
    canvas.stroke(ripples, 0.0016, palette.light, 0.3)


def crest_y(peak: float, base: float, height: float) -> float:
    """Where a dune's crest starts: its height at the peak, on the grid of the outline."""
    nearest = math.ceil(peak * STEPS) / STEPS
    return base - height * math.exp(-(((nearest - peak) / 0.3) ** 2))


def sea(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Swell after swell with foam on the crests, the sun's road on it, one small sail."""
    x = dice.uniform(0.3, 0.7)
    _sun(canvas, x, 0.37, dice.uniform(0.11, 0.15), palette)
    canvas.fill(
        [[(0, 0.46), (1, 0.46), (1, 1), (0, 1)]],
        mix(palette.sky[2], palette.things[1], 0.45),
        palette.things[2],
    )
    _glints(canvas, dice, palette, x, 0.475)
    _sail(canvas, dice.choice((0.2, 0.8)) + dice.uniform(-0.06, 0.06), 0.47, palette)
    for index in range(5):
        base, length = 0.56 + index * 0.095, 9 - index * 1.1
        phase = dice.uniform(0, 6.28)
        swell = [(at, base + (0.01 + 0.006 * index) * _swell(at * length + phase)) for at in _across()]
        near, far = palette.things[min(4, index + 1)], palette.things[index]
        canvas.fill([_below(swell)], mix(far, palette.light, 0.12), near)
        canvas.stroke([swell], 0.0022 + index * 0.0009, palette.light, 0.75)
        lower = [(px, py + 0.016 + 0.004 * index) for px, py in swell]
        canvas.stroke([lower], 0.0015, palette.light, 0.28)


def aurora(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Curtains of light over dark firs."""
    _stars(canvas, dice, 130, 0.75)
    tones = [(108, 240, 178), (94, 214, 214), palette.accent, (164, 120, 240)]
    for curtain in range(3):
        tone, phase = tones[curtain if curtain < 2 else dice.randrange(2, 4)], dice.uniform(0, 6.28)
        for step in range(46):
            at = step / 45
            low = 0.42 + 0.13 * curtain - 0.2 * at + 0.07 * math.sin(at * 7 + phase)
            high = low - 0.3 - 0.08 * math.sin(at * 11 + phase * 2)
            ray = [(at - 0.02, low), (at - 0.006, high), (at + 0.014, high), (at + 0.028, low)]
            canvas.fill([ray], mix(tone, palette.sky[0], 0.75), tone, 0.16)
    ridge = _ridge(dice, 0.74, 0.07, rough=0.5)
    canvas.fill([_below(ridge)], palette.things[2], palette.things[3])
    _firs(canvas, dice, palette)


def city(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Rows of houses, windows lit, a moon that is too big."""
    _stars(canvas, dice, 50, 0.4)
    _sun(canvas, dice.uniform(0.25, 0.75), dice.uniform(0.22, 0.32), dice.uniform(0.09, 0.14), palette)
    for row in range(3):
        colour, left = palette.things[1 + row], -0.05
        lit: list[list[Point]] = []
        while left < 1:
            width, top = dice.uniform(0.07, 0.13), 0.34 + 0.13 * row + dice.uniform(0, 0.2)
            canvas.fill([_block(dice, left, top, width)], colour, mix(colour, palette.accent, 0.16))
            lit += _windows(dice, left, top, width, 0.012 + 0.003 * row)
            left += width
        canvas.fill(lit, mix(palette.light, palette.accent, 0.25), None, 0.55 + 0.2 * row)
        canvas.veil(0.6, 1.0, mix(palette.sky[2], palette.accent, 0.2), 0.3 - 0.1 * row)


def _block(dice: random.Random, left: float, top: float, width: float) -> list[Point]:
    right, roof = left + width, dice.randrange(4)
    caps: list[list[Point]] = [
        [(left, top), (right, top)],
        [(left, top), (left + width / 2, top - 0.04), (right, top)],
        [(left, top), (right, top - 0.035)],
        [(left, top), (left + width * 0.45, top), (left + width * 0.45, top - 0.06)]
        + [(left + width * 0.55, top - 0.06), (left + width * 0.55, top), (right, top)],
    ]
    return [*caps[roof], (right, 1), (left, 1)]


def _windows(dice: random.Random, left: float, top: float, width: float, size: float) -> list[list[Point]]:
    found: list[list[Point]] = []
    columns = max(1, int(width / (size * 2)))
    gap = width / columns
    for row in range(int((0.97 - top) / (size * 2.4))):
        for column in range(columns):
            if dice.random() < 0.42:
                x, y = left + gap * (column + 0.5) - size / 2, top + 0.03 + row * size * 2.4
                found.append([(x, y), (x + size, y), (x + size, y + size * 1.3), (x, y + size * 1.3)])
    return found or [[(left, 1), (left, 1), (left, 1)]]


def _across(steps: int = STEPS) -> list[float]:
    return [step / steps for step in range(steps + 1)]


def _below(line: list[Point]) -> list[Point]:
    return [*line, (1, 1), (0, 1)]


def _swell(at: float) -> float:
    """A wave with sharp crests and round troughs."""
    return 1 - 2 * abs(math.sin(at))


def _ridge(dice: random.Random, base: float, height: float, *, rough: float) -> list[Point]:
    waves = [(dice.uniform(1.5, 3) * 2**n, dice.uniform(0, 6.28), rough**n) for n in range(5)]
    return [
        (at, base + height * sum(size * math.sin(at * length + phase) for length, phase, size in waves))
        for at in _across()
    ]


def _sun(canvas: Canvas, x: float, y: float, radius: float, palette: Palette) -> None:
    canvas.glow(x, y, radius * 4, palette.light, 0.7)
    canvas.disc(x, y, radius, palette.light, mix(palette.light, palette.accent, 0.45))


def _glints(canvas: Canvas, dice: random.Random, palette: Palette, x: float, top: float) -> None:
    lines: list[list[Point]] = []
    for row in range(22):
        y, reach = top + row * 0.013, 0.03 + row * 0.006
        for _ in range(2):
            middle, half = x + dice.gauss(0, reach), dice.uniform(0.006, 0.03)
            lines.append([(middle - half, y), (middle + half, y)])
    canvas.stroke(lines, 0.003, palette.light, 0.6)


def _sail(canvas: Canvas, x: float, y: float, palette: Palette) -> None:
    canvas.fill([[(x, y - 0.1), (x + 0.055, y - 0.014), (x, y - 0.014)]], palette.paper)
    canvas.fill([[(x - 0.008, y - 0.085), (x - 0.008, y - 0.014), (x - 0.042, y - 0.014)]], palette.accent)
    canvas.fill(
        [[(x - 0.05, y - 0.008), (x + 0.06, y - 0.008), (x + 0.04, y + 0.014), (x - 0.034, y + 0.014)]],
        palette.ink,
    )


def _stars(canvas: Canvas, dice: random.Random, count: int, bottom: float) -> None:
    for size, share in ((0.0011, 0.7), (0.0019, 0.3)):
        dots: list[list[Point]] = []
        for _ in range(int(count * share)):
            x, y = dice.random(), dice.random() ** 1.3 * bottom
            dots.append([(x - size, y), (x, y - size), (x + size, y), (x, y + size)])
        canvas.fill(dots, (255, 250, 235), None, 0.9)


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


def _birds(canvas: Canvas, dice: random.Random, palette: Palette, x: float) -> None:
    lines: list[list[Point]] = []
    for _ in range(dice.randint(3, 6)):
        at, y, size = x + dice.uniform(-0.25, 0.25), dice.uniform(0.12, 0.3), dice.uniform(0.009, 0.016)
        lines.append([(at - size, y - size * 0.5), (at - size * 0.4, y - size * 0.6), (at, y)])
        lines.append([(at, y), (at + size * 0.4, y - size * 0.6), (at + size, y - size * 0.5)])
    canvas.stroke(lines, 0.0025, palette.ink, 0.8)
