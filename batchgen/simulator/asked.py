"""
What is asked of the model, in whatever format it came?

Every format is read into an `Asked`; what a picture that comes along must be like is checked here, once for
all of them: https://ai.google.dev/gemini-api/docs/image-understanding
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pybase64

from batchgen.records import Value
from batchgen.simulator import sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.records import Model, Provider

REFERENCE_TOKENS = 560
"""Prompt tokens of a picture in the request: https://ai.google.dev/gemini-api/docs/pricing"""

_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_URL_SAFE = str.maketrans("-_", "+/")


class Picture(Value, frozen=True, kw_only=True):
    """A picture that came along."""

    sha256: str
    """Of its bytes, in hex; of the text of a URL, which is never fetched."""
    data: bytes = b""
    """Empty where it came as a URL."""


class Turn(Value, frozen=True, kw_only=True):
    """Something that is said in a conversation."""

    role: Literal["system", "user", "model", "tool"]
    text: str
    pictures: tuple[Picture, ...] = ()


class Tool(Value, frozen=True, kw_only=True):
    """A function that may be called."""

    name: str
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Its JSON schema."""


class Asked(Value, frozen=True, kw_only=True):
    """One request, read."""

    model: str
    """As it was sent."""
    prompt: str
    """All that the user said."""
    last: str
    """What the user said last."""
    tokens: int
    """Of the prompt, pictures included."""
    pictures: tuple[Picture, ...] = ()
    """Those that came along, in their order."""
    drawing: bool = True
    """Whether a picture is wanted, not words alone."""
    speaking: bool = True
    """Whether words may come with the picture."""
    aspect_ratio: str | None = None
    image_size: str | None = None
    pixels: str | None = None
    """The Images API's `1536x1024`, instead of the two above."""
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    """Of the JSON that is wanted; empty where any object will do."""
    tool: Tool | None = None
    """The one that is to be called."""
    link: bool = False
    """Whether the picture is wanted as a link."""
    stream: bool = False
    usage: bool = True
    """Whether a stream is to end with the tokens it took."""
    events: bool = True
    """Whether a stream is one of server-sent events; else a JSON array."""

    @property
    def references(self) -> tuple[str, ...]:
        """The pictures' hashes."""
        return tuple(picture.sha256 for picture in self.pictures)


class Said(Value, frozen=True, kw_only=True):
    """What a conversation comes to."""

    prompt: str
    last: str
    tokens: int
    pictures: tuple[Picture, ...]


def said(turns: Sequence[Turn]) -> Said:
    """Sum up a conversation: about four characters a token, and a fixed number a picture."""
    spoken = [turn.text for turn in turns if turn.role == "user"]
    characters = sum([len(turn.text) for turn in turns])
    pictures = tuple([picture for turn in turns for picture in turn.pictures])
    return Said(
        prompt="\n".join(spoken),
        last=spoken[-1] if spoken else "",
        tokens=max(1, -(-characters // 4)) + len(pictures) * REFERENCE_TOKENS,
        pictures=pictures,
    )


def inline(mime: str, base64: str) -> Picture:
    """
    A picture from its base64, either alphabet.

    :raises ValueError: it is none, or not of the type it is said to be.
    """
    whole = base64.translate(_URL_SAFE) if "-" in base64 or "_" in base64 else base64
    try:
        data = pybase64.b64decode(whole + "=" * (-len(whole) % 4), validate=True)
    except ValueError:
        raise ValueError("Base64 decoding failed for an inline image.") from None
    return looked_at(mime, data)


def looked_at(mime: str, data: bytes) -> Picture:
    """
    A picture from its bytes.

    :raises ValueError: it is none, or not of the type it is said to be.
    """
    found = _mime(data)
    if found is None:
        raise ValueError("Unable to process input image: it is no PNG, JPEG, WebP, HEIC or HEIF.")
    if found != mime.lower().replace("heic", "heif").replace("image/jpg", "image/jpeg"):
        raise ValueError(f"Unable to process input image: {mime!r} was declared, its bytes are {found}.")
    return Picture(sha256=hashlib.sha256(data).hexdigest(), data=data)


def linked(url: str, *, accepted: bool) -> Picture:
    """
    A picture that is named by an https URL.

    :raises ValueError: it is no such URL, or none is accepted.
    """
    if not accepted or not url.startswith("https://"):
        raise ValueError("Unsupported image URL: only data: URLs are accepted.")
    return Picture(sha256=hashlib.sha256(url.encode("utf-8", "replace")).hexdigest())


def data_url(url: str, *, links: bool) -> Picture:
    """
    A picture as a URL that holds it, or where `links` are accepted one that names it.

    :raises ValueError: it cannot be used.
    """
    if not url.startswith("data:"):
        return linked(url, accepted=links)
    head, _, payload = url.partition(",")
    mime, _, encoding = head[len("data:") :].partition(";")
    if encoding != "base64":
        raise ValueError("Unsupported image URL: its data must be base64.")
    return inline(mime, payload)


def check(asked: Asked, model: Model, provider: Provider, *, length: int) -> None:
    """
    Hold a request of so many bytes against what the model takes.

    :raises ValueError: it asks for more.
    """
    if provider.max_request_bytes is not None and length > provider.max_request_bytes:
        limit = provider.max_request_bytes
        raise ValueError(f"Request payload size exceeds the limit: {limit} bytes.")
    if asked.pictures:
        _check_pictures(asked.pictures, model, provider)
    if any(wanted is not None for wanted in (asked.aspect_ratio, asked.image_size, asked.pixels)):
        exact = provider.dialect == "images"
        sizes.check(asked.aspect_ratio, asked.image_size, asked.pixels, model, exact=exact)


def _check_pictures(pictures: Sequence[Picture], model: Model, provider: Provider) -> None:
    if model.max_references is not None and len(pictures) > model.max_references:
        raise ValueError(
            f"Too many images: {len(pictures)} were given, {model.id} takes {model.max_references}."
        )
    largest = provider.max_reference_bytes
    if largest is not None and any(len(picture.data) > largest for picture in pictures):
        raise ValueError(f"An inline image exceeds the limit: {largest} bytes.")


def _mime(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/heif" if data[4:8] == b"ftyp" and data[8:12] in _HEIF else None
