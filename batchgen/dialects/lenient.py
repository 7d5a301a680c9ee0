"""How is JSON read that gateways get slightly wrong?"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

_MOST_TOKENS = 10**9


def decode(body: bytes | bytearray | str) -> object:
    """
    The value of a JSON text; a byte order mark, NaN, lone surrogates and raw control characters pass.

    :raises ValueError: It is no JSON, or nested too deep to be an answer.
    """
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        return json.loads(text.removeprefix("\ufeff"), strict=False)
    except RecursionError:
        raise ValueError("nested too deep") from None


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
