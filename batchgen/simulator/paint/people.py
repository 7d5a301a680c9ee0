"""How does one paint a person, cut from paper?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint.canvas import mix
from batchgen.simulator.paint.shapes import arc, ellipse, flower, rounded, smile, stars

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.canvas import Canvas
    from batchgen.simulator.paint.palettes import Colour, Palette

SKINS = ((236, 188, 150), (198, 134, 96), (130, 84, 62), (244, 208, 180))
SIDES = (-1, 1)


def portrait(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Somebody with flowers in the hair."""
    canvas.disc(0.5, 0.42, 0.36, palette.light, palette.accent, opacity=0.9)
    skin = mix(dice.choice(SKINS), palette.light, 0.1)
    hair = palette.things[4]
    canvas.disc(0.5, 0.4, 0.205, hair)
    if dice.random() < 0.6:
        canvas.fill([[(0.295, 0.4), (0.705, 0.4), (0.74, 0.8), (0.26, 0.8)]], hair, palette.things[3])
    _bust(canvas, dice, palette, skin)
    _face(canvas, palette, skin)
    fringe, part = arc((0.5, 0.4), 0.2, math.pi, math.pi), dice.uniform(0.4, 0.6)
    canvas.fill([[*fringe, (0.65, 0.41), (part, 0.31), (0.35, 0.41)]], hair)
    for side in SIDES:
        canvas.disc(0.5 + side * 0.152, 0.54, 0.014, palette.light)
    for n in range(4):
        flower(canvas, (0.38 + 0.08 * n, dice.uniform(0.2, 0.26)), dice.uniform(0.024, 0.036), palette)


def gentleman(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Somebody with a beard and a hat."""
    canvas.disc(0.5, 0.42, 0.36, palette.light, palette.accent, opacity=0.9)
    skin = mix(dice.choice(SKINS), palette.light, 0.1)
    hair = dice.choice((palette.things[4], (226, 222, 216), (120, 84, 62)))
    _bust(canvas, dice, palette, skin)
    beard = [*smile(0.5, 0.47, 0.152, 0.235), (0.35, 0.44)]
    canvas.fill([beard], hair, mix(hair, palette.ink, 0.25))
    _face(canvas, palette, skin)
    half = smile(0.5, 0.535, 0.142, 0.115)
    canvas.fill([[*half, (0.4, 0.545), (0.5, 0.532), (0.6, 0.545)]], hair, mix(hair, palette.ink, 0.2))
    canvas.stroke([smile(0.5, 0.566, 0.03, 0.013)], 0.007, mix(palette.accent, palette.ink, 0.3))
    for side in SIDES:
        canvas.stroke([[(0.5 + side * 0.03, 0.418), (0.5 + side * 0.095, 0.412)]], 0.011, hair)
    hat = mix(palette.accent, palette.things[4], 0.55)
    canvas.fill(
        [[*arc((0.5, 0.34), 0.155, math.pi, math.pi), (0.655, 0.36), (0.345, 0.36)]], hat, palette.things[4]
    )
    canvas.fill([rounded(0.27, 0.345, 0.73, 0.375, 0.015)], hat)
    canvas.fill([rounded(0.345, 0.318, 0.655, 0.347, 0.004)], palette.accent)


def astronaut(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Somebody in a helmet, among the stars."""
    space, suit = (24, 26, 54), (238, 236, 232)
    canvas.fill([[(0, 0), (1, 0), (1, 1), (0, 1)]], space, mix(space, palette.accent, 0.3))
    stars(canvas, dice, 160, 1.0)
    canvas.disc(0.82, 0.2, 0.11, palette.accent, mix(palette.accent, space, 0.6))
    canvas.stroke([[(0.66, 0.235), (0.98, 0.165)]], 0.008, palette.light, opacity=0.8)
    canvas.fill([arc((0.5, 1.02), 0.34, math.pi, math.pi)], suit, mix(suit, palette.things[3], 0.5))
    canvas.fill([rounded(0.41, 0.82, 0.59, 0.92, 0.02)], mix(suit, palette.things[2], 0.35))
    for x, colour in ((0.45, palette.accent), (0.5, palette.light), (0.55, (108, 190, 150))):
        canvas.disc(x, 0.86, 0.013, colour)
    canvas.disc(0.5, 0.45, 0.265, suit, mix(suit, palette.things[3], 0.35))
    canvas.fill([rounded(0.36, 0.685, 0.64, 0.735, 0.02)], mix(suit, palette.things[3], 0.4))
    canvas.fill([ellipse(0.5, 0.46, 0.215, 0.195)], mix(space, palette.things[2], 0.35))
    skin = mix(dice.choice(SKINS), palette.light, 0.1)
    _face(canvas, palette, skin, scale=0.82)
    canvas.fill([ellipse(0.5, 0.46, 0.215, 0.195)], palette.sky[1], palette.sky[0], opacity=0.16)
    canvas.stroke([arc((0.5, 0.46), 0.185, math.pi * 1.1, 0.6)], 0.016, (255, 255, 255), opacity=0.7)


def _bust(canvas: Canvas, dice: random.Random, palette: Palette, skin: Colour) -> None:
    dark = mix(skin, palette.things[4], 0.32)
    canvas.fill([[(0.44, 0.56), (0.56, 0.56), (0.57, 0.76), (0.43, 0.76)]], dark)
    cloth = palette.accent if dice.random() < 0.5 else palette.things[2]
    canvas.fill([arc((0.5, 1.02), 0.31, math.pi, math.pi)], cloth, palette.things[3])
    canvas.fill([[(0.43, 0.72), (0.57, 0.72), (0.5, 0.8)]], dark)


def _face(canvas: Canvas, palette: Palette, skin: Colour, *, scale: float = 1.0) -> None:
    """One light and one dark half, closed eyes."""
    dark = mix(skin, palette.things[4], 0.32)
    upper, lower = (
        ellipse(0.5, 0.44, 0.145 * scale, 0.17 * scale),
        smile(0.5, 0.44, 0.145 * scale, 0.2 * scale),
    )
    face = [*lower, *upper[30:]]
    canvas.fill([face], skin)
    canvas.fill([[point for point in face if point[0] >= 0.5]], dark, opacity=0.5)
    for side in SIDES:
        canvas.stroke(
            [smile(0.5 + side * 0.062 * scale, 0.455, 0.03 * scale, 0.014 * scale)], 0.006, palette.ink
        )
        canvas.disc(0.5 + side * 0.09 * scale, 0.52, 0.026 * scale, palette.accent, opacity=0.4)
    canvas.stroke([[(0.5, 0.46), (0.488, 0.525), (0.507, 0.53)]], 0.005, palette.ink, opacity=0.6)
    canvas.stroke(
        [smile(0.5, 0.44 + 0.125 * scale, 0.038 * scale, 0.018 * scale)],
        0.008,
        mix(palette.accent, palette.ink, 0.3),
    )
