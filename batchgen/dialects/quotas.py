"""
What do the headers of an answer say of the endpoint's limits?

Gateways and vendors name the same three things, each in its own way: how much a window holds, how much of it
is left, and when it is as before. What cannot be read says nothing.

    OpenAI, LiteLLM  x-ratelimit-limit-requests, -remaining-requests, -reset-requests (`6m0s`): a minute's
    Anthropic        anthropic-ratelimit-requests-limit, -remaining, -reset (RFC 3339): a minute's
    IETF's drafts    ratelimit-limit (`100;w=60`), ratelimit-policy, ratelimit (`limit=…, reset=…`)
    many others      x-ratelimit-limit, -remaining, -reset (seconds, also since 1970): of an unnamed window

https://platform.openai.com/docs/guides/rate-limits, https://docs.litellm.ai/docs/proxy/response_headers,
https://docs.anthropic.com/en/api/rate-limits, https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers
"""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from batchgen.dialects.lenient import amount
from batchgen.records import Quota

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UPSTREAM = "llm_provider-"
"""How LiteLLM passes on the headers of the endpoint behind it."""
NUMBER = r"\d{1,15}(?:\.\d{1,12})?"
MINUTE = 60.0

_MOST = 1e9
"""A limit above it is none."""
_LONGEST = 512
"""Characters of a header that are read."""
_NAME = re.compile(rf"((?:{UPSTREAM})?(?:[a-z]+-){{0,2}})rate-?limit(?:-(.+))?")
_ASPECTS = ("limit", "remaining", "reset")
_MINUTELY = re.compile(r"(?:\w+-)?requests|images")
"""
What is counted by the minute, unless its reset is further away. (Some count requests by the day: while few
are used, that is told as too high a limit of the minute, which slows nobody down.)
"""
_MEMBER = re.compile(r"(?:^|[\s;,])(limit|remaining|reset|window|[qwrt])\s*=\s*([^\s;,\"]+)", re.IGNORECASE)
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(rf"(?:{NUMBER}(?:ms|[smhd])\s*){{1,6}}", re.IGNORECASE)
_PART = re.compile(rf"({NUMBER})\s*(ms|[smhd]?)", re.IGNORECASE)
_EPOCH = 1_000_000_000.0
_EPOCH_MS = 1_000_000_000_000.0


def read(headers: Mapping[str, str], *, now: float) -> tuple[Quota, ...]:
    """
    Everything an answer says of limits.

    :param headers: names in lower case.
    :param now: seconds since 1970, from which moments are counted.
    """
    aspects: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    found: list[Quota] = []
    for name, value in headers.items():
        named = _NAME.fullmatch(name) if "limit" in name else None
        if named is None:
            continue
        owner, words, said = named[1], (named[2] or "").split("-"), value.strip()[:_LONGEST]
        aspect = next((word for word in _ASPECTS if word in words), None)
        if aspect is not None:
            words.remove(aspect)
            aspects[owner, "-".join(words)][aspect] = said
        elif words == ["policy"]:
            found += _policies(said)
        elif words == [""]:
            found += _combined(said, now)
    found += [quota for (_, kind), said in aspects.items() for quota in _apart(kind, said, now)]
    return tuple(found)


def reset_in(value: str, now: float) -> float | None:
    """Seconds from `now` until what a header names: a span, a moment, or a number that is either."""
    number = amount(value)
    if number is None:
        return span(value) if _SPAN.fullmatch(value) else until(_iso_date(value), now)
    if number < _EPOCH:
        return number
    return until(number / 1000 if number >= _EPOCH_MS else number, now)


def until(moment: float | None, now: float) -> float | None:
    """Seconds from `now` to a moment; 0 where it has passed."""
    return None if moment is None else max(0.0, moment - now)


def span(text: str) -> float:
    """Seconds of such as `6m0s`."""
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in _PART.findall(text))


def timestamp(moment: dt.datetime) -> float:
    """Seconds since 1970; without a time zone it is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _apart(kind: str, said: Mapping[str, str], now: float) -> Iterator[Quota]:
    """Three headers that belong together; the limit may name windows, its own first."""
    limits = [*_policies(said.get("limit", ""))]
    own = limits[0] if limits else Quota()
    reset = reset_in(said.get("reset", ""), now)
    window = next((more.window for more in limits if more.limit == own.limit and more.window), None)
    minutely = _MINUTELY.fullmatch(kind) is not None
    if minutely and window is None and (reset is None or reset <= 2 * MINUTE):  # clocks differ
        window = MINUTE
    of_requests = minutely or not kind
    yield Quota(
        limit=own.limit,
        window=window,
        remaining=_count(said.get("remaining", "")),
        reset=reset,
        of_requests=of_requests,
    )
    yield from limits[1:] if of_requests else ()


def _policies(value: str) -> Iterator[Quota]:
    """`100;w=60, 1000;w=3600`, or `"default";q=100;w=60`."""
    for item in value.split(",") if value else ():
        members = {name.lower(): text for name, text in _MEMBER.findall(item)}
        other = "qu=" in item and "requests" not in item
        yield Quota(
            limit=_whole(members.get("q", item.partition(";")[0])),
            window=_whole(members.get("w", members.get("window", ""))),
            of_requests=not other,
        )


def _combined(value: str, now: float) -> Iterator[Quota]:
    """`limit=100, remaining=50, reset=30`, or `"default";r=50;t=30`, one or more."""
    for item in value.split(",") if "limit=" not in value.lower() else (value,):
        members = {name.lower(): text for name, text in _MEMBER.findall(item)}
        yield Quota(
            limit=_whole(members.get("limit", "")),
            remaining=_count(members.get("remaining", members.get("r", ""))),
            reset=reset_in(members.get("reset", members.get("t", "")), now),
        )


def _count(value: str) -> float | None:
    number = amount(value)
    return number if number is not None and number <= _MOST else None


def _whole(value: str) -> float | None:
    """A limit or a window: of less than one nothing would ever start."""
    number = _count(value)
    return number if number is not None and number >= 1 else None


def _iso_date(value: str) -> float | None:
    try:
        return timestamp(dt.datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        return None
