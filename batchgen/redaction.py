"""
What must not be shown of a text that may quote a key?

Endpoints quote the key they were sent: in errors, headers, even in a model's words, written as URLs, JSON,
HTML or base64 have it, or cut off in the middle.
"""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HIDDEN = "[key]"

_LIKE_KEYS = re.compile(
    r"(?P<name>\bBearer\s+|\bBasic\s+|\b(?:x-)?(?:goog-)?api[-_]?key[\"']?\s*[=:]\s*[\"']?"
    r"|\b(?:access_token|token|key)=)[^\s\"'&,;<>]{6,}"
    r"|\b(?:sk|rk|pk)-[A-Za-z0-9_*.-]{6,}|\bcdt_[\w-]{4,}|\bAIza[\w-]{10,}|\bAQ\.[\w-]{10,}",
    re.IGNORECASE,
)
SHORT = 8
"""Characters of a key below which it is a placeholder: hidden as a word of its own, in plain writing only."""


def without_likely_keys(text: str) -> str:
    """Hide whatever looks like an API key, or stands where one does."""
    return _LIKE_KEYS.sub(lambda found: (found["name"] or "") + HIDDEN, text)


class Redactor:
    """
    Hides the given keys, however they are written, and of a long one every beginning of 8 characters or more.

    A message is cut to its length before it comes here, and must not keep the first half of a key.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        patterns = [pattern for key in sorted(keys, key=len, reverse=True) if key for pattern in _forms(key)]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, text: str) -> str:
        """Return the text without the keys."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


def _forms(key: str) -> Iterator[str]:
    if len(key) < SHORT:
        yield rf"(?<!\w){re.escape(key)}(?!\w)"
        return
    yield f"(?i:{_begun([_written(sign) for sign in key], SHORT)})"
    for offset in range(3):  # where base64 may begin within three bytes
        code = base64.b64encode(bytes(offset) + key.encode("utf-8", "replace")).decode("ascii")
        # The characters at both ends depend on the neighbours too.
        inner = code[(0, 2, 3)[offset] : len(code) - (0, 4, 3)[(offset + len(key)) % 3]]
        yield _begun([_coded(sign) for sign in inner], SHORT)


def _begun(signs: list[str], least: int) -> str:
    """A pattern of at least so many of the signs, and of what follows of them."""
    return "".join([*signs[:least], *(f"{sign}?" for sign in signs[least:])])


def _written(sign: str) -> str:
    r"""A character of a key: as %XX, %25XX, \u00XX, in HTML, or as it is, maybe behind backslashes."""
    code = f"{ord(sign):02x}"
    # Bounded, for a text of backslashes alone must not take a minute.
    escapes = rf"(?:%(?:25){{0,3}}|\\{{1,8}}(?:u00|x)|&\#x0{{0,3}}){code};?"
    named = f"|{re.escape(html.escape(sign))}" if html.escape(sign) != sign else ""
    return rf"(?:{escapes}|&\#0{{0,3}}{ord(sign)};{named}|\\{{0,8}}{re.escape(sign)})"


def _coded(sign: str) -> str:
    """A character of base64, in its alphabet for URLs too."""
    other = {"+": "-", "/": "_"}.get(sign)
    return sign if other is None else f"(?:(?i:{_written(sign)})|{other})"
