"""
What may reach a terminal?

Ids, prompts and what an endpoint says are other people's words: they must neither steer the terminal, nor
pass for lines of ours, nor bring a key along.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchgen.redaction import Redactor, without_likely_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

# Controls (ESC is how terminals are steered, and its 8-bit forms), what turns the direction of reading, the
# separators some programs break lines at, and halves of characters, which cannot be written at all.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)


def printable(text: str) -> str:
    r"""The text with what would steer a terminal spelt out, such as `\x1b`; lines stay lines."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def line(text: str) -> str:
    """The text as a part of one line."""
    return printable(" ".join(text.splitlines()))


def json_text(text: str) -> str:
    """The same for JSON, which still says the same: unprintable characters only stand in its strings."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def complaint(text: str, keys: Iterable[str]) -> str:
    """What goes wrong, for standard error: without these keys and whatever else looks like one."""
    return printable(without_likely_keys(Redactor(keys)(text)))
