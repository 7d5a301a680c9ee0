"""
What do the server-sent events of an answer say?

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from batchgen.dialects.lenient import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

END = "[DONE]"
"""What ends a stream of chat completions."""

_MOST_LINES = 250_000
"""Several times the tokens of a model's longest output."""
_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?\s*+(?:data|event|id|retry)?:")
_OTHER = re.compile(rb"(?:\xef\xbb\xbf)?\s*+[\[{<]")
_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?\s*+data:")
_NEXT = b"\ndata:"
_LAST = re.compile(rb"[\r\n]data:[ \t]*+" + re.escape(END.encode()) + rb"\s*+\Z")
_LAST_LENGTH = 64


def is_stream(headers: Mapping[str, str], body: bytes | bytearray) -> bool:
    """Tell an event stream, by its first line before its label: gateways mislabel, and ignore `stream`."""
    if _OPENING.match(body) is not None:
        return True
    return "event-stream" in headers.get("content-type", "").lower() and _OTHER.match(body) is None


def is_ended(body: bytes | bytearray) -> bool:
    """
    Tell whether a stream that came so far ends with `END`: nothing that matters comes behind it.

    Within JSON no line begins, so no answer that quotes the mark is taken for its end.
    """
    return _LAST.search(body, max(0, len(body) - _LAST_LENGTH)) is not None


def values(body: bytes | bytearray) -> Iterator[object]:
    """
    What the events of a body say, one by one: JSON values, and `END`.

    It is read up to the first event that is no JSON: of what comes later, nobody knows what it continues.
    Events that are empty or plain words keep a connection alive and say nothing.
    """
    for lines in _events(body):
        try:
            yield from _values(lines)
        except ValueError:
            return


def _events(body: bytes | bytearray) -> Iterator[list[bytes]]:
    """The lines of data of each event."""
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines: list[bytes] = []
    last = 0
    for start, end in islice(_lines(body), _MOST_LINES):
        if lines and body.find(b"\n\n", last, start) >= 0:
            yield lines
            lines = []
        with memoryview(body) as whole, whole[start:end] as line:
            lines.append(bytes(line))
        last = end
    yield lines


def _lines(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """
    Where the data in each of its lines starts and ends.

    They are searched for: a line may have 30 MB, and between two there may be millions that are empty.
    """
    first = _FIRST.match(body)
    at = first.end() if first is not None else _after(body, 0)
    while at:
        end = body.find(b"\n", at)
        end = end if end >= 0 else len(body)
        yield at, end
        at = _after(body, end)


def _after(body: bytes | bytearray, at: int) -> int:
    found = body.find(_NEXT, at)
    return found + len(_NEXT) if found >= 0 else 0


def _values(lines: list[bytes]) -> Iterator[object]:
    """
    What an event says: a value, or the end.

    :raises ValueError: it begins like JSON and is none.
    """
    if len(lines) > 1:
        try:
            yield decode(b"\n".join(lines))
        except ValueError:
            pass  # some gateways leave out the empty line between two events
        else:
            return
    for line in lines:
        data = line.strip()
        if data == END.encode():
            yield END
        elif data.startswith((b"{", b"[")):
            yield decode(data)
