"""
What does an error body say, whatever its shape?

OpenAI, Google, OpenRouter and the gateways built on them nest, wrap and quote their errors differently. Here
a body becomes a few sets of words; what they mean is told in `failures`.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from batchgen.dialects.lenient import amount, decode
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_TEXT = 20_000
_LONGEST_KEY = 100
_DEPTH = 24
_MOST = 400

_CODE_KEYS = {
    "code",
    "type",
    "status",
    "reason",
    "error",
    "errorcode",
    "error_code",
    "statuscode",
    "status_code",
}
_QUOTA_KEYS = {"quotaid", "quotametric", "quota_limit", "quota_metric"}
_WORD_KEYS = {
    "",
    "message",
    "msg",
    "detail",
    "error",
    "error_description",
    "error_message",
    "description",
    "title",
    "raw",
}

# What LiteLLM's proxy puts around an upstream's error: `litellm.BadRequestError: GeminiException - {…}`, then
# which of its routes failed.
# https://github.com/BerriAI/litellm/blob/main/litellm/litellm_core_utils/exception_mapping_utils.py
_GATEWAY = re.compile(
    r"litellm\.(?:[\w.]+: ){1,4}\w+Exception(?: \w+)? - (?P<said>.+?)(?:\n\nLiteLLM: .*)?", re.DOTALL
)


class Facts(Value, frozen=True, kw_only=True):
    """An error body, taken apart."""

    codes: frozenset[str]
    """Structured codes, in lower case."""
    status: int
    """The HTTP status that the error names, 0 for none."""
    quotas: str
    """Names of the quotas that were passed, in lower case."""
    words: str
    """Everything as lines of `key: value`, in lower case."""
    message: str
    """What is meant for people, from the outermost to the innermost."""


def dissect(body: object) -> Facts:
    """Take a decoded body apart, or the text of one that is no JSON."""
    pairs = list(islice(_walk(body), _MOST))
    codes = frozenset(value.lower() for key, value in pairs if key.lower() in _CODE_KEYS)
    spoken = (value for key, value in pairs if key.lower() in _WORD_KEYS and amount(value) is None)
    return Facts(
        codes=codes,
        status=_status(body, codes),
        quotas="\n".join(value for key, value in pairs if key.lower() in _QUOTA_KEYS).lower(),
        words="\n".join(f"{key}: {value}" for key, value in pairs).lower(),
        message=": ".join(filter(None, dict.fromkeys(spoken))),
    )


def decoded(body: object) -> object:
    """Decode the body of an answer if it is JSON, else return its text."""
    if isinstance(body, bytes | bytearray):
        body = body.decode("utf-8", "replace")
    return _unquoted(body)[1] if isinstance(body, str) else body


def _walk(value: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield every scalar with its key, those of quoted JSON included."""
    if depth > _DEPTH:
        return
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, name[:_LONGEST_KEY], depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, key, depth + 1)
    elif isinstance(value, str):
        words, quoted = _unquoted(_unwrapped(value[:_LONGEST_TEXT]))
        yield key, words.strip().removesuffix(":")
        if not isinstance(quoted, str):
            yield from _walk(quoted, key, depth + 3)
    elif isinstance(value, int | float) and abs(value) < 10**9:
        yield key, str(value)


def _unwrapped(text: str) -> str:
    """What a gateway quotes, where its own words surround it."""
    found = _GATEWAY.fullmatch(text)
    return found["said"] if found is not None else text


def _unquoted(text: str) -> tuple[str, object]:
    """Split a text into words and the JSON that ends it: so gateways quote an upstream's error."""
    for at in sorted(at for at in (text.find("{"), text.find("[")) if at >= 0):
        try:
            value = decode(text[at:].strip())
        except ValueError:
            continue
        if isinstance(value, dict | list):
            return text[:at], value
    return text, text


def _status(body: object, codes: frozenset[str]) -> int:
    """Read the outermost code that is an HTTP status, else the highest of all."""
    error = body[0] if isinstance(body, list) and body else body
    for _ in range(2):
        if isinstance(error, dict):
            for key in ("code", "status", "statusCode"):
                code = amount(error.get(key))
                if code is not None and 400 <= code < 600:
                    return int(code)
            error = error.get("error")
    numbers = (int(code) for code in codes if code.isdecimal() and len(code) == 3)
    return max((number for number in numbers if 400 <= number < 600), default=0)
