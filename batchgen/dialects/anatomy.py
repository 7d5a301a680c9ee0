"""
How is an answer built, apart from what it says?

Which of the known places its pictures stand in, what type they are said to be, what it calls the model, which
figures it reports. Nothing depends on it: it is told to whoever wants to know an endpoint. Like all reading
it takes any bytes, whole answers and streams of server-sent events alike.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchgen.dialects import events
from batchgen.dialects.lenient import decode, mapping, sequence, string
from batchgen.dialects.pictures import BASE64_OPENINGS, lift
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MARKDOWN = "Markdown with a data URL in the content"
MARKDOWN_LINK = "Markdown with a link in the content"
DATA_URL = "a data URL in the content"
BASE64 = "plain base64 as the content"
LINK = "a link as the content"
IMAGES = "message.images"
PARTS = "parts of the content"
IMAGES_API = "the body of the Images API"
NATIVE = "parts of a candidate (Gemini's own format)"
LINKED = ", as links"

_DECLARED = re.compile(rb"data:(image\\?/[a-zA-Z0-9.+-]{1,40});base64,")
_TYPE_KEYS = ("mimeType", "mime_type", "media_type")
_OPENING = 1000
"""Characters of a content by which it is known."""
_DEPTH = 8
_MOST = 64


class Anatomy(Value, frozen=True, kw_only=True):
    """How one answer is built."""

    shapes: tuple[str, ...] = ()
    """Where its pictures stand, in words; in the order of the answer."""
    streamed: bool = False
    """Whether it came as server-sent events."""
    model: str | None = None
    """The model as the answer names it."""
    mimes: tuple[str, ...] = ()
    """The types its pictures are said to be, in their order."""
    usage: tuple[str, ...] = ()
    """Names of the figures it reports, such as `completion_tokens_details.image_tokens`."""


def look(body: bytes | bytearray) -> Anatomy:
    """Look at an answer. No bytes make this raise."""
    body, _ = lift(body)
    documents, streamed = _documents(body)
    tables = [mapping(document) for document in documents]
    named = (string(table.get(key)) for table in tables for key in ("model", "modelVersion"))
    counted = [names for table in tables if (names := [*_figures(table)])]
    said = [match.replace(b"\\", b"").decode().lower() for match in _DECLARED.findall(body)]
    said += [mime for table in tables for mime in _types(table)]
    return Anatomy(
        shapes=tuple(dict.fromkeys(_shapes(tables))),
        streamed=streamed,
        model=next(filter(None, named), None),
        mimes=tuple(dict.fromkeys(said)),
        # A stream counts as it goes: its last count is the whole one.
        usage=tuple(counted[-1]) if counted else (),
    )


def _documents(body: bytes | bytearray) -> tuple[list[Any], bool]:
    """The JSON values of an answer, and whether they are the events of a stream."""
    try:
        value = decode(body)
    except ValueError:
        said = [*events.values(body)]
        return said, bool(said)
    return (value, False) if isinstance(value, list) else ([value], False)


def _figures(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (mapping(table.get("usage")) or mapping(table.get("usageMetadata"))).items():
        if isinstance(value, int | float | str):
            yield name
        elif isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner, figure in value.items() if figure is not None)
        elif value:
            yield name


def _types(value: object, depth: int = 0) -> Iterator[str]:
    """The types that stand beside base64 rather than in a data URL."""
    if depth > _DEPTH:
        return
    for item in value[:_MOST] if isinstance(value, list) else ():
        yield from _types(item, depth + 1)
    for key, item in value.items() if isinstance(value, dict) else ():
        if key in _TYPE_KEYS and string(item).startswith("image/"):
            yield string(item).lower()
        else:
            yield from _types(item, depth + 1)


def _shapes(tables: list[dict[str, Any]]) -> Iterator[str]:
    contents: list[str] = []
    for table in tables:
        for choice in map(mapping, sequence(table.get("choices"))):
            message = mapping(choice.get("message")) or mapping(choice.get("delta"))
            if pictures := sequence(message.get("images")) or message.get("image"):
                yield IMAGES + _linked(pictures)
            content = message.get("content")
            contents += [content] if isinstance(content, str) else []
            if parts := [part for part in sequence(content) if _is_picture(part)]:
                yield PARTS + _linked(parts)
        data = [item for item in sequence(table.get("data")) if mapping(item).keys() & {"b64_json", "url"}]
        if data or "b64_json" in table:
            yield IMAGES_API + _linked(data)
        for candidate in map(mapping, sequence(table.get("candidates"))):
            parts = sequence(mapping(candidate.get("content")).get("parts"))
            if pictures := [part for part in parts if _is_picture(part)]:
                yield NATIVE + _linked(pictures)
    yield from _in_words("".join(contents))


def _in_words(content: str) -> Iterator[str]:
    """Where in a text its pictures stand; base64 was cut out of it, so it is short."""
    whole = content.strip()
    if "](data:image" in content:
        yield MARKDOWN
    elif "data:image" in content:
        yield DATA_URL
    elif whole.startswith(BASE64_OPENINGS) and len(whole) >= _OPENING and " " not in whole[:_OPENING]:
        yield BASE64
    if re.search(r"!\[[^\]]{0,1000}\]\(<?https?:", content):
        yield MARKDOWN_LINK
    elif re.fullmatch(r"https?://\S{1,8192}", whole):
        yield LINK


def _is_picture(part: object) -> bool:
    """Whether a part of a content is something else than words or a call."""
    carriers = {"image_url", "image", "inlineData", "inline_data", "fileData", "file_data", "source"}
    carriers |= {"result", "b64_json"}
    return bool(mapping(part).keys() & carriers)


def _linked(pictures: object) -> str:
    """Tell of the first link among the pictures, if there is one."""
    return LINKED if any(url.lower().startswith("http") for url in _texts(pictures)) else ""


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value[:_OPENING]
    elif depth < _DEPTH and isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value[:_MOST]:
            yield from _texts(item, depth + 1)
