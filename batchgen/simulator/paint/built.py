"""How does one paint what people built: a city, an old town, a harbour, a castle, a road with a car on it?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import mix
from batchgen.simulator.paint.land import below, birds, hills, ridge, sail, sun
from batchgen.simulator.paint.shapes import across, arc, ellipse, rectangle, rounded, stars

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.canvas import Canvas, Point, Sheet
    from batchgen.simulator.paint.palettes import Palette


def city(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Rows of houses, windows lit, a moon that is too big."""
    stars(canvas, dice, 50, 0.4)
    sun(canvas, dice.uniform(0.25, 0.75), dice.uniform(0.22, 0.32), dice.uniform(0.1, 0.15), palette)
    haze = mix(palette.sky[2], palette.accent, 0.2)
    with canvas.sheet(0.25, 1.0) as sheet:
        for row in range(3):
            colour, left = mix(palette.things[1 + row], haze, 0.24 - 0.1 * row), -0.05
            light = mix(mix(palette.light, palette.accent, 0.25), colour, 0.4 - 0.2 * row)
            while left < 1:
                width, top = dice.uniform(0.07, 0.13), 0.34 + 0.13 * row + dice.uniform(0, 0.2)
                sheet.fill(_block(dice, left, top, width), mix(colour, palette.light, dice.uniform(0, 0.06)))
                for window in _windows(dice, left, top, width, 0.012 + 0.003 * row):
                    sheet.fill(window, light)
                left += width
    canvas.veil(0.6, 1.0, haze, 0.25)


