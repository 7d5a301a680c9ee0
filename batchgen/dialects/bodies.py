"""
How is the body of a request written, without a copy of the pictures it carries?

Where a picture belongs, the value that is encoded has a mark; the encoded text is cut there, and the
picture's base64 goes between the pieces as it lies in memory, shared by all requests that bring it along.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.records import Attached

# A mark is made of nul characters, which no cell of a manifest can hold. As it is encoded it cannot be part
# of another text either: there, each backslash is doubled.
_MARK = re.compile(rb"\\u0000(\d{1,9})\\u0000")


def mark(index: int) -> str:
    """What stands for the base64 of the picture with this index."""
    return f"\0{index}\0"


def data_url(attached: Attached, index: int) -> str:
    """The URL of a picture that goes along: its own, or one that will hold it."""
    return attached.url or f"data:{attached.mime};base64,{mark(index)}"


def encoded(value: object, attached: Sequence[Attached]) -> tuple[bytes, ...]:
    """Write a value as JSON, in pieces, each mark replaced by its picture."""
    text = msgspec.json.encode(value)
    if not attached:
        return (text,)
    pieces = _MARK.split(text)
    pieces[1::2] = [attached[int(index)].base64 for index in pieces[1::2]]
    return tuple(pieces)


def laid_over(body: Mapping[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """A body with the tables and values of another laid over it."""
    merged = dict(body)
    for name, value in (extra or {}).items():
        below = merged.get(name)
        tables = isinstance(below, dict) and isinstance(value, dict)
        merged[name] = laid_over(below or {}, value) if tables else value
    return merged


def decoded(text: str | None) -> Any:  # noqa: ANN401  whatever a cell holds
    """What a JSON text says; None for none."""
    return None if text is None else msgspec.json.decode(text)
