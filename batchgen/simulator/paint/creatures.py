"""How does one paint somebody friendly: a cat, a fox, a bear, a bird, a robot?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.simulator.paint import palettes
from batchgen.simulator.paint.canvas import mix
from batchgen.simulator.paint.shapes import across, ellipse, flower, leaf, rounded, smile, stars

if TYPE_CHECKING:
    import random

    from batchgen.simulator.paint.canvas import Canvas, Point
    from batchgen.simulator.paint.palettes import Colour, Palette

WHITE = (253, 248, 240)
DARK = (46, 40, 50)
SIDES = (-1, 1)


def cat(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Pointed ears, whiskers, a tail that asks a question."""
    coat = dice.choice(((120, 118, 132), (226, 150, 84), (86, 78, 96), (214, 196, 178)))
    dark = mix(coat, DARK, 0.35)
    _sky(canvas, dice, palette)
    tail = [(0.62 + 0.12 * math.sin(at * 3.6), 0.77 - 0.36 * at) for at in across(24)]
    canvas.stroke([tail], 0.04, dark)
    canvas.stroke([tail[19:]], 0.04, coat)
    for side in SIDES:
        canvas.fill(
            [[(0.5 + side * 0.168, 0.39), (0.5 + side * 0.15, 0.215), (0.5 + side * 0.03, 0.3)]], dark
        )
        inner = [(0.5 + side * 0.145, 0.35), (0.5 + side * 0.138, 0.255), (0.5 + side * 0.065, 0.305)]
        canvas.fill([inner], (240, 176, 170))
    _body(canvas, coat, dark, mix(coat, WHITE, 0.65))
    _meadow(canvas, dice, palette)
    _head(canvas, coat)
    stripes = [[(0.5 + 0.03 * n, 0.27), (0.5 + 0.022 * n, 0.312)] for n in (-1, 0, 1)]
    canvas.stroke(stripes, 0.012, dark)
    canvas.fill([ellipse(0.5 + side * 0.033, 0.448, 0.042, 0.034) for side in SIDES], mix(coat, WHITE, 0.7))
    _eyes(canvas, 0.078, 0.39, 0.028)
    canvas.fill([[(0.485, 0.422), (0.515, 0.422), (0.5, 0.437)]], (214, 108, 112))
    _grin(canvas, 0.441)
    hairs = [
        [(0.5 + side * 0.07, 0.442 + n * 0.008), (0.5 + side * 0.2, 0.432 + n * 0.022)]
        for side in SIDES
        for n in (-1, 0, 1)
    ]
    canvas.stroke(hairs, 0.0025, WHITE, opacity=0.85)