def town(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A row of gabled houses after rain: their light stands in the wet street."""
    stars(canvas, dice, 30, 0.35)
    sun(canvas, dice.choice((0.2, 0.8)), 0.2, 0.06, palette)
    paints = [palette.accent, *palette.things[:4], mix(palette.light, palette.things[1], 0.4)]
    x, previous = -0.04, -1
    with canvas.sheet(0.25, 0.74) as sheet:
        while x < 1:
            width, top = dice.uniform(0.13, 0.19), dice.uniform(0.27, 0.38)
            paint = dice.choice([n for n in range(len(paints)) if n != previous])
            _house(sheet, dice, (x, top, width), (mix(paints[paint], palette.things[3], 0.25), palette))
            x, previous = x + width, paint
    canvas.glow(0.5, 0.68, 0.5, palette.light, 0.35)
    canvas.mirror(0.72, palette.things[4], 0.45)
    canvas.fill([rectangle(0, 0.718, 1, 0.728)], mix(palette.things[4], palette.light, 0.3))
    for lamp in (0.16, 0.84):
        canvas.stroke([[(lamp, 0.73), (lamp, 0.5)]], 0.007, palette.ink)
        canvas.glow(lamp, 0.49, 0.12, palette.light, 0.9)
        canvas.fill([rounded(lamp - 0.014, 0.465, lamp + 0.014, 0.505, 0.008)], palette.light)
    _walker(canvas, 0.4 + dice.uniform(0, 0.2), palette)


def _house(
    sheet: Sheet,
    dice: random.Random,
    place: tuple[float, float, float],
    paint: tuple[tuple[int, int, int], Palette],
) -> None:
    """A front with a stepped or a plain gable, a door and windows, most of them lit."""
    (x, top, width), (wall, palette) = place, paint
    roof = mix(palette.things[4], wall, 0.15)
    middle, right = x + width / 2, x + width
    sheet.fill([(x, top + 0.11), (middle, top), (right, top + 0.11)], roof)
    sheet.fill([(x, top + 0.1), (right, top + 0.1), (right, 0.73), (x, 0.73)], wall)
    sheet.fill([(x + 0.022, top + 0.1), (middle, top + 0.026), (right - 0.022, top + 0.1)], wall)
    warm, dark = mix(palette.light, palette.accent, 0.12), mix(wall, palette.ink, 0.55)
    step = width / 3
    for row in range(3):
        for column in range(3):
            left, high = x + step * column + step * 0.27, top + 0.13 + row * 0.085
            if high < 0.56:
                lit = dice.random() < 0.6
                sheet.fill(rectangle(left, high, left + step * 0.46, high + 0.05), warm if lit else dark)
                sheet.stroke([(left + step * 0.23, high), (left + step * 0.23, high + 0.05)], 0.002, wall)
    sheet.fill(rectangle(x + step * 0.2, 0.61, middle + step * 0.1, 0.69), warm)
    sheet.fill(rectangle(middle + step * 0.35, 0.61, right - step * 0.25, 0.73), dark)
    awning = [
        (x + step * 0.1, 0.632),
        (middle + step * 0.2, 0.632),
        (middle + step * 0.12, 0.6),
        (x + step * 0.18, 0.6),
    ]
    sheet.fill(awning, palette.accent)


def _walker(canvas: Canvas, x: float, palette: Palette) -> None:
    """Somebody under an umbrella."""
    canvas.fill([[(x - 0.016, 0.66), (x + 0.016, 0.66), (x + 0.024, 0.745), (x - 0.024, 0.745)]], palette.ink)
    canvas.stroke(
        [[(x - 0.008, 0.74), (x - 0.009, 0.772)], [(x + 0.008, 0.74), (x + 0.01, 0.772)]], 0.008, palette.ink
    )
    canvas.disc(x, 0.645, 0.015, palette.ink)
    canvas.fill([arc((x, 0.625), 0.058, math.pi, math.pi)], palette.accent)
    canvas.stroke([[(x, 0.56), (x, 0.66)]], 0.003, palette.ink)


def harbour(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A bay at evening, its houses and paper lanterns mirrored in still water."""
    sun(canvas, dice.uniform(0.3, 0.7), 0.3, 0.085, palette)
    for base, tone in ((0.44, 0), (0.5, 1)):
        far = [*ridge(dice, base, 0.04, rough=0.4), (1, 0.58), (0, 0.58)]
        canvas.fill([far], palette.things[tone], palette.things[tone + 1])
    with canvas.sheet(0.4, 0.57) as sheet:
        x = -0.03
        while x < 1:
            width, top = dice.uniform(0.05, 0.085), dice.uniform(0.44, 0.5)
            wall = mix(palette.things[3], palette.things[2], dice.random() * 0.6)
            sheet.fill(
                [(x, 0.56), (x, top), (x + width / 2, top - 0.03), (x + width, top), (x + width, 0.56)], wall
            )
            for n in range(4):
                if dice.random() < 0.6:
                    left, high = x + 0.012 + (n % 2) * width * 0.45, top + 0.01 + n // 2 * 0.032
                    sheet.fill(rectangle(left, high, left + 0.013, high + 0.018), palette.light)
            x += width + dice.choice((0, 0, 0.02))
    canvas.mirror(0.56, palette.things[3], 0.4)
    sail(canvas, dice.choice((0.22, 0.78)), 0.63, palette)
    for row in range(6):
        y, size = 0.615 + row**1.4 * 0.031, 0.006 + row * 0.0032
        spots = [(at + dice.uniform(-0.06, 0.06), y + dice.uniform(-0.012, 0.012)) for at in across(8 - row)]
        _float(canvas, spots, size, palette)


def _float(canvas: Canvas, spots: list[Point], size: float, palette: Palette) -> None:
    """Paper lanterns on the water, and their light in it."""
    for x, y in spots:
        canvas.glow(x, y, size * 5, palette.light, 0.55)
    lights = [ellipse(x, y + size * 3, size * 0.5, size * 1.8) for x, y in spots]
    canvas.fill(lights, palette.light, opacity=0.35)
    paper = [rounded(x - size, y - size * 1.2, x + size, y + size, size * 0.5) for x, y in spots]
    canvas.fill(paper, palette.light, palette.warmth)


def castle(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Towers on a hill, above the mist."""
    hills(canvas, dice, palette)
    wall, x = mix(palette.things[3], palette.sky[2], 0.12), 0.5 + dice.uniform(-0.1, 0.1)
    rock = [
        (x - 0.34, 0.8),
        (x - 0.2, 0.62),
        (x - 0.08, 0.57),
        (x + 0.1, 0.57),
        (x + 0.2, 0.63),
        (x + 0.36, 0.8),
    ]
    canvas.fill([rock], mix(palette.things[3], palette.things[2], 0.5), palette.things[2])
    for offset, top, half in (
        (-0.13, 0.44, 0.03),
        (0.13, 0.46, 0.03),
        (-0.045, 0.34, 0.026),
        (0.06, 0.39, 0.034),
    ):
        left, right = x + offset - half, x + offset + half
        canvas.fill([rectangle(left, top, right, 0.63)], wall, palette.things[2])
        canvas.fill([[(left - 0.012, top), (x + offset, top - 0.1), (right + 0.012, top)]], palette.accent)
        canvas.fill(
            [rounded(x + offset - 0.007, top + 0.04, x + offset + 0.007, top + 0.07, 0.006)], palette.light
        )
    canvas.fill([rectangle(x - 0.13, 0.52, x + 0.13, 0.64)], wall, palette.things[2])
    teeth = [rectangle(x - 0.13 + n * 0.035, 0.507, x - 0.112 + n * 0.035, 0.522) for n in range(8)]
    canvas.fill(teeth, wall)
    canvas.fill(
        [[*arc((x, 0.6), 0.025, math.pi, math.pi), (x + 0.025, 0.64), (x - 0.025, 0.64)]], palette.things[4]
    )
    canvas.veil(0.56, 0.86, palette.sky[2], 0.45)
    canvas.fill([below(ridge(dice, 0.86, 0.03, rough=0.4))], palette.things[3], palette.things[4])


def road(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A car on its way through the hills."""
    hills(canvas, dice, palette)
    canvas.fill([rectangle(0, 0.8, 1, 1)], mix(palette.things[4], palette.ink, 0.4), palette.things[4])
    canvas.fill(
        [rectangle(0.02 + n * 0.2, 0.9, 0.13 + n * 0.2, 0.908) for n in range(5)], palette.paper, opacity=0.8
    )
    body = palette.accent
    dark = mix(body, palette.ink, 0.4)
    cabin = [(0.355, 0.7), (0.41, 0.615), (0.435, 0.602), (0.585, 0.602), (0.615, 0.618), (0.665, 0.7)]
    canvas.fill([ellipse(0.5, 0.843, 0.28, 0.014)], palette.ink, opacity=0.5)
    canvas.fill([cabin], mix(body, palette.light, 0.15), body)
    glass = mix(palette.sky[2], palette.light, 0.4)
    canvas.fill(
        [
            [(0.385, 0.695), (0.428, 0.628), (0.495, 0.624), (0.495, 0.695)],
            [(0.51, 0.695), (0.51, 0.624), (0.588, 0.626), (0.632, 0.695)],
        ],
        glass,
        mix(glass, palette.things[1], 0.4),
    )
    hull = rounded(0.245, 0.688, 0.765, 0.81, 0.045)
    canvas.fill([hull], mix(body, palette.light, 0.1), dark)
    canvas.stroke([[(0.27, 0.742), (0.74, 0.742)]], 0.005, palette.light, opacity=0.5)
    canvas.stroke([[(0.503, 0.7), (0.503, 0.795)], [(0.52, 0.73), (0.55, 0.73)]], 0.004, dark)
    canvas.glow(0.775, 0.735, 0.09, palette.light, 0.7)
    canvas.disc(0.748, 0.735, 0.017, palette.light)
    canvas.fill([rounded(0.247, 0.72, 0.262, 0.755, 0.007)], (226, 74, 66))
    for x in (0.36, 0.65):
        canvas.disc(x, 0.8, 0.058, palette.ink)
        canvas.disc(x, 0.8, 0.032, (206, 202, 198), (148, 146, 148))
        canvas.disc(x, 0.8, 0.009, palette.ink)
    birds(canvas, dice, palette, 0.5)


def _block(dice: random.Random, left: float, top: float, width: float) -> list[Point]:
    right, roof = left + width, dice.randrange(4)
    mast = [(left + width * 0.45, top), (left + width * 0.45, top - 0.06)]
    caps: list[list[Point]] = [
        [(left, top), (right, top)],
        [(left, top), (left + width / 2, top - 0.04), (right, top)],
        [(left, top), (right, top - 0.035)],
        [(left, top), *mast, (left + width * 0.55, top - 0.06), (left + width * 0.55, top), (right, top)],
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
                found.append(rectangle(x, y, x + size, y + size * 1.3))
    return found
