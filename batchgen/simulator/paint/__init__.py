"""
Which picture belongs to this prompt?

Posters, painted from the prompt, the model and a seed: the same three give the same bytes. Words of the prompt
choose the scene and the hour; each picture says that it is simulated and carries a mark of its prompt.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import re
from typing import TYPE_CHECKING, TypeVar

from PIL import Image, ImageDraw, ImageFont

from batchgen.simulator.paint import land, motif, palettes
from batchgen.simulator.paint.canvas import Canvas, grained

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.simulator.paint.palettes import Palette

    Scene = Callable[[Canvas, random.Random, Palette], None]

T = TypeVar("T")

SIZES = {"1K": 1024, "2K": 2048, "4K": 4096}
QUALITY = 85
MARGIN = 0.04
"""Of the side: the paper around the picture; the caption's strip is twice as high."""
MARK_WITHIN = 4096
CAPTION_LETTERS = 56
LATIN_END = "ɐ"
"""The default font's letters end before this one."""

_mark = re.compile(rb"batchgen simulator prompt=([0-9a-f]{16}) ")

_scenes: tuple[tuple[str, Scene], ...] = (
    ("portrait|woman|man|girl|boy|retrato|face|astronaut|captain|queen|king|초상|여인", motif.portrait),
    ("cat|fox|bear|owl|dog|robot|dragon|rabbit|creature|mascot|zorro|gato|고양이|여우", motif.creature),
    (
        "vase|bottle|perfume|mug|teapot|shoe|watch|product|catalog|catalogue|ceramic|lamp|도자기|jarrón",
        motif.still,
    ),
    ("aurora|northern lights|오로라", land.aurora),
    ("harbor|harbour|sea|ocean|wave|waves|beach|sail|lighthouse|island|mar|playa|바다", land.sea),
    ("city|street|skyline|market|town|rooftops|tokyo|seoul|ciudad|도시|서울", land.city),
    ("dune|dunes|desert|canyon|sahara|desierto|사막", land.dunes),
    ("mountain|mountains|alpine|lake|peak|summit|montaña|설산|호수", land.peaks),
    ("botanical|leaf|leaves|garden|fern|flower|flowers|forest|jungle|jardín|bosque|숲|꽃", motif.leaves),
    ("map|topographic|contour|volcano|terrain|atlas", motif.contours),
    ("bauhaus|geometric|poster|grid|logo|typography", motif.bauhaus),
    ("terrazzo|pattern|tile|tiles|wallpaper|fabric|textile", motif.terrazzo),
    ("music|jazz|wind|dance|abstract|ribbon|ribbons|silk|concert", motif.ribbons),
    ("hill|hills|valley|mist|fog|meadow|tea|언덕|안개", land.hills),
)
_hours: tuple[tuple[str, tuple[Palette, ...]], ...] = (
    ("night|midnight|moon|moonlit|stars|aurora|neon|noche|밤|달", palettes.NIGHT),
    ("sunset|dusk|golden|sunrise|dawn|evening|lantern|lanterns|atardecer|노을|해질녘", palettes.DUSK),
)


def paint(prompt: str, *, model: str, seed: int, size: str = "1K") -> bytes:
    """A JPEG of 1024, 2048 or 4096 pixels a side. Takes the processor some 40 ms a megapixel."""
    side = SIZES[size]
    dice = random.Random(f"{seed} {model} {prompt_key(prompt)}")
    palette = dice.choice(_told(_hours, prompt) or palettes.DAY + palettes.DUSK)
    scene = _told(_scenes, prompt) or dice.choice([scene for _, scene in _scenes])
    canvas = Canvas(SIZES["1K"], palette.sky)
    scene(canvas, dice, palette)
    poster = grained(_framed(canvas.image, prompt, palette))
    if side != poster.width:
        poster = poster.resize((side, side), Image.Resampling.BICUBIC)
    return _jpeg(poster, prompt, seed)


def thumbnail(prompt: str, *, seed: int) -> bytes:
    """A JPEG of 64 pixels a side that looks the same for every prompt, in microseconds."""
    blank = _blank()
    # After SOI and APP0, whose length stands in its third and fourth byte: https://www.w3.org/Graphics/JPEG/jfif3.pdf
    after = 4 + int.from_bytes(blank[4:6], "big")
    comment = _comment(prompt, seed)
    return b"".join(
        (blank[:after], b"\xff\xfe", (len(comment) + 2).to_bytes(2, "big"), comment, blank[after:])
    )


def prompt_key(prompt: str) -> str:
    """The first 16 hex digits of the prompt's SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def prompt_mark(data: bytes) -> str | None:
    """The `prompt_key` a picture carries, or None if it is not one of these."""
    found = _mark.search(data, 0, MARK_WITHIN)
    return found[1].decode() if found else None


def _told(choices: tuple[tuple[str, T], ...], prompt: str) -> T | None:
    """What the first of the choices with a word in the prompt stands for."""
    folded = prompt.casefold()
    for words, choice in choices:
        # The last part is for plurals, and for Korean particles, which are written onto the word.
        if re.search(rf"\b(?:{words})s?(?![a-zñáéíóú])", folded):
            return choice
    return None


def _framed(scene: Image.Image, prompt: str, palette: Palette) -> Image.Image:
    """The scene on paper, with the prompt's first words and the word 'simulated' below it."""
    side = scene.width
    margin = round(side * MARGIN)
    poster = Image.new("RGB", scene.size, palette.paper)
    # As much is cut above as below.
    above = margin * 3 // 2
    poster.paste(scene.crop((margin, above, side - margin, above + side - 3 * margin)), (margin, margin))
    draw = ImageDraw.Draw(poster)
    line = side - margin * 0.95
    title, stamp = _font(round(margin * 0.62)), _font(round(margin * 0.44))
    draw.text((margin, line), _caption(prompt), palette.ink, title, anchor="lm")
    draw.text((side - margin, line), "SIMULATED", palette.accent, stamp, anchor="rm")
    return poster


def _caption(prompt: str) -> str:
    """The first words, as far as the font has their letters; the prompt's key when it has none."""
    drawable = "".join(letter for letter in prompt[:400] if letter.isspace() or letter < LATIN_END)
    words = [word for word in drawable.split() if any(letter.isalnum() for letter in word)]
    caption = ""
    for word in words:
        if len(caption) + len(word) > CAPTION_LETTERS:
            return f"{caption.rstrip(' ,.;:')} …" if caption else f"{word[:CAPTION_LETTERS]}…"
        caption += f"{word} "
    return caption.rstrip(" ,;:") or f"No. {prompt_key(prompt)}"


@functools.lru_cache(maxsize=2)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.cache
def _blank() -> bytes:
    encoded = io.BytesIO()
    Canvas(64, palettes.DUSK[0].sky).image.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _jpeg(image: Image.Image, prompt: str, seed: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=QUALITY, comment=_comment(prompt, seed))
    return encoded.getvalue()


def _comment(prompt: str, seed: int) -> bytes:
    return f"batchgen simulator prompt={prompt_key(prompt)} seed={seed}".encode()