def fox(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Russet, white cheeks, a tail with a white tip."""
    coat = (222, 108, 52)
    dark = mix(coat, DARK, 0.4)
    _sky(canvas, dice, palette)
    brush = [(0.6, 0.78), (0.69, 0.75), (0.79, 0.64), (0.815, 0.53), (0.775, 0.43), (0.74, 0.5)]
    brush += [(0.71, 0.58), (0.65, 0.65)]
    canvas.fill([brush], coat, dark)
    canvas.fill([[(0.815, 0.53), (0.775, 0.43), (0.74, 0.5), (0.77, 0.515)]], WHITE)
    for side in SIDES:
        canvas.fill(
            [[(0.5 + side * 0.165, 0.38), (0.5 + side * 0.158, 0.18), (0.5 + side * 0.03, 0.3)]], dark
        )
        inner = [(0.5 + side * 0.145, 0.345), (0.5 + side * 0.142, 0.235), (0.5 + side * 0.07, 0.3)]
        canvas.fill([inner], (250, 224, 196), coat)
    _body(canvas, coat, dark, WHITE)
    _meadow(canvas, dice, palette)
    face: list[Point] = [(0.5, 0.272), (0.6, 0.29), (0.675, 0.36), (0.71, 0.425), (0.62, 0.475), (0.5, 0.535)]
    face += [(0.38, 0.475), (0.29, 0.425), (0.325, 0.36), (0.4, 0.29)]
    canvas.fill([face], mix(coat, (255, 170, 90), 0.3), coat)
    for side in SIDES:
        cheek = [
            (0.5 + side * 0.2, 0.428),
            (0.5 + side * 0.12, 0.475),
            (0.5, 0.533),
            (0.5 + side * 0.015, 0.46),
        ]
        cheek += [(0.5 + side * 0.1, 0.42)]
        canvas.fill([cheek], WHITE)
    _eyes(canvas, 0.082, 0.392, 0.022)
    canvas.disc(0.5, 0.515, 0.021, DARK)
    canvas.disc(0.494, 0.509, 0.005, WHITE)


def bear(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Round ears, a round snout."""
    coat = dice.choice(((148, 100, 70), (182, 132, 92), (112, 82, 72)))
    _furry(canvas, dice, palette, (coat, mix(coat, DARK, 0.4), mix(coat, WHITE, 0.55)))


def panda(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """White, with dark ears, eyes and arms."""
    _furry(canvas, dice, palette, (WHITE, (58, 54, 64), WHITE))


def dog(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Hanging ears and a tongue."""
    coat = dice.choice(((206, 158, 104), (236, 214, 180), (164, 112, 78)))
    dark = mix(coat, (84, 52, 40), 0.6)
    _sky(canvas, dice, palette)
    canvas.stroke([[(0.63, 0.74), (0.72, 0.66), (0.76, 0.57)]], 0.035, coat)
    _body(canvas, coat, mix(coat, DARK, 0.3), mix(coat, WHITE, 0.6))
    _meadow(canvas, dice, palette)
    _head(canvas, coat)
    canvas.fill(
        [ellipse(0.5 + side * 0.175, 0.43, 0.05, 0.115) for side in SIDES], dark, mix(dark, DARK, 0.3)
    )
    canvas.fill([ellipse(0.43, 0.375, 0.055, 0.062)], dark)
    canvas.fill([ellipse(0.5, 0.458, 0.078, 0.06)], mix(coat, WHITE, 0.6))
    canvas.fill([rounded(0.483, 0.475, 0.519, 0.535, 0.017)], (232, 112, 120))
    _eyes(canvas, 0.072, 0.383, 0.021)
    canvas.fill([ellipse(0.5, 0.43, 0.028, 0.019)], DARK)
    _grin(canvas, 0.463)


def rabbit(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Long ears and a white tail."""
    coat = dice.choice(((240, 232, 224), (206, 186, 168), (170, 160, 166)))
    dark = mix(coat, DARK, 0.25)
    _sky(canvas, dice, palette)
    for side in SIDES:
        canvas.fill([ellipse(0.5 + side * 0.075, 0.2, 0.042, 0.135)], coat, dark)
        canvas.fill([ellipse(0.5 + side * 0.075, 0.21, 0.021, 0.1)], (242, 182, 182))
    canvas.disc(0.665, 0.73, 0.045, WHITE)
    _body(canvas, coat, dark, WHITE)
    _meadow(canvas, dice, palette)
    _head(canvas, coat)
    canvas.fill([ellipse(0.5 + side * 0.033, 0.448, 0.04, 0.034) for side in SIDES], WHITE)
    _eyes(canvas, 0.082, 0.388, 0.023)
    canvas.fill([ellipse(0.5, 0.428, 0.014, 0.01)], (222, 120, 124))
    _grin(canvas, 0.441)


def dragon(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Small, green, with wings to grow into."""
    coat = dice.choice(((86, 166, 122), (104, 140, 196), (190, 104, 132)))
    dark, horn = mix(coat, DARK, 0.4), (250, 232, 196)
    _sky(canvas, dice, palette)
    for side in SIDES:
        wing = [
            (0.12, 0.62),
            (0.33, 0.47),
            (0.34, 0.6),
            (0.27, 0.585),
            (0.25, 0.66),
            (0.19, 0.64),
            (0.14, 0.7),
        ]
        wing = [(0.5 + side * x, y) for x, y in wing]
        canvas.fill([wing], mix(palette.accent, WHITE, 0.2), palette.accent)
        canvas.fill([[(0.5 + side * 0.13, 0.32), (0.5 + side * 0.15, 0.2), (0.5 + side * 0.07, 0.3)]], horn)
    spikes = [[(x - 0.028, 0.285), (x, 0.22 + abs(x - 0.5)), (x + 0.028, 0.285)] for x in (0.46, 0.5, 0.54)]
    canvas.fill(spikes, palette.accent)
    _body(canvas, coat, dark, horn)
    ribs = [[(0.43, y), (0.57, y)] for y in (0.6, 0.64, 0.68, 0.72)]
    canvas.stroke(ribs, 0.004, dark, opacity=0.4)
    _meadow(canvas, dice, palette)
    _head(canvas, coat)
    canvas.fill([ellipse(0.5, 0.462, 0.1, 0.05)], mix(coat, WHITE, 0.35))
    canvas.fill([ellipse(0.5 + side * 0.03, 0.447, 0.008, 0.006) for side in SIDES], dark)
    _eyes(canvas, 0.08, 0.38, 0.026)
    canvas.stroke([smile(0.5, 0.47, 0.05, 0.018)], 0.005, dark)


def robot(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A round one, that has a flower to look after."""
    shell = mix(dice.choice(((236, 232, 224), (176, 206, 210), (244, 204, 140))), palette.light, 0.2)
    dark, joint = mix(shell, palette.things[4], 0.45), mix(DARK, palette.things[3], 0.3)
    _sky(canvas, dice, palette)
    canvas.stroke([[(0.5, 0.29), (0.5, 0.21)]], 0.01, joint)
    canvas.glow(0.5, 0.2, 0.09, palette.accent, 0.8)
    canvas.disc(0.5, 0.2, 0.02, palette.accent)
    arms: list[list[Point]] = [
        [(0.35, 0.6), (0.27, 0.66), (0.29, 0.74)],
        [(0.65, 0.6), (0.74, 0.6), (0.77, 0.5)],
    ]
    canvas.stroke(arms, 0.022, joint)
    canvas.fill([rounded(0.355, 0.525, 0.645, 0.79, 0.1)], shell, dark)
    canvas.fill([rounded(0.435, 0.59, 0.565, 0.68, 0.02)], joint)
    for x, colour in ((0.467, palette.accent), (0.5, palette.light), (0.533, (132, 208, 160))):
        canvas.disc(x, 0.635, 0.011, colour)
    canvas.disc(0.29, 0.745, 0.022, dark)
    _meadow(canvas, dice, palette)
    canvas.fill([rounded(0.455, 0.49, 0.545, 0.535, 0.01)], joint)
    canvas.fill([rounded(0.3, 0.425 - 0.05, 0.7, 0.46, 0.03)], dark)
    canvas.fill([rounded(0.325, 0.28, 0.675, 0.505, 0.09)], mix(shell, WHITE, 0.4), shell)
    canvas.fill([rounded(0.365, 0.325, 0.635, 0.462, 0.06)], joint, DARK)
    for side in SIDES:
        canvas.glow(0.5 + side * 0.068, 0.385, 0.05, palette.light, 0.7)
        canvas.disc(0.5 + side * 0.068, 0.385, 0.023, palette.light)
    canvas.stroke([smile(0.5, 0.418, 0.03, 0.015)], 0.006, palette.light)
    canvas.stroke([[(0.77, 0.5), (0.775, 0.43), (0.768, 0.38)]], 0.006, (92, 150, 96))
    canvas.fill([leaf((0.773, 0.45), -0.5, 0.06)], (110, 172, 108))
    flower(canvas, (0.768, 0.375), 0.048, palette)
    canvas.disc(0.77, 0.505, 0.022, dark)


def bird(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """A small one on a twig, about to sing."""
    coat = palette.accent
    dark = mix(coat, palette.things[4], 0.45)
    canvas.disc(0.5, 0.45, 0.34, palette.light, mix(palette.light, palette.sky[1], 0.6), opacity=0.8)
    _branch(canvas, dice, palette, 0.72)
    canvas.fill([[(0.36, 0.6), (0.17, 0.74), (0.2, 0.785), (0.42, 0.68)]], dark)
    body: list[Point] = [
        (0.5 + 0.17 * math.cos(a) - 0.03 * math.sin(a), 0.555 + 0.15 * math.sin(a) - 0.07 * math.cos(a))
        for a in (at * math.tau for at in across(60))
    ]
    canvas.fill([body], coat, mix(coat, palette.light, 0.35))
    canvas.disc(0.61, 0.43, 0.105, coat)
    canvas.fill([ellipse(0.57, 0.6, 0.085, 0.085)], mix(palette.light, coat, 0.15))
    canvas.fill([leaf((0.55, 0.55), 2.75, 0.3)], dark, palette.things[4])
    canvas.fill([leaf((0.54, 0.535), 2.85, 0.22)], mix(dark, coat, 0.5))
    canvas.fill([[(0.7, 0.4), (0.79, 0.425), (0.705, 0.45)]], (240, 168, 62))
    canvas.fill([[(0.705, 0.445), (0.765, 0.465), (0.695, 0.47)]], (214, 132, 44))
    canvas.disc(0.645, 0.41, 0.019, DARK)
    canvas.disc(0.651, 0.404, 0.006, WHITE)
    canvas.stroke([[(0.48, 0.69), (0.475, 0.725)], [(0.54, 0.69), (0.54, 0.725)]], 0.008, (196, 128, 60))
    for x, y in ((0.83, 0.36), (0.88, 0.29)):
        canvas.disc(x, y, 0.012, palette.ink)
        canvas.stroke([[(x + 0.01, y), (x + 0.01, y - 0.06), (x + 0.03, y - 0.045)]], 0.005, palette.ink)


def owl(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    """Wide awake on a branch."""
    coat = dice.choice(((132, 98, 78), (112, 104, 120), (168, 128, 92)))
    dark, pale = mix(coat, DARK, 0.45), mix(coat, WHITE, 0.7)
    stars(canvas, dice, 90, 0.7)
    canvas.disc(0.5, 0.44, 0.34, palette.light, mix(palette.light, palette.accent, 0.3), opacity=0.85)
    for side in SIDES:
        canvas.fill([[(0.5 + side * 0.16, 0.36), (0.5 + side * 0.165, 0.2), (0.5 + side * 0.04, 0.29)]], dark)
    canvas.fill([rounded(0.325, 0.26, 0.675, 0.735, 0.17)], coat, dark)
    canvas.fill([ellipse(0.5, 0.6, 0.11, 0.125)], pale)
    scales = [
        smile(0.5 + n * 0.042 + 0.021 * (row % 2), 0.545 + row * 0.035, 0.018, 0.014)
        for row in range(4)
        for n in range(-2 + row // 2, 3 - row // 2)
    ]
    canvas.stroke(scales, 0.004, dark, opacity=0.7)
    for side in SIDES:
        canvas.fill([leaf((0.5 + side * 0.155, 0.45), math.pi / 2 - side * 0.06, 0.3)], dark)
        canvas.disc(0.5 + side * 0.077, 0.385, 0.084, pale)
        canvas.disc(0.5 + side * 0.072, 0.385, 0.05, (246, 190, 78))
        canvas.disc(0.5 + side * 0.068, 0.385, 0.032, DARK)
        canvas.disc(0.5 + side * 0.068 + 0.011, 0.373, 0.01, WHITE)
    canvas.fill([[(0.478, 0.42), (0.522, 0.42), (0.5, 0.475)]], (236, 158, 64))
    _branch(canvas, dice, palette, 0.74)
    toes = [ellipse(0.5 + side * 0.07 + n * 0.02, 0.735, 0.011, 0.02) for side in SIDES for n in (-1, 0, 1)]
    canvas.fill(toes, (236, 158, 64))


def _furry(
    canvas: Canvas, dice: random.Random, palette: Palette, colours: tuple[Colour, Colour, Colour]
) -> None:
    """A bear in the colours of coat, ears and snout; where the ears are much darker, so are eyes and arms."""
    coat, dark, pale = colours
    _sky(canvas, dice, palette)
    for side in SIDES:
        canvas.disc(0.5 + side * 0.135, 0.285, 0.058, dark)
        canvas.disc(0.5 + side * 0.13, 0.292, 0.03, mix(dark, pale, 0.4))
    _body(canvas, coat, mix(coat, dark, 0.4), pale)
    canvas.fill([ellipse(0.5 + side * 0.155, 0.62, 0.042, 0.1) for side in SIDES], dark)
    _meadow(canvas, dice, palette)
    _head(canvas, coat)
    if coat == WHITE:
        canvas.fill([ellipse(0.5 + side * 0.08, 0.39, 0.043, 0.05) for side in SIDES], dark)
    canvas.fill([ellipse(0.5, 0.455, 0.066, 0.05)], mix(pale, WHITE, 0.2))
    _eyes(canvas, 0.078, 0.385, 0.019)
    canvas.fill([ellipse(0.5, 0.434, 0.026, 0.017)], DARK)
    _grin(canvas, 0.455)


def _sky(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    if palette in palettes.NIGHT:
        stars(canvas, dice, 90, 0.7)
        canvas.glow(0.2, 0.2, 0.2, palette.light, 0.5)
        canvas.disc(0.2, 0.2, 0.06, palette.light)
    canvas.glow(0.5, 0.38, 0.55, palette.light, 0.6)


def _body(canvas: Canvas, coat: Colour, dark: Colour, belly: Colour) -> None:
    canvas.fill([ellipse(0.5, 0.63, 0.17, 0.19)], coat, dark)
    canvas.fill([ellipse(0.5, 0.67, 0.1, 0.14)], belly)


def _meadow(canvas: Canvas, dice: random.Random, palette: Palette) -> None:
    hill = [(at, 0.8 - 0.07 * math.sin(at * math.pi)) for at in across(40)]
    canvas.fill([[*hill, (1, 1), (0, 1)]], palette.things[2], palette.things[4])
    for place in across(8):
        x = 0.08 + 0.84 * place + dice.uniform(-0.04, 0.04)
        flower(canvas, (x, 0.85 + dice.uniform(-0.03, 0.06)), dice.uniform(0.014, 0.026), palette)


def _head(canvas: Canvas, coat: Colour) -> None:
    canvas.fill([ellipse(0.5, 0.395, 0.178, 0.135)], mix(coat, WHITE, 0.16), coat)


def _eyes(canvas: Canvas, apart: float, y: float, size: float) -> None:
    for side in SIDES:
        canvas.disc(0.5 + side * apart, y, size, DARK)
        canvas.disc(0.5 + side * apart + size * 0.32, y - size * 0.32, size * 0.34, WHITE)


def _grin(canvas: Canvas, y: float) -> None:
    canvas.stroke([smile(0.5 + side * 0.02, y, 0.02, 0.014) for side in SIDES], 0.005, DARK)


def _branch(canvas: Canvas, dice: random.Random, palette: Palette, y: float) -> None:
    wood = mix(palette.things[3], (96, 66, 50), 0.5)
    twig = [(at * 1.1 - 0.05, y + 0.025 * math.sin(at * 5)) for at in across(30)]
    canvas.stroke([twig], 0.026, wood)
    for at in (0.07, 0.16, 0.26, 0.72, 0.83, 0.93):
        foot = (at, y + 0.025 * math.sin((at + 0.05) / 1.1 * 5))
        canvas.fill(
            [leaf(foot, dice.choice((-1.1, 1.0)) + dice.uniform(-0.4, 0.4), 0.11)],
            palette.things[2],
            palette.things[3],
        )
