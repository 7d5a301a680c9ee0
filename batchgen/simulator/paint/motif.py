"""How does one paint what is no place: patterns, plants, a still life, a portrait, a creature?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import Canvas, Point, mix

if TYPE_CHECKING:
    import random

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
            arc = _arc(middle, radius, turn * math.pi / 2, math.pi / 2)
            canvas.fill([[middle, *arc]], colour)
    elif kind == 1:
        middle = (x + size / 2, y + size / 2)
        canvas.fill([_arc(middle, size / 2, turn * math.pi / 2, math.pi)], colours[0])
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
    """A bundle of bands that drift, cross and come together again."""
    phases = [dice.uniform(0, 6.28) for _ in range(3)]
    colours = [*palette.things, palette.accent, palette.light]
    canvas.glow(dice.uniform(0.2, 0.8), 0.3, 0.7, palette.light, 0.6)
    count = 15
    for band in range(count):
        share = band / (count - 1)
        colour = colours[band % len(colours)]
        upper, lower = [], []
        for step in range(61):
            at = step / 60
            drift = 0.18 * math.sin(at * 4.2 + phases[0] + share * 2.4) + 0.07 * math.sin(
                at * 9 + phases[1] - share * 4
            )
            middle = 0.16 + 0.7 * share * (0.72 + 0.28 * math.sin(at * 3.1 + phases[2])) + drift
            half = 0.024 * (0.35 + 0.65 * math.sin(at * 5 + share * 5 + phases[2]) ** 2)
            upper.append((at, middle - half))
            lower.append((at, middle + half))
        canvas.fill([[*upper, *reversed(lower)]], mix(colour, palette.light, 0.15), colour, 0.9)


def contours(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A map of mountains that are nowhere, tinted by height."""
    x, y = dice.uniform(0.35, 0.65), dice.uniform(0.35, 0.65)
    waves = [(n, dice.uniform(0, 6.28), dice.uniform(0.05, 0.16) / n**0.5) for n in (2, 3, 5)]
    tints = [palette.sky[2], palette.sky[1], *palette.things]
    levels = 20
    for level in range(levels):
        radius, ease = 0.86 * (1 - level / levels), level / levels
        ring: list[Point] = []
        for step in range(120):
            angle = step / 120 * math.tau
            bump = sum(size * math.sin(n * angle + phase + ease * n * 0.5) for n, phase, size in waves)
            reach = radius * (1 + bump)
            ring.append(
                (x + reach * math.cos(angle) * 1.1 + 0.05 * ease, y + reach * math.sin(angle) - 0.03 * ease)
            )
        tint = tints[min(len(tints) - 1, level * len(tints) // levels)]
        canvas.fill([ring], tint)
        canvas.stroke([[*ring, ring[0]]], 0.0032 if level % 5 == 0 else 0.0014, palette.ink, 0.4)
    canvas.fill([[(x + 0.02, y - 0.05), (x + 0.075, y - 0.035), (x + 0.02, y - 0.018)]], palette.accent)
    canvas.stroke([[(x + 0.02, y - 0.052), (x + 0.02, y + 0.02)]], 0.004, palette.paper)


def terrazzo(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Chips of stone in every colour of the palette."""
    canvas.fill([[(0, 0), (1, 0), (1, 1), (0, 1)]], palette.paper)
    colours = [*palette.things, palette.accent, palette.sky[0], palette.sky[1]]
    groups: list[list[list[Point]]] = [[] for _ in colours]
    for size, count in ((0.062, 34), (0.034, 90), (0.014, 170)):
        for _ in range(count):
            x, y, turn = dice.random(), dice.random(), dice.uniform(0, 6.28)
            sides = dice.randint(4, 6)
            chip = [
                (
                    x + size * dice.uniform(0.6, 1.1) * math.cos(turn + n * math.tau / sides),
                    y + size * dice.uniform(0.5, 1) * math.sin(turn + n * math.tau / sides),
                )
                for n in range(sides)
            ]
            groups[dice.randrange(len(colours))].append(chip)
    for colour, chips in zip(colours, groups, strict=True):
        canvas.fill(chips, colour)


def leaves(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Stems of leaves rising from below in front of a pale sun."""
    canvas.disc(dice.uniform(0.35, 0.65), dice.uniform(0.3, 0.42), 0.24, palette.light, palette.accent, 0.85)
    for index in range(9):
        layer = index // 2
        colour = palette.things[min(4, layer)]
        x = (index * 0.37 + dice.uniform(-0.05, 0.05)) % 1
        lean, top = dice.uniform(-0.18, 0.18), 0.14 + 0.08 * layer + dice.uniform(0, 0.12)
        stem = [(x + lean * t * t, 1.04 - (1.04 - top) * t) for t in (step / 20 for step in range(21))]
        plumes: list[list[Point]] = []
        for n in range(4, 21, 2):
            size = 0.17 * (1.12 - n / 22)
            plumes += [_leaf(stem[n], -0.65, size), _leaf(stem[n], math.pi + 0.65, size)]
        plumes.append(_leaf(stem[20], -math.pi / 2, 0.08))
        canvas.fill(plumes, colour, mix(colour, palette.things[4], 0.45))
        canvas.stroke([stem], 0.004, mix(colour, palette.light, 0.35))
    for _ in range(5):
        _flower(canvas, (dice.random(), dice.uniform(0.35, 0.95)), dice.uniform(0.025, 0.045), palette)


def still(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A vessel on a plinth in an arch: the catalogue's shot."""
    wall, x = palette.sky[1], 0.5
    canvas.fill([[(0, 0), (1, 0), (1, 1), (0, 1)]], wall, mix(wall, palette.light, 0.4))
    arch = [*_arc((x, 0.4), 0.29, math.pi, math.pi), (x + 0.29, 0.8), (x - 0.29, 0.8)]
    canvas.fill([arch], palette.things[0], mix(palette.things[0], palette.light, 0.5))
    canvas.disc(x + dice.choice((-0.13, 0.13)), 0.34, 0.1, palette.light)
    canvas.fill([[(0, 0.79), (1, 0.79), (1, 1), (0, 1)]], palette.things[1], palette.things[2])
    canvas.fill(
        [[(x - 0.05, 0.8), (x + 0.2, 0.8), (x + 0.62, 0.92), (x + 0.3, 0.95)]], palette.things[3], None, 0.35
    )
    canvas.fill(
        [[(x - 0.21, 0.72), (x + 0.21, 0.72), (x + 0.21, 0.88), (x - 0.21, 0.88)]], palette.paper, wall
    )
    canvas.fill(
        [[(x + 0.1, 0.72), (x + 0.21, 0.72), (x + 0.21, 0.88), (x + 0.1, 0.88)]],
        palette.things[1],
        None,
        0.25,
    )
    profile = _vessel(dice)
    right: list[Point] = [(x + reach, y) for y, reach in profile]
    left = [(x - reach, y) for y, reach in profile]
    if dice.random() < 0.7:
        _bouquet(canvas, dice, (x, profile[0][0]), palette)
    canvas.fill([[*left, *reversed(right)]], palette.accent, mix(palette.accent, palette.things[4], 0.4))
    shine = [(x - reach * 0.72, y) for y, reach in profile[2:-3]]
    canvas.stroke([shine], 0.012, palette.light, 0.45)
    canvas.fill(
        [[*[(x + reach * 0.35, y) for y, reach in profile], *reversed(right)]], palette.things[4], None, 0.22
    )


def _vessel(dice: random.Random) -> list[Point]:
    """Half-widths from the rim down, as (y, reach)."""
    belly, neck = dice.uniform(0.1, 0.15), dice.uniform(0.03, 0.06)
    middle = dice.uniform(0.5, 0.75)
    outline = []
    for step in range(25):
        at = step / 24
        round_part = math.exp(-(((at - middle) / 0.28) ** 2))
        outline.append((0.42 + 0.3 * at, neck + (belly - neck) * round_part + (0.012 if step < 2 else 0)))
    return outline


def _bouquet(canvas: Canvas, dice: random.Random, foot: Point, palette: Palette) -> None:
    for _ in range(5):
        end = (foot[0] + dice.uniform(-0.17, 0.17), foot[1] - dice.uniform(0.12, 0.26))
        bend = ((foot[0] + end[0]) / 2 + (foot[0] - end[0]) * 0.3, (foot[1] + end[1]) / 2)
        canvas.stroke([[foot, bend, end]], 0.005, palette.things[3])
        canvas.fill([_leaf(bend, dice.uniform(-2.6, -0.5), 0.08)], palette.things[2], palette.things[3])
        _flower(canvas, end, dice.uniform(0.028, 0.045), palette)


def portrait(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A head cut from paper: hair, one light and one dark half, closed eyes."""
    canvas.disc(0.5, 0.42, 0.36, palette.light, palette.accent, 0.9)
    skin = mix(
        dice.choice(((236, 188, 150), (198, 134, 96), (130, 84, 62), (244, 208, 180))), palette.light, 0.1
    )
    hair, dark = palette.things[4], mix(skin, palette.things[4], 0.32)
    long = dice.random() < 0.6
    canvas.disc(0.5, 0.4, 0.205, hair)
    if long:
        canvas.fill([[(0.295, 0.4), (0.705, 0.4), (0.74, 0.8), (0.26, 0.8)]], hair, palette.things[3])
    canvas.fill([[(0.44, 0.56), (0.56, 0.56), (0.57, 0.76), (0.43, 0.76)]], dark)
    shoulders = _arc((0.5, 1.02), 0.31, math.pi, math.pi)
    canvas.fill([shoulders], palette.accent if dice.random() < 0.5 else palette.things[2], palette.things[3])
    canvas.fill([[(0.43, 0.72), (0.57, 0.72), (0.5, 0.8)]], dark)
    face = [
        (0.5 + 0.145 * math.cos(a), 0.44 + (0.2 if math.sin(a) > 0 else 0.17) * math.sin(a))
        for a in _angles()
    ]
    canvas.fill([face], skin)
    canvas.fill([[point for point in face if point[0] >= 0.5]], dark, None, 0.5)
    fringe = _arc((0.5, 0.4), 0.2, math.pi, math.pi)
    part = dice.uniform(0.4, 0.6)
    canvas.fill([[*fringe, (0.65, 0.41), (part, 0.31), (0.35, 0.41)]], hair)
    for side in (-1, 1):
        eye = [(0.5 + side * 0.062 + 0.03 * math.cos(a), 0.455 + 0.014 * math.sin(a)) for a in _angles()[:31]]
        canvas.stroke([eye], 0.006, palette.ink)
        canvas.disc(0.5 + side * 0.09, 0.52, 0.026, palette.accent, None, 0.4)
        canvas.disc(0.5 + side * 0.152, 0.54, 0.014, palette.light)
    canvas.stroke([[(0.5, 0.46), (0.488, 0.525), (0.507, 0.53)]], 0.005, palette.ink, 0.6)
    smile = [(0.5 + 0.038 * math.cos(a), 0.565 + 0.018 * math.sin(a)) for a in _angles()[:31]]
    canvas.stroke([smile], 0.008, mix(palette.accent, palette.ink, 0.3))
    for _ in range(4):
        _flower(
            canvas, (dice.uniform(0.36, 0.64), dice.uniform(0.2, 0.27)), dice.uniform(0.022, 0.034), palette
        )


def creature(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Somebody round and friendly, sitting on a hill."""
    canvas.glow(0.5, 0.35, 0.6, palette.light, 0.8)
    ground = [(step / 40, 0.8 - 0.07 * math.sin(step / 40 * math.pi)) for step in range(41)]
    coat, dark = palette.accent, mix(palette.accent, palette.things[4], 0.4)
    tail = [
        (0.63 + 0.13 * math.sin(t * 2.4), 0.74 - 0.3 * t + 0.1 * t * t) for t in (n / 20 for n in range(21))
    ]
    canvas.stroke([tail], 0.05, dark)
    for side in (-1, 1):
        ear = [
            (0.5 + side * 0.155, 0.36),
            (0.5 + side * dice.uniform(0.13, 0.15), 0.19),
            (0.5 + side * 0.035, 0.3),
        ]
        canvas.fill([ear], dark)
        inner = [(0.5 + side * 0.135, 0.345), (0.5 + side * 0.128, 0.235), (0.5 + side * 0.06, 0.31)]
        canvas.fill([inner], palette.light, coat)
    body = [(0.5 + 0.17 * math.cos(a), 0.63 + 0.19 * math.sin(a)) for a in _angles()]
    canvas.fill([body], coat, dark)
    belly = [(0.5 + 0.1 * math.cos(a), 0.67 + 0.14 * math.sin(a)) for a in _angles()]
    canvas.fill([belly], mix(palette.light, coat, 0.2))
    canvas.fill([[*ground, (1, 1), (0, 1)]], palette.things[2], palette.things[4])
    head = [(0.5 + 0.175 * math.cos(a), 0.395 + 0.135 * math.sin(a)) for a in _angles()]
    canvas.fill([head], mix(coat, palette.light, 0.15), coat)
    for side in (-1, 1):
        cheek = [(0.5 + side * (0.08 + 0.075 * math.cos(a)), 0.44 + 0.07 * math.sin(a)) for a in _angles()]
        canvas.fill([cheek], mix(palette.light, coat, 0.1))
        canvas.disc(0.5 + side * 0.075, 0.385, 0.022, palette.ink)
        canvas.disc(0.5 + side * 0.075 + 0.007, 0.378, 0.007, (255, 255, 255))
    canvas.disc(0.5, 0.425, 0.016, palette.ink)
    for side in (-1, 1):
        grin = [(0.5 + side * 0.02 + 0.02 * math.cos(a), 0.448 + 0.014 * math.sin(a)) for a in _angles()[:31]]
        canvas.stroke([grin], 0.005, palette.ink)
    for _ in range(9):
        x = dice.random()
        _flower(canvas, (x, 0.86 + dice.uniform(-0.03, 0.1)), dice.uniform(0.014, 0.026), palette)


def _angles() -> list[float]:
    return [step / 60 * math.tau for step in range(61)]


def _arc(middle: Point, radius: float, start: float, span: float) -> list[Point]:
    return [
        (
            middle[0] + radius * math.cos(start + span * n / 48),
            middle[1] + radius * math.sin(start + span * n / 48),
        )
        for n in range(49)
    ]


def _leaf(foot: Point, angle: float, length: float) -> list[Point]:
    """Pointed at both ends, a third as wide as long."""
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    edge = [(n / 12, math.sin(n / 12 * math.pi) ** 0.8 * 0.17) for n in range(13)]
    outline = edge + [(at, -width) for at, width in reversed(edge)]
    return [
        (
            foot[0] + length * (at * along[0] + width * across[0]),
            foot[1] + length * (at * along[1] + width * across[1]),
        )
        for at, width in outline
    ]


def _flower(canvas: Canvas, middle: Point, size: float, palette: Palette) -> None:
    petals = [_leaf(middle, n * math.tau / 7, size * 1.2) for n in range(7)]
    canvas.fill(petals, palette.light, mix(palette.light, palette.accent, 0.35))
    canvas.disc(*middle, size * 0.3, palette.accent)
