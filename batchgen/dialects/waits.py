"""
How long does an endpoint ask to wait?

It may say so in headers, in structured details or in prose, in several units, and the answers may disagree:
the longest one counts, up to a quarter of an hour; for the quota of a day, from there up to a day.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import re
from typing import TYPE_CHECKING

from batchgen.dialects.lenient import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONGEST = 900.0
"""Seconds; a longer wish is a mistake or a quota of another kind."""
DAY = 25 * 3600.0
"""Seconds; the longest day there is, when the clocks are put back."""

# How LiteLLM passes on the headers of the endpoint behind it. https://docs.litellm.ai/docs/proxy/response_headers
_UPSTREAM = "llm_provider-"
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"\d{1,15}(?:\.\d{1,12})?"
_SPAN = re.compile(rf"(?:{_NUMBER}(?:ms|[smhd])\s*){{1,6}}", re.IGNORECASE)
_PART = re.compile(rf"({_NUMBER})\s*(ms|[smhd]?)", re.IGNORECASE)
# google.rpc.RetryInfo and its relatives, also inside JSON that was quoted into a message.
_DETAIL = re.compile(
    rf"(?:retryDelay|quotaResetDelay)[\"'\\:=\s]{{1,12}}((?:{_NUMBER}(?:ms|[smhd])){{1,6}})", re.IGNORECASE
)
_PROSE = re.compile(
    r"\b(?:retry|try again|available)\s+(?:in|after)\s+(?:about\s+)?"
    rf"((?:{_NUMBER}\s?(?:ms|[smhd](?![a-z]))){{1,6}}|{_NUMBER})\s*(milliseconds?|seconds?|secs?|minutes?|mins?|hours?)?",
    re.IGNORECASE,
)
_WORDS = {"mil": 0.001, "sec": 1.0, "min": 60.0, "hou": 3600.0}
_EPOCH = 1_000_000_000.0
_EPOCH_MS = 1_000_000_000_000.0


def retry_after(status: int, headers: Mapping[str, str], text: str, *, now: float) -> float | None:
    """
    Seconds to wait, or None when nothing says so.

    :param status: HTTP status, or the one that the body names.
    :param headers: Names in lower case.
    :param text: All of the body's words.
    :param now: Seconds since 1970, for waits given as a time of day.
    """
    usable = [wait for wait in _stated(status, headers, text, now) if math.isfinite(wait) and wait >= 0]
    return min(max(usable), LONGEST) if usable else None


def reset_after(status: int, headers: Mapping[str, str], text: str, *, now: float) -> float | None:
    """
    Seconds until the quota of a day is reset, or None when nothing plausible says so.

    An answer about a day's quota often carries a minute's delay as well, which is of no use. The parameters
    are those of `retry_after`.
    """
    usable = [wait for wait in _stated(status, headers, text, now) if LONGEST < wait <= DAY]
    return max(usable, default=None)


def _stated(status: int, headers: Mapping[str, str], text: str, now: float) -> Iterator[float]:
    yield from _from_headers(headers, now)
    yield from _from_text(text)
    if status == 429:
        yield from _from_limits(headers, now)


def _from_headers(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """Read Retry-After (RFC 9110, section 10.2.3) and its form in milliseconds."""
    for name in ("retry-after", _UPSTREAM + "retry-after"):
        value = headers.get(name, "").strip()
        seconds = amount(value)
        if seconds is not None:
            yield seconds
        elif value:
            yield from _until(_http_date(value), now)
    for name in ("retry-after-ms", "x-retry-after-ms"):
        milliseconds = amount(headers.get(name, ""))
        if milliseconds is not None:
            yield milliseconds / 1000


def _from_text(text: str) -> Iterator[float]:
    for found in _DETAIL.finditer(text):
        yield _span(found[1])
    for found in _PROSE.finditer(text):
        factor = _WORDS.get((found[2] or "sec")[:3].lower(), 1.0)
        yield _span(found[1]) * (factor if found[1][-1].isdigit() else 1.0)


def _from_limits(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """Read x-ratelimit-reset and its kin, of those limits that are used up or do not say."""
    for name, value in headers.items():
        if "ratelimit-reset" in name:
            left = amount(headers.get(name.replace("-reset", "-remaining"), ""))
            if not left:
                yield from _reset(value.strip(), now)


def _reset(value: str, now: float) -> Iterator[float]:
    number = amount(value)
    if number is None and _SPAN.fullmatch(value):
        yield _span(value)
    elif number is None:
        yield from _until(_iso_date(value), now)
    elif number >= _EPOCH:
        yield from _until(number / 1000 if number >= _EPOCH_MS else number, now)
    else:
        yield number


def _until(moment: float | None, now: float) -> Iterator[float]:
    if moment is not None:
        yield max(0.0, moment - now)


def _span(text: str) -> float:
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in _PART.findall(text))


def _http_date(value: str) -> float | None:
    try:
        return _timestamp(email.utils.parsedate_to_datetime(value))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _iso_date(value: str) -> float | None:
    try:
        return _timestamp(dt.datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        return None


def _timestamp(moment: dt.datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
