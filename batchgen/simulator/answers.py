"""What does the model answer, what does it take in tokens, and how does it become a body?"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pybase64

from batchgen.records import Value
from batchgen.simulator import bodies, events, paint, sizes, words
from batchgen.simulator.account import Tokens, cost
from batchgen.simulator.asked import REFERENCE_TOKENS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from batchgen.simulator.asked import Asked
    from batchgen.simulator.bodies import Answer
    from batchgen.simulator.formats import Format
    from batchgen.simulator.settings import Settings
    from batchgen.simulator.sold import Offer

IMAGE_TOKENS = 1120
"""Of a picture of a model for which none are known."""


class Size(Value, frozen=True, kw_only=True):
    """How large a picture becomes."""

    bucket: str
    """What it is billed as."""
    pixels: tuple[int, int]
    told: bool
    """Whether anybody asked for it."""


class Draw(Value, frozen=True, kw_only=True):
    """A request that was admitted, and the dice for it."""

    format: Format
    asked: Asked
    offer: Offer
    size: Size
    key: bytes
    random: random.Random
    fault: str | None
    host: str


def size(asked: Asked, offer: Offer, settings: Settings) -> Size:
    """The size that was asked for, or the endpoint's own."""
    if settings.ignores_size:
        return Size(bucket=settings.size, pixels=sizes.pixels(None, settings.size), told=False)
    if asked.pixels is not None:
        exact = sizes.asked(asked.pixels, offer.model, exact=offer.provider.dialect == "images")
        if exact is not None:
            return Size(bucket=sizes.bucket(*exact), pixels=exact, told=True)
    wanted = asked.image_size or offer.size
    told = wanted is not None or asked.aspect_ratio is not None
    return _size(asked.aspect_ratio, wanted or settings.size, told)


@functools.lru_cache(maxsize=256)
def _size(aspect_ratio: str | None, bucket: str, told: bool) -> Size:
    return Size(bucket=bucket, pixels=sizes.pixels(aspect_ratio, bucket), told=told)


def decided(draw: Draw, settings: Settings, *, now: float) -> Answer:
    """What the model says and bills, still without its picture."""
    dice, asked, model = draw.random, draw.asked, draw.offer.model
    thinking = dice.randint(225, 340) if "pro" in model.id else dice.randint(150, 400)
    name = f"chatcmpl-{dice.getrandbits(96):024x}"
    text, finish, native, image = "", "stop", "STOP", 0
    calls: tuple[bodies.Call, ...] = ()
    if draw.fault == "refusal":
        finish, native = "content_filter", "IMAGE_SAFETY"
    elif draw.fault == "no_image":
        text = "I can describe the scene in words, but I did not draw it this time."
    elif asked.tool is not None:
        finish = "tool_calls"
        arguments = words.filled({"type": "object", **asked.tool.parameters}, asked.last)
        calls = (bodies.Call(id=f"call_{name[-24:]}", name=asked.tool.name, arguments=arguments),)
    else:
        text = words.spoken(asked) if asked.speaking or not asked.drawing else ""
        image = _image_tokens(draw) if asked.drawing else 0
    written = text or "".join(bodies.encode(call.arguments).decode() for call in calls)
    spoken = thinking + -(-len(written) // 4)
    if asked.max_tokens is not None and spoken + image > asked.max_tokens:
        text, finish, native, image, calls = "", "length", "MAX_TOKENS", 0, ()
        spoken = thinking = min(spoken, asked.max_tokens)
    pictures = len(asked.pictures) * REFERENCE_TOKENS
    tokens = Tokens(prompt=asked.tokens, pictures=pictures, text=spoken, thinking=thinking, image=image)
    return bodies.Answer(
        id=name,
        model=asked.model,
        created=int(now),
        text=text,
        thought=f"Considering {asked.last[:60]}",
        calls=calls,
        finish=finish,
        native_finish=native,
        tokens=tokens,
        usd=cost(model, tokens),
        details=settings.details,
    )


def painter(draw: Draw, seed: int, settings: Settings) -> Callable[[], bytes]:
    """What paints the picture, or a draft of it."""
    asked, model, damaged = draw.asked, draw.offer.model.id, draw.fault == "corrupt"
    wanted, painted = draw.size, settings.paint

    def picture() -> bytes:
        if painted:
            data = paint.paint(
                asked.prompt,
                last=asked.last,
                model=model,
                seed=seed,
                pixels=wanted.pixels,
                references=asked.pictures,
            )
        else:
            pixels = wanted.pixels if wanted.told else None
            data = paint.thumbnail(asked.last, seed=seed, pixels=pixels, references=asked.pictures)
        return data[: len(data) * 3 // 5] if damaged else data

    return picture


def written(draw: Draw, shape: str, answer: Answer) -> bytes:
    """The body of an answer; without its end where it is to be half a document."""
    body = (
        _streamed(draw, shape, answer)
        if draw.asked.stream
        else bodies.encode(draw.format.whole(shape, answer))
    )
    return body[: len(body) * 2 // 3] if draw.fault == "bad_json" else body


def composed(draw: Draw, shape: str, answer: Answer, pictures: list[Callable[[], bytes]]) -> bytes:
    """The same with its pictures, which are painted."""
    encoded = [pybase64.b64encode_as_string(picture()) for picture in pictures]
    if draw.fault == "bad_base64":
        encoded[-1] = f"{encoded[-1][:400]}!#{encoded[-1][400:]}"
    return written(draw, shape, bodies.with_pictures(answer, encoded, linked=False))


def _streamed(draw: Draw, shape: str, answer: Answer) -> bytes:
    written, blank = draw.format, draw.format.opening(shape, answer).blank
    chunks, done = written.chunks(shape, answer), written.done
    if draw.fault == "stream_error":
        chunks, done = [*chunks[: len(chunks) // 2], written.broken(shape)], b""
    elif written.usage is not None and draw.asked.usage:
        chunks = [*chunks, written.usage(shape, answer)]
    if not draw.asked.events:
        return bodies.encode(chunks)
    return b"".join(events.framed(chunk, blank) for chunk in chunks) + done


def _image_tokens(draw: Draw) -> int:
    known = draw.offer.model.image_tokens
    return known.get(draw.size.bucket, known.get("1K", IMAGE_TOKENS))
