"""
Which picture belongs to this prompt?

Posters, painted from the prompt, the model and a seed: the same three give the same bytes. Words of the
prompt choose the scene and the hour; each picture says that it is simulated and carries a mark of its
prompt.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import re
import unicodedata
from typing import TYPE_CHECKING, TypeVar

import msgspec
from PIL import Image, ImageDraw, ImageFont, ImageOps

from batchgen.simulator.paint import built, creatures, edits, land, motif, palettes, people, still
from batchgen.simulator.paint.canvas import Canvas, gradient, grained, mix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchgen.simulator.asked import Picture
    from batchgen.simulator.paint.palettes import Colour, Palette

    Scene = Callable[[Canvas, random.Random, Palette], None]

T = TypeVar("T")

SIDE = 1024
"""Of the square that a scene is painted on, and of the pictures that are framed."""
QUALITY = 85
MARGIN = 0.04
"""Of the side: the paper around the picture; the caption's strip is twice as high."""
MARK_WITHIN = 4096
CAPTION_LETTERS = 56
READ = 2000
"""Letters of a prompt that are looked at for a picture's subject."""
LATIN_END = "ɐ"

_mark = re.compile(rb"batchgen simulator prompt=([0-9a-f]{16}) (?:references=([0-9a-f,]+) )?")

_scenes: tuple[tuple[Scene, str], ...] = (
    (creatures.cat, "cat|kitten|gato|chat|고양이|猫|ネコ|قطة"),
    (creatures.fox, "fox|zorro|renard|여우|狐"),
    (creatures.panda, "panda|판다|熊猫|パンダ"),
    (creatures.bear, "bear|teddy|oso|곰|熊|دب"),
    (creatures.dog, "dog|puppy|perro|강아지|犬|狗|كلب"),
    (creatures.rabbit, "rabbit|bunny|hare|conejo|토끼|兔|うさぎ"),
    (creatures.dragon, "dragon|dinosaur|monster|용이|龙|龍"),
    (creatures.robot, "robot|android|로봇|机器人|ロボット|روبوت"),
    (creatures.bird, "bird|robin|sparrow|parrot|pájaro|oiseau|새가|鸟|鳥|طائر"),
    (creatures.owl, "owl|búho|부엉이|猫头鹰|フクロウ"),
    (people.astronaut, "astronaut|cosmonaut|spaceman|우주비행사|宇航员"),
    (people.gentleman, "man|grandfather|king|wizard|sailor|hombre|할아버지|老人"),
    (people.portrait, "woman|girl|queen|captain|bride|mujer|여인|소녀|女孩|امرأة"),
    (still.bottle, "bottle|perfume|flask|botella|향수|香水"),
    (still.mug, "mug|cup|coffee|espresso|café|taza|커피|咖啡"),
    (still.teapot, "teapot|kettle|tetera|찻주전자|茶壶"),
    (still.jar, "moon jar|jar|달항아리"),
    (still.vase, "vase|ceramic|pottery|jarrón|도자기|花瓶"),
    (still.lamp, "lamp|lampshade|lámpara|램프"),
    (still.lantern, "lantern|farol|등불|灯笼|فانوس"),
    (still.bag, "bag|handbag|backpack|suitcase|bolso|가방|包"),
    (still.shoes, "shoe|sneaker|boot|zapato|신발|鞋"),
    (still.watch, "watch|clock|reloj|시계|手表"),
    (still.soup, "ramen|noodle|soup|라면|拉面|ラーメン"),
    (still.bowl, "fruit|orange|apple|peach|breakfast|cake|food|과일|水果"),
    (built.road, "car|truck|taxi|vehicle|coche|voiture|자동차|汽车|سيارة"),
    (built.castle, "castle|palace|fortress|temple|castillo|château|궁전|城堡|قصر"),
    (built.harbour, "harbor|harbour|port|canal|puerto|항구|港"),
    (built.town, "town|street|village|alley|market|pueblo|calle|골목|시장|街"),
    (built.city, "city|skyline|downtown|rooftop|tokyo|seoul|manhattan|ciudad|도시|서울|都市|城市|東京|مدينة"),
    (land.aurora, "aurora|northern lights|오로라|极光"),
    (land.sea, "sea|ocean|wave|beach|sailboat|boat|lighthouse|island|mar|playa|바다|海|بحر"),
    (land.dunes, "dune|desert|canyon|sahara|desierto|사막|沙漠|صحراء"),
    (land.peaks, "mountain|alpine|lake|peak|summit|montaña|설산|호수|山|جبل"),
    (land.hills, "hill|valley|mist|fog|meadow|tea terrace|field|landscape|언덕|안개|초원"),
    (motif.leaves, "botanical|leaf|leave|garden|fern|flower|forest|jungle|jardín|bosque|숲|꽃|花|森|حديقة"),
    (motif.contours, "map|topographic|contour|volcano|terrain|atlas|mapa|지도|地图|خريطة"),
    (motif.terrazzo, "terrazzo|seamless|tile|wallpaper|fabric|textile|confetti"),
    (motif.ribbons, "music|jazz|wind|dance|abstract|ribbon|silk|concert|음악|音乐"),
    (motif.bauhaus, "bauhaus|geometric|cubist|typography"),
)
"""The first word of a prompt that is in here says what it is a picture of; failing that, one of the kinds."""
_kinds: tuple[tuple[Scene, str], ...] = (
    (still.any_thing, "product|catalog|catalogue|studio|packaging|still life"),
    (people.portrait, "portrait|face|retrato|초상"),
    (still.bowl, "bowl|plate"),
    (motif.bauhaus, "poster|logo|grid|pattern|icon|design"),
)
_anything: tuple[Scene, ...] = (
    *(land.hills, land.peaks, land.dunes, land.sea, built.castle),
    *(motif.leaves, motif.contours, motif.ribbons, motif.bauhaus, motif.terrazzo),
)
_hours: tuple[tuple[tuple[Palette, ...], str], ...] = (
    (palettes.NIGHT, "night|midnight|moon|moonlit|star|aurora|neon|noche|luna|밤|달|夜|月|ليل|القمر"),
    (
        palettes.DUSK,
        "sunset|dusk|golden|sunrise|dawn|evening|blue hour|lantern|atardecer|노을|해질녘|夕|غروب",
    ),
    (palettes.DAY, "day|morning|noon|spring|summer|snow|daylight|mañana|verano|아침|봄|春|朝"),
)
_colours: tuple[tuple[Colour, str], ...] = (
    ((214, 58, 52), "red|crimson|scarlet|rojo|rouge|빨간|红|赤"),
    ((233, 124, 48), "orange|amber|terracotta|naranja|주황"),
    ((238, 184, 52), "yellow|gold|golden|brass|daffodil|amarillo|노란|黄"),
    ((88, 148, 96), "green|sage|emerald|verde|vert|초록|绿|緑"),
    ((58, 116, 190), "blue|navy|cobalt|azul|bleu|파란|蓝|青"),
    ((38, 128, 136), "teal|turquoise"),
    ((226, 118, 150), "pink|rose|magenta|rosa|분홍|粉"),
    ((134, 92, 172), "purple|violet|lavender|morado|보라|紫"),
    ((240, 132, 112), "coral|peach|salmon"),
)


