"""
Which colours go together?

Every palette is told from back to front: the sky from its top to the horizon, the things from far to near.
"""

from __future__ import annotations

from batchgen.records import Value

Colour = tuple[int, int, int]


def _colours(text: str) -> tuple[Colour, ...]:
    return tuple((int(word[:2], 16), int(word[2:4], 16), int(word[4:], 16)) for word in text.split())


class Palette(Value, frozen=True, kw_only=True):
    """Colours of one picture."""

    sky: tuple[Colour, ...]
    """Top to horizon, three."""
    things: tuple[Colour, ...]
    """Far to near, five."""
    light: Colour
    """The sun, the moon, the windows."""
    accent: Colour
    """What catches the eye; a colour named in the prompt takes its place."""
    warmth: Colour
    """Of the sun's lower edge."""
    paper: Colour = (246, 241, 231)
    ink: Colour = (52, 48, 60)


def _palette(sky: str, things: str, light: str, accent: str) -> Palette:
    (bright,), (striking,) = _colours(light), _colours(accent)
    return Palette(sky=_colours(sky), things=_colours(things), light=bright, accent=striking, warmth=striking)


DAY = (
    _palette("7fb7be d3e4cd fbe8c8", "a9c5b4 7aa89b 4f8480 2f6266 1d4350", "fff4d6", "e4713e"),
    _palette("8ecae6 cfe8ef fdf3dd", "b5cfd8 84b0c1 528ca5 2c6482 173f5f", "fffdf2", "f6ae2d"),
    _palette("f7d6bf fbe9d7 fff7ea", "e8b7a0 cf8e7b a7696a 74495a 44314a", "fffaf0", "2a9d8f"),
    _palette("cfe0c3 e9efd5 fbf6df", "b4cba0 8bb07f 5e8c61 3b6a4f 234a3b", "fff6c9", "d1603d"),
    _palette("f4cfd0 f9e4dc fdf4e8", "d7b3c4 b08bac 7f678f 544a72 332f53", "fff8ec", "f08a5d"),
)
DUSK = (
    _palette("33335f b7517a ffb36b", "c7657c 93446f 64315f 3e2350 24173a", "ffe9b0", "ff7f50"),
    _palette("274060 d97b66 ffd28f", "c77a67 9a5760 6c4055 442e47 261f36", "fff0c2", "f2545b"),
    _palette("5b3758 e2725b f9c784", "d18257 ab5b4c 7c3f46 50293b 2d1a2c", "fff3cf", "f4a259"),
    _palette("1f4e5f e08e79 f6d8a8", "79a08f 4f8079 2f6065 1e434f 122b3a", "fff1cc", "ec5f59"),
)
NIGHT = (
    _palette("0b1633 1c3a63 3f7c8c", "2f5a78 24466a 1a3358 122344 0a1530", "fdf0c4", "ffb84d"),
    _palette("160f33 3b2667 8e4f88", "5e3a7d 482b69 342054 22163e 130d28", "ffe9c9", "ff6f91"),
    _palette("071e22 1d4e57 5fa08c", "2f7273 225b62 18454f 0f303b 081d27", "f4f1bb", "ed6a5a"),
)
