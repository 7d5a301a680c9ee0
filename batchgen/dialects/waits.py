"""
How long does an endpoint ask to wait?

It may say so in headers, in structured details or in prose, in several units, and the answers may disagree:
the longest one counts, up to a quarter of an hour; for the quota of a day, from there up to a day.
"""

from __future__ import annotations

import email.utils
import math
import re
from typing import TYPE_CHECKING

from batchgen.dialects import quotas
from batchgen.dialects.lenient import amount
from batchgen.dialects.quotas import NUMBER, UPSTREAM, span, timestamp, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONGEST = 900.0
"""Seconds; a longer wish is a mistake or a quota of another kind."""
DAY = 25 * 3600.0
"""Seconds; the longest day there is, when the clocks are put back."""

# google.rpc.RetryInfo and its relatives, also inside JSON that was quoted into a message.
_DETAIL = re.compile(
    rf"(?:retryDelay|quotaResetDelay)[\"'\\:=\s]{{1,12}}((?:{NUMBER}(?:ms|[smhd])){{1,6}})", re.IGNORECASE
)
_PROSE = re.compile(
    r"\b(?:retry|try again|available)\s+(?:in|after)\s+(?:about\s+)?"
    rf"((?:{NUMBER}\s?(?:ms|[smhd](?![a-z]))){{1,6}}|{NUMBER})\s*(milliseconds?|seconds?|secs?|minutes?|mins?|hours?)?",
    re.IGNORECASE,
)
_WORDS = {"mil": 0.001, "sec": 1.0, "min": 60.0, "hou": 3600.0}


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
    for name in ("retry-after", UPSTREAM + "retry-after"):
        value = headers.get(name, "").strip()
        seconds = amount(value)
        if seconds is not None:
            yield seconds
        elif (wait := until(_http_date(value), now)) is not None:
            yield wait
    for name in ("retry-after-ms", "x-retry-after-ms"):
        milliseconds = amount(headers.get(name, ""))
        if milliseconds is not None:
            yield milliseconds / 1000


def _from_text(text: str) -> Iterator[float]:
    for found in _DETAIL.finditer(text):
        yield span(found[1])
    for found in _PROSE.finditer(text):
        factor = _WORDS.get((found[2] or "sec")[:3].lower(), 1.0)
        yield span(found[1]) * (factor if found[1][-1].isdigit() else 1.0)


def _from_limits(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """The resets of those limits that are used up or do not say."""
    for quota in quotas.read(headers, now=now):
        if not quota.remaining and quota.reset is not None:
            yield quota.reset


def _http_date(value: str) -> float | None:
    try:
        return timestamp(email.utils.parsedate_to_datetime(value))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