def paint(
    prompt: str,
    *,
    model: str,
    seed: int,
    pixels: tuple[int, int] = (SIDE, SIDE),
    last: str | None = None,
    references: Sequence[Picture] = (),
) -> bytes:
    """
    A JPEG of so many pixels. Takes the processor some 40 ms a megapixel.

    With references it is the first of them in another light, the others in its corner; where that cannot be
    opened, a scene as ever.

    :param last: the words the picture is marked with, where they are not the whole prompt.
    """
    told = prompt if last is None else last
    dice = random.Random(
        " ".join([str(seed), model, prompt_key(prompt), *(one.sha256 for one in references)])
    )
    palette = dice.choice(_told(_hours, prompt) or palettes.DAY + palettes.DUSK)
    if colour := _told(_colours, prompt):
        palette = msgspec.structs.replace(palette, accent=colour)
    # What is larger than 1K is painted so and enlarged.
    scale = max(1, round((pixels[0] * pixels[1]) ** 0.5 / SIDE))
    framed = pixels[0] // scale, pixels[1] // scale
    image = edits.edited(references, framed, dice, palette)
    if image is None:
        scene = _told(_scenes, prompt) or _told(_kinds, prompt) or dice.choice(_anything)
        canvas = Canvas(SIDE, palette.sky)
        scene(canvas, dice, palette)
        image = canvas.image if framed == canvas.image.size else ImageOps.fit(canvas.image, framed)
    poster = grained(_framed(image, told, palette))
    if pixels != poster.size:
        poster = poster.resize(pixels, Image.Resampling.BICUBIC)
    return _jpeg(poster, _comment(told, seed, references))


