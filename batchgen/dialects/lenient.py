"""How is JSON read, and told again, that gateways get slightly wrong?"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_TOKENS = 10**9
_MOST_DIGITS = 100
_MOST_VALUES = 250_000
"""Commas and opening brackets, those of the prose included: several times a model's longest output."""


def decode(body: bytes | bytearray | str) -> object:
    """
    The value of a JSON text; a byte order mark, NaN, lone surrogates and raw control characters pass.

    :raises ValueError: It is no JSON, or nested too deep or of too many values to be an answer.
    """
    if _crowded(body):
        raise ValueError("more values than an answer has")
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        return json.loads(text.removeprefix("\ufeff"), strict=False, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None


def encode(value: object) -> str:
    """The JSON text of a value that was decoded, whatever passed there."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)


def _integer(digits: str) -> int | float:
    """One absurd number must not spoil the answer around it, and Python refuses more than 4300 digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _crowded(body: bytes | bytearray | str) -> bool:
    """Tell of values that would take gigabytes and minutes: `[],` is 3 bytes on the wire, 140 in memory."""
    if len(body) <= _MOST_VALUES:
        return False
    if isinstance(body, str):
        return sum(map(body.count, (",", "[", "{"))) > _MOST_VALUES
    return sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES


def mapping(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """The value if it is an array, a lone object as the array of it, else an empty one."""
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else []


def string(value: object) -> str:
    """The value if it is a string, else ''."""
    return value if isinstance(value, str) else ""


def scalars(table: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says itself, without the tables in it."""
    return {name: value for name, value in table.items() if isinstance(value, str | int | float)}


def count(value: object) -> int | None:
    """A number of tokens as int, float or digits; None for anything else, negatives and the absurd."""
    number = amount(value)
    return int(number) if number is not None and number <= _MOST_TOKENS else None


def amount(value: object) -> float | None:
    """A finite number of 0 or more, given as a number or as its text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
