"""How does one paint a still life: a thing on a plinth, as in a catalogue?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import mix
from batchgen.simulator.paint.shapes import (
    across,
    arc,
    ellipse,
    flower,
    leaf,
    mirrored,
    rectangle,
    rounded,
    steam,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from batchgen.simulator.paint.canvas import Canvas, Point
    from batchgen.simulator.paint.palettes import Palette

    Thing = Callable[[Canvas, random.Random, Palette], None]

TOP = 0.72
"""Of the plinth: where a thing stands."""
WHITE = (250, 246, 238)


def any_thing(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Whatever a catalogue might show."""
    dice.choice((vase, jar, bottle, mug, teapot, bowl))(canvas, dice, palette)


def vase(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A vase with flowers."""
    _stage(canvas, dice, palette)
    belly, neck, middle = dice.uniform(0.1, 0.15), dice.uniform(0.03, 0.06), dice.uniform(0.5, 0.75)
    half: list[Point] = []
    for at in across(24):
        swell = math.exp(-(((at - middle) / 0.28) ** 2))
        half.append((0.5 + neck + (belly - neck) * swell + (0.012 if at < 0.08 else 0), 0.42 + 0.3 * at))
    for _ in range(5):
        end = (0.5 + dice.uniform(-0.17, 0.17), 0.42 - dice.uniform(0.12, 0.24))
        _twig(canvas, dice, (0.5, 0.43), end, palette)
    _turned(canvas, half, palette)


def jar(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A moon jar: white, nearly round, with a branch in blossom beside it."""
    _stage(canvas, dice, palette)
    for end in ((0.72, 0.3), (0.63, 0.21), (0.79, 0.42)):
        _twig(canvas, dice, (0.53, 0.45), end, palette)
    half = [(0.5 + 0.045 + 0.125 * math.sin(at * math.pi) ** 0.6, 0.44 + 0.28 * at) for at in across(32)]
    white = mix(WHITE, palette.light, 0.35)
    canvas.fill([mirrored(half, 0.5)], white, mix(white, palette.things[3], 0.35))
    _shade(canvas, half, palette, 0.14)
    canvas.fill([ellipse(0.5, 0.44, 0.045, 0.009)], mix(white, palette.things[4], 0.5))


def bottle(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A flask of perfume: heavy glass, a metal collar, a square stopper."""
    _stage(canvas, dice, palette)
    glass, metal = mix(palette.accent, WHITE, 0.35), (214, 178, 112)
    wide = dice.uniform(0.1, 0.13)
    canvas.fill([rounded(0.5 - wide, 0.49, 0.5 + wide, TOP, 0.03)], glass, mix(glass, palette.accent, 0.5))
    canvas.fill(
        [rounded(0.5 - wide + 0.017, 0.535, 0.5 + wide - 0.017, TOP - 0.02, 0.018)],
        palette.accent,
        mix(palette.accent, palette.things[4], 0.35),
    )
    canvas.fill([rectangle(0.468, 0.455, 0.532, 0.492)], metal, mix(metal, palette.ink, 0.3))
    canvas.fill([rounded(0.452, 0.375, 0.548, 0.455, 0.012)], mix(metal, WHITE, 0.5), metal)
    canvas.fill([rounded(0.5 - wide * 0.5, 0.58, 0.5 + wide * 0.5, 0.655, 0.006)], palette.paper)
    lines = [[(0.5 - wide * 0.32, y), (0.5 + wide * 0.32, y)] for y in (0.605, 0.63)]
    canvas.stroke(lines, 0.004, palette.ink, opacity=0.55)
    canvas.stroke([[(0.5 - wide + 0.026, 0.54), (0.5 - wide + 0.026, 0.68)]], 0.009, WHITE, opacity=0.6)


def mug(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A mug with a glazed rim, and steam."""
    _stage(canvas, dice, palette)
    dark = mix(palette.accent, palette.things[4], 0.45)
    canvas.stroke([arc((0.605, 0.595), 0.058, -math.pi / 2, math.pi)], 0.024, dark)
    half = [(0.5 + 0.108 - 0.018 * at**4, 0.5 + 0.22 * at) for at in across(20)]
    _turned(canvas, half, palette)
    band = [*half[:7], *[(1 - x, y) for x, y in reversed(half[:7])]]
    canvas.fill([band], mix(palette.paper, palette.accent, 0.12), mix(palette.paper, palette.accent, 0.3))
    canvas.fill([ellipse(0.5, 0.5, 0.108, 0.018)], mix(palette.paper, palette.accent, 0.3))
    canvas.fill([ellipse(0.5, 0.502, 0.094, 0.013)], (92, 58, 40))
    _speckles(canvas, dice, palette, (0.5, 0.65, 0.08, 0.05))
    steam(canvas, 0.5, 0.47, palette.light)


def teapot(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A round pot with a spout, and daisies beside it."""
    _stage(canvas, dice, palette)
    coat = mix(palette.paper, palette.accent, 0.3)
    dark = mix(coat, palette.things[3], 0.45)
    canvas.stroke([arc((0.37, 0.585), 0.075, math.pi / 2, math.pi)], 0.02, dark)
    spout = [(0.6, 0.56), (0.655, 0.535), (0.69, 0.47), (0.722, 0.468), (0.7, 0.57), (0.62, 0.66)]
    canvas.fill([spout], coat, dark)
    canvas.fill([ellipse(0.5, 0.595, 0.145, 0.125)], coat, dark)
    canvas.fill([ellipse(0.5, 0.482, 0.075, 0.024)], mix(coat, WHITE, 0.4), dark)
    canvas.disc(0.5, 0.45, 0.018, palette.accent)
    canvas.stroke([arc((0.5, 0.595), 0.118, math.pi * 1.08, 0.7)], 0.012, WHITE, opacity=0.5)
    _speckles(canvas, dice, palette, (0.5, 0.62, 0.11, 0.07))
    steam(canvas, 0.725, 0.45, palette.light)
    for x, y in ((0.25, 0.66), (0.29, 0.72), (0.22, 0.75), (0.79, 0.76)):
        canvas.stroke([[(x, y), (x + 0.015, y + 0.12)]], 0.005, palette.things[3])
        flower(canvas, (x, y), 0.034, palette)


def lamp(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A pleated shade on a stem, and its light on the wall."""
    _stage(canvas, dice, palette)
    canvas.glow(0.5, 0.46, 0.42, palette.light, 0.85)
    stem = mix(palette.accent, palette.ink, 0.4)
    canvas.stroke([[(0.5, 0.5), (0.5, 0.7)]], 0.016, stem)
    canvas.fill([ellipse(0.5, 0.706, 0.075, 0.015)], palette.accent, stem)
    shade: list[Point] = [(0.425, 0.32), (0.575, 0.32), (0.655, 0.53), (0.345, 0.53)]
    cloth = mix(palette.paper, palette.light, 0.5)
    canvas.fill([shade], mix(cloth, palette.accent, 0.35), cloth)
    pleats = [[(0.425 + 0.15 * at, 0.322), (0.345 + 0.31 * at, 0.528)] for at in across(14)]
    canvas.stroke(pleats, 0.003, palette.accent, opacity=0.4)
    canvas.stroke([[shade[0], shade[1]], [shade[3], shade[2]]], 0.007, palette.accent)


def lantern(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A paper lantern on a cord."""
    _stage(canvas, dice, palette)
    canvas.stroke([[(0.5, 0), (0.5, 0.3)]], 0.004, palette.ink)
    canvas.glow(0.5, 0.45, 0.45, palette.light, 0.9)
    canvas.fill([ellipse(0.5, 0.45, 0.165, 0.15)], WHITE, mix(palette.light, palette.accent, 0.55))
    ribs = [
        [(0.5 + math.cos(turn) * 0.165 * math.cos(math.asin(at)), 0.45 + 0.15 * at) for turn in (0, math.pi)]
        for at in (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
    ]
    canvas.stroke(ribs, 0.003, palette.accent, opacity=0.5)
    for y in (0.3, 0.6):
        canvas.fill([rounded(0.455, y - 0.012, 0.545, y + 0.012, 0.008)], palette.ink)
    canvas.stroke([[(0.5, 0.61), (0.5, 0.67)]], 0.008, palette.accent)


def bag(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A bag with a flap, a buckle and a handle."""
    _stage(canvas, dice, palette)
    hide, dark = palette.accent, mix(palette.accent, palette.things[4], 0.5)
    brass = (226, 188, 116)
    canvas.stroke([arc((0.5, 0.47), 0.085, math.pi, math.pi)], 0.017, dark)
    canvas.fill([rounded(0.345, 0.455, 0.655, TOP, 0.035)], hide, dark)
    canvas.fill([rounded(0.385, 0.6, 0.615, 0.7, 0.02)], mix(hide, dark, 0.25), dark)
    flap = [*rounded(0.345, 0.455, 0.655, 0.59, 0.035)]
    canvas.fill([flap], mix(hide, WHITE, 0.16), hide)
    canvas.stroke([[(0.36, 0.577), (0.64, 0.577)]], 0.003, palette.paper, opacity=0.7)
    for x in (0.425, 0.575):
        canvas.fill([rounded(x - 0.014, 0.53, x + 0.014, 0.645, 0.008)], dark)
        canvas.fill([rounded(x - 0.02, 0.6, x + 0.02, 0.628, 0.006)], brass)


def shoes(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A pair, one behind the other."""
    _stage(canvas, dice, palette)
    for x, y, share in ((0.045, -0.035, 0.45), (-0.02, 0.0, 0.0)):
        coat = mix(palette.accent, palette.things[4], share)
        upper: list[Point] = [
            (0.36, 0.5),
            (0.4, 0.49),
            (0.455, 0.5),
            (0.5, 0.56),
            (0.575, 0.61),
            (0.645, 0.635),
        ]
        upper += [(0.675, 0.66), (0.68, 0.695), (0.35, 0.695), (0.345, 0.62)]
        canvas.fill([_moved(upper, x, y)], mix(coat, WHITE, 0.12), mix(coat, palette.things[4], 0.2))
        sole = rounded(0.34, 0.685, 0.69, TOP, 0.016)
        canvas.fill([_moved(sole, x, y)], palette.paper, mix(palette.paper, palette.things[3], 0.35))
        heel: list[Point] = [(0.358, 0.51), (0.395, 0.505), (0.4, 0.685), (0.349, 0.685)]
        canvas.fill([_moved(heel, x, y)], mix(coat, palette.things[4], 0.45))
        laces = [[(0.46 + 0.03 * n, 0.535 + 0.022 * n), (0.5 + 0.03 * n, 0.52 + 0.026 * n)] for n in range(4)]
        canvas.stroke([_moved(lace, x, y) for lace in laces], 0.008, palette.paper)
    canvas.fill([[(0.42, 0.685), (0.47, 0.6), (0.5, 0.61), (0.455, 0.685)]], palette.paper)


def watch(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A wrist watch on its stand."""
    _stage(canvas, dice, palette)
    strap, metal = mix(palette.accent, palette.things[4], 0.3), (226, 222, 214)
    canvas.fill([[(0.455, 0.3), (0.545, 0.3), (0.565, 0.5), (0.435, 0.5)]], strap)
    canvas.fill([[(0.435, 0.5), (0.565, 0.5), (0.545, TOP), (0.455, TOP)]], strap, palette.things[4])
    canvas.disc(0.5, 0.5, 0.118, metal, mix(metal, palette.ink, 0.45))
    canvas.disc(0.5, 0.5, 0.098, WHITE, palette.paper)
    marks = [
        [
            (0.5 + reach * math.cos(n * math.tau / 12), 0.5 + reach * math.sin(n * math.tau / 12))
            for reach in (0.078, 0.088)
        ]
        for n in range(12)
    ]
    canvas.stroke(marks, 0.005, palette.ink)
    canvas.stroke([[(0.455, 0.472), (0.5, 0.5)], [(0.5, 0.5), (0.546, 0.455)]], 0.007, palette.ink)
    canvas.stroke([[(0.5, 0.5), (0.505, 0.575)]], 0.003, palette.accent)
    canvas.disc(0.5, 0.5, 0.008, palette.accent)


def bowl(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A bowl of round fruit."""
    _stage(canvas, dice, palette)
    for x, y in ((0.43, 0.51), (0.57, 0.515), (0.5, 0.475), (0.5, 0.53)):
        ripe = mix(palette.accent, palette.light, dice.uniform(0, 0.3))
        canvas.disc(x, y, 0.06, ripe, mix(ripe, palette.things[4], 0.3))
        canvas.fill([leaf((x, y - 0.055), dice.uniform(-1.2, -0.3), 0.05)], palette.things[3])
    canvas.fill(
        [_rim(0.145)], mix(WHITE, palette.things[0], 0.25), mix(palette.things[1], palette.things[3], 0.4)
    )
    canvas.stroke([[(0.36, 0.585), (0.64, 0.585)]], 0.005, palette.accent, opacity=0.8)


def soup(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A bowl of noodles with an egg, chopsticks and steam."""
    _stage(canvas, dice, palette)
    canvas.fill([ellipse(0.5, 0.55, 0.16, 0.045)], mix(palette.accent, (240, 190, 110), 0.6))
    noodles = [
        [(0.4 + 0.2 * at, 0.53 + 0.007 * n + 0.006 * math.sin(at * 16 + n * 1.3)) for at in across(30)]
        for n in range(4)
    ]
    canvas.stroke(noodles, 0.008, (250, 226, 160))
    canvas.disc(0.565, 0.535, 0.032, WHITE)
    canvas.disc(0.565, 0.535, 0.016, (246, 168, 50))
    canvas.fill([leaf((0.4, 0.545), -0.5, 0.07), leaf((0.41, 0.55), -1.1, 0.06)], palette.things[2])
    canvas.stroke([[(0.47, 0.54), (0.74, 0.4)], [(0.49, 0.545), (0.75, 0.425)]], 0.008, (150, 92, 60))
    canvas.fill([_rim(0.16)], palette.accent, mix(palette.accent, palette.things[4], 0.5))
    canvas.stroke([[(0.35, 0.578), (0.65, 0.578)]], 0.006, palette.paper, opacity=0.8)
    steam(canvas, 0.46, 0.5, palette.light)


def _rim(wide: float) -> list[Point]:
    """The outer half of a bowl, on a foot."""
    half = [
        (0.5 + wide * math.cos(at * math.pi / 2.3), 0.55 + 0.155 * math.sin(at * math.pi / 2))
        for at in across(20)
    ]
    return mirrored([*half, (0.56, TOP)], 0.5)


def _stage(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A wall with a niche, a round window or slanting light; a floor; a plinth."""
    wall, things = palette.sky[1], palette.things
    canvas.fill([rectangle(0, 0, 1, 1)], wall, mix(wall, palette.light, 0.4))
    kind = dice.randrange(3)
    if kind == 0:
        niche = [*arc((0.5, 0.4), 0.29, math.pi, math.pi), (0.79, 0.8), (0.21, 0.8)]
        canvas.fill([niche], mix(wall, things[0], 0.7), mix(things[0], palette.light, 0.5))
        canvas.disc(0.5 + dice.choice((-0.13, 0.13)), 0.34, 0.1, palette.light, opacity=0.8)
    elif kind == 1:
        canvas.disc(0.5, 0.42, 0.3, palette.light, mix(palette.light, things[0], 0.6))
    else:
        panes = [[(x, 0.1), (x + 0.16, 0.06), (x + 0.3, 0.8), (x + 0.14, 0.8)] for x in (0.12, 0.34, 0.56)]
        canvas.fill(panes, palette.light, mix(wall, palette.light, 0.3), opacity=0.75)
    canvas.fill([rectangle(0, 0.79, 1, 1)], things[1], things[2])
    canvas.fill([[(0.45, 0.8), (0.7, 0.8), (1.12, 0.92), (0.8, 0.95)]], things[3], opacity=0.35)
    stone = mix(palette.paper, wall, 0.15)
    canvas.fill([rectangle(0.27, TOP, 0.73, 0.88)], stone, mix(stone, things[1], 0.55))
    canvas.fill([rectangle(0.6, TOP, 0.73, 0.88)], things[2], opacity=0.18)
    canvas.fill([ellipse(0.52, TOP, 0.15, 0.008)], things[3], opacity=0.35)


def _turned(canvas: Canvas, half: list[Point], palette: Palette) -> None:
    """A glazed body, lit from the left."""
    coat = palette.accent
    canvas.fill([mirrored(half, 0.5)], coat, mix(coat, palette.things[4], 0.4))
    _shade(canvas, half, palette, 0.22)
    shine = [(0.5 - (x - 0.5) * 0.72, y) for x, y in half[3:-4]]
    canvas.stroke([shine], 0.012, palette.light, opacity=0.45)


def _shade(canvas: Canvas, half: list[Point], palette: Palette, depth: float) -> None:
    inner = [(0.5 + (x - 0.5) * 0.35, y) for x, y in half]
    canvas.fill([[*inner, *reversed(half)]], palette.things[4], opacity=depth)


def _speckles(
    canvas: Canvas, dice: random.Random, palette: Palette, within: tuple[float, float, float, float]
) -> None:
    x, y, wide, high = within
    dots: list[list[Point]] = []
    for _ in range(26):
        turn, reach = dice.uniform(0, math.tau), dice.random() ** 0.5
        dots.append(
            ellipse(x + wide * reach * math.cos(turn), y + high * reach * math.sin(turn), 0.0025, 0.0025)
        )
    canvas.fill(dots, palette.ink, opacity=0.45)


def _twig(canvas: Canvas, dice: random.Random, foot: Point, end: Point, palette: Palette) -> None:
    bend = ((foot[0] + end[0]) / 2 + (foot[0] - end[0]) * 0.25, (foot[1] + end[1]) / 2)
    canvas.stroke([[foot, bend, end]], 0.005, palette.things[3])
    canvas.fill([leaf(bend, dice.uniform(-2.6, -0.5), 0.08)], palette.things[2], palette.things[3])
    flower(canvas, end, dice.uniform(0.028, 0.042), palette)


def _moved(outline: list[Point], x: float, y: float) -> list[Point]:
    return [(px + x, py + y) for px, py in outline]