def thumbnail(
    prompt: str, *, seed: int, pixels: tuple[int, int] | None = None, references: Sequence[Picture] = ()
) -> bytes:
    """
    A JPEG of 64 pixels a side that looks the same for every prompt, in microseconds.

    :param pixels: of one that is as plain, in the size that is wanted.
    """
    blank = _blank(*pixels) if pixels else _blank(64, 64)
    # After SOI and APP0, whose length stands in its third and fourth byte:
    # https://www.w3.org/Graphics/JPEG/jfif3.pdf
    after = 4 + int.from_bytes(blank[4:6], "big")
    comment = _comment(prompt, seed, references)
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


def reference_marks(data: bytes) -> tuple[str, ...]:
    """The first 16 hex digits of the SHA-256 of each picture that a picture was made from, in their order."""
    found = _mark.search(data, 0, MARK_WITHIN)
    return tuple(found[2].decode().split(",")) if found and found[2] else ()


def _told(choices: tuple[tuple[T, str], ...], prompt: str) -> T | None:
    """What the first word of the prompt that is among the choices stands for."""
    found = _words(tuple(words for _, words in choices)).search(prompt[:READ].casefold())
    return None if found is None or found.lastgroup is None else choices[int(found.lastgroup[1:])][0]


@functools.cache
def _words(choices: tuple[str, ...]) -> re.Pattern[str]:
    """Latin words stand alone, or in the plural; others need no space around them, and take particles."""
    groups = []
    for index, words in enumerate(choices):
        latin = "|".join(word for word in words.split("|") if word < LATIN_END)
        other = "|".join(word for word in words.split("|") if word >= LATIN_END)
        both = rf"\b(?:{latin})(?:e?s)?\b" + (f"|{other}" if other else "")
        groups.append(f"(?P<c{index}>{both})")
    return re.compile("|".join(groups))


def _framed(scene: Image.Image, prompt: str, palette: Palette) -> Image.Image:
    """The scene on paper, with the prompt's first words and the word 'simulated' below it."""
    width, height = scene.size
    side = min(width, height)
    margin = round(side * MARGIN)
    poster = Image.new("RGB", scene.size, palette.paper)
    # As much is cut above as below.
    above = margin * 3 // 2
    poster.paste(scene.crop((margin, above, width - margin, above + height - 3 * margin)), (margin, margin))
    draw = ImageDraw.Draw(poster)
    line = height - margin * 0.95
    title, stamp = _font(round(margin * 0.62)), _font(round(margin * 0.44))
    draw.text((margin, line), _caption(prompt), palette.ink, title, anchor="lm")
    draw.text((width - margin, line), "SIMULATED", mix(palette.accent, palette.ink, 0.45), stamp, anchor="rm")
    return poster


def _caption(prompt: str) -> str:
    """The first words, as far as the font has their letters; the prompt's key when it has none."""
    plain = "".join(_plain(letter) for letter in prompt[:400])
    words = [word for word in plain.split() if any(letter.isalnum() for letter in word)]
    caption = ""
    for word in words:
        if len(caption) + len(word) > CAPTION_LETTERS:
            return f"{caption.rstrip(' ,.;:')} …" if caption else f"{word[:CAPTION_LETTERS]}…"
        caption += f"{word} "
    return caption.rstrip(" ,;:") or f"No. {prompt_key(prompt)}"


@functools.lru_cache(maxsize=1024)
def _plain(letter: str) -> str:
    """The letter, without its accent where the font has it only so; nothing where it has neither."""
    if letter.isspace():
        return " "
    for candidate in (letter, unicodedata.normalize("NFKD", letter)[0]):
        if candidate.isprintable() and _ink(candidate) != _ink("\N{REPLACEMENT CHARACTER}"):
            return candidate
    return ""


def _ink(letter: str) -> bytes:
    return bytes(_font(16).getmask(letter, "L"))


@functools.lru_cache(maxsize=2)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=64)
def _blank(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    plain = gradient(palettes.DUSK[0].sky, (width, height))
    plain.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _jpeg(image: Image.Image, comment: bytes) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=QUALITY, comment=comment)
    return encoded.getvalue()


def _comment(prompt: str, seed: int, references: Sequence[Picture]) -> bytes:
    made = f"references={','.join(one.sha256[:16] for one in references)} " if references else ""
    return f"batchgen simulator prompt={prompt_key(prompt)} {made}seed={seed}".encode()
