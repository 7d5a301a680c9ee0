"""
Does a cell with structure in it, or such a value of a job, say something that can be sent?

Each function takes what a cell says, its text or what was read from JSON already, and returns what it means,
None where that is nothing. What cannot be sent raises an `InputError` that says what is wrong and what to do,
but not where. Formats: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from batchgen.errors import InputError
from batchgen.manifest.problems import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEEPEST: Final = 64
"""Levels of lists and tables in each other: far more than any endpoint takes."""
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_WORDS: Final = ("none", "auto", "required")
_FORMATS: Final = ("text", "json_object", "json_schema")

_BREAKS: Final = {
    "model": "the column `model` says it",
    "messages": "the columns `prompt` and `messages` say it",
    "contents": "the columns `prompt` and `messages` say it",
    "prompt": "the column `prompt` says it",
    "max_tokens": "the column `max_tokens` says it, and a budget goes by that",
    "stream": "--stream says it",
    "n": "a request buys one picture; `variants` asks for several",
}
"""Keys of `extra` with which another request would be sent than the one that is accounted for."""


class Written(NamedTuple):
    """A value as JSON text without blanks."""

    sent: str
    """Its keys in the order they were given: in a JSON schema it is that of the answer."""
    hashed: str
    """Its keys sorted: how it was written down makes no other purchase of it."""


def decoded(text: str) -> Any:  # noqa: ANN401  whatever it says
    """What a JSON text says, if it can mean only one thing."""
    try:
        value = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise InputError("the JSON is nested too deep") from None
    except (msgspec.MsgspecError, ValueError) as error:
        if re.search(r"\\u[dD][89a-fA-F]", text):
            raise InputError(
                "half of a surrogate pair (\\ud800 to \\udfff) is not text; write the whole character"
            ) from None
        raise InputError(f"this is not JSON ({error}): {quoted(text)}") from None
    return value


def written(value: object) -> Written:
    """A value that JSON can say, as it is stored."""
    if _depth(value) > DEEPEST:
        raise InputError("the JSON is nested too deep")
    sent = msgspec.json.encode(value).decode()
    # What stands for a picture in a request is made of nul characters.
    if "\\u0000" in sent and _NUL.search(sent):
        raise InputError("a nul character; remove it")
    return Written(sent, msgspec.json.encode(value, order="sorted").decode())


def stated(ours: str, value: object) -> str | None:
    """
    What a job says for rows that do not, as JSON text; None where that is nothing.

    :raises InputError: it cannot be sent.
    """
    try:
        meant = PARSERS[ours](decoded(json.dumps(value)))
    except TypeError:
        raise InputError("JSON has texts, numbers, true, false, lists and tables, and no dates") from None
    return None if meant is None else written(meant).sent


def stop(value: object) -> list[str] | None:
    """Texts that end an answer: a list of them, or one alone."""
    if isinstance(value, str):
        value = _list(value, 'in a list each text is in quotes: ["END"]') if value[:1] == "[" else [value]
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise InputError(f"expected a text or a list of texts, got {quoted(value)}")
    return value or None


def response_format(value: object) -> dict[str, Any]:
    """In which form words are to come."""
    table = _table(value, '{"type": "json_object"}')
    kind = table.get("type")
    if kind not in _FORMATS:
        raise InputError(f"`type` is {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}, got {quoted(kind)}")
    if kind == "json_schema" and not isinstance(table.get("json_schema"), dict):
        raise InputError('a JSON schema is needed: {"type": "json_schema", "json_schema": {…}}')
    return table


def tools(value: object) -> list[dict[str, Any]] | None:
    """Functions that may be called."""
    hint = 'expected a list of tools: [{"type": "function", "function": {"name": …}}]'
    if isinstance(value, str):
        value = _list(value, hint)
    if not isinstance(value, list):
        raise InputError(f"{hint}, got {quoted(value)}")
    for tool in value:
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise InputError(f"{hint}, got {quoted(tool)} in it")
        function = tool.get("function")
        if tool["type"] == "function" and not (isinstance(function, dict) and _names(function)):
            raise InputError(f"a function has a `name`: {quoted(tool)}")
    return value or None


def tool_choice(value: object) -> str | dict[str, Any]:
    """Which tool is to be called: a word, or the tool."""
    hint = f'expected {", ".join(_WORDS)} or {{"type": "function", "function": {{"name": …}}}}'
    if isinstance(value, str) and value.strip().lower() not in _WORDS:
        value = _read(value, hint)
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return value.strip().lower()
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise InputError(f"{hint}, got {quoted(value)}")
    return value


def extra(value: object) -> dict[str, Any] | None:
    """What is laid over a request."""
    table = _table(value, '{"quality": "high"}')
    for name in table:
        if name in _BREAKS:
            raise InputError(f"`{name}` cannot be laid over a request: {_BREAKS[name]}")
    for name in ("generationConfig", "generation_config"):
        config = table.get(name)
        for key in ("candidateCount", "candidate_count"):
            if isinstance(config, dict) and key in config:
                raise InputError(f"`{name}.{key}` cannot be laid over a request: {_BREAKS['n']}")
    return table or None


PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "stop": stop,
    "response_format": response_format,
    "tools": tools,
    "tool_choice": tool_choice,
    "extra": extra,
}
"""By column. All but the first are JSON as it is sent."""


def asks_for_words(ours: str, meant: object) -> bool:
    """Whether what a column says asks for JSON or for calls of tools, which no picture is."""
    if ours == "response_format":
        return isinstance(meant, dict) and meant["type"] != "text"
    return ours == "tools"


def _names(function: Mapping[str, Any]) -> bool:
    return isinstance(function.get("name"), str) and bool(function["name"].strip())


def _read(text: str, hint: str) -> Any:  # noqa: ANN401  whatever it says
    if text.lstrip()[:1] not in {"{", "[", '"'}:
        raise InputError(f"{hint}, got {quoted(text)}")
    return decoded(text)


def _list(text: str, hint: str) -> Any:  # noqa: ANN401  whatever it says
    try:
        return _read(text, hint)
    except InputError as error:
        raise InputError(f"{error}; {hint}" if hint not in str(error) else str(error)) from None


def _table(value: object, example: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = _read(value, f"expected a JSON object such as {example}")
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object such as {example}, got {quoted(value)}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"the key {quoted(twice)} is there twice; remove one")
    return table


def _depth(value: object) -> int:
    """Levels of a value, counted without recursion and no further than they matter."""
    levels, level = 0, [value]
    while levels <= DEEPEST and (inner := [part for part in level if isinstance(part, dict | list)]):
        levels += 1
        level = [one for part in inner for one in (part.values() if isinstance(part, dict) else part)]
    return levels
