"""
When must a night be done, how long does it take, and what would make it in time?

Three things bound it: how many requests are in flight, how many may start or how many tokens may flow in a
minute, and the longest chain of rows that continue one another.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.errors import InputError
from batchgen.pacing import MINUTE
from batchgen.records import Value

if TYPE_CHECKING:
    from datetime import tzinfo

MOST_HANDS = 10_000
"""Requests in flight that a job may ask for."""

_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})", re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}", re.ASCII)
_SPREAD = 0.35
"""Of the logarithm of a latency: one answer in twenty takes 1.8 times the usual."""
_EXAMPLES = "such as 07:00 (the next time it is so late here) or 2026-11-22T07:00, with or without an offset"


class Bottleneck(StrEnum):
    """What a night's length hangs on."""

    CONCURRENCY = "concurrency"
    RATE = "rate"
    """--rpm, or --ipm where that is lower."""
    FOUND = "found"
    """The limit that nobody declared, as runs here found it out."""
    TOKENS = "tpm"
    CHAIN = "chain"
    """Rows that continue one another."""


class Load(Value, frozen=True, kw_only=True):
    """What is to be done."""

    requests: float
    """Retries included."""
    busy_s: float
    """The latencies of all of them, end to end."""
    tokens: float
    latency_s: float
    """Of a usual request; the last ones take longer."""
    chain_s: float
    """The latencies of the longest chain, one after the other."""


class Pace(Value, frozen=True, kw_only=True):
    """How fast it may be done."""

    concurrency: int
    starts: float | None = None
    """Requests a minute."""
    found: bool = False
    """Whether those are the endpoint's, found out, and nobody's to raise."""
    tokens: float | None = None
    """Tokens a minute."""


class Faster(Value, frozen=True, kw_only=True):
    """What would meet a deadline; None where a limit is not in the way."""

    concurrency: int | None = None
    starts: int | None = None
    tokens: int | None = None


def parse(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """
    The moment that `--deadline` names.

    :param now: with a time zone.
    :param zone: in which a time without an offset is meant; the machine's own where None.
    :raises InputError: it is none, or it has passed.
    """
    wanted = text.strip()
    clock = _CLOCK.fullmatch(wanted)
    try:
        if clock is not None:
            today = now.astimezone(zone).replace(tzinfo=None)
            at = today.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            return _in(zone, at if at > today else at + timedelta(days=1))
        if _DAY.match(wanted) is None:
            raise ValueError
        at = datetime.fromisoformat(wanted)
        at = (_in(zone, at) if at.tzinfo is None else at).astimezone(now.tzinfo)
        passed = at <= now
    except (ValueError, OverflowError, OSError):
        raise InputError(f"--deadline: {text!r} is no time; give one {_EXAMPLES}") from None
    if passed:
        raise InputError(f"--deadline: {text!r} has passed; give a time to come, {_EXAMPLES}")
    return at


def _in(zone: tzinfo | None, naive: datetime) -> datetime:
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)


def lasts(load: Load, pace: Pace) -> tuple[float, Bottleneck]:
    """How many seconds it takes, and what that hangs on."""
    if load.requests <= 0:
        return 0.0, Bottleneck.CONCURRENCY
    hands = min(pace.concurrency, math.ceil(load.requests))
    last = load.latency_s + _straggling(load, hands)
    times = {
        Bottleneck.CONCURRENCY: max(last, load.busy_s / hands + _straggling(load, hands)),
        Bottleneck.CHAIN: load.chain_s,
    }
    if pace.starts is not None:
        rate = Bottleneck.FOUND if pace.found else Bottleneck.RATE
        times[rate] = (load.requests - 1) * MINUTE / pace.starts + last
    if pace.tokens is not None:
        times[Bottleneck.TOKENS] = load.tokens * MINUTE / pace.tokens + last
    found = max(times, key=times.__getitem__)
    return times[found], found


def _straggling(load: Load, hands: int) -> float:
    """How much longer than a usual request the slowest of so many takes, if latencies are log-normal."""
    return load.latency_s * _SPREAD * math.sqrt(2 * math.log(hands))


def faster(load: Load, pace: Pace, seconds: float) -> Faster | None:
    """What would have it done in so many seconds; None where nothing would."""
    hands = None
    if lasts(load, Pace(concurrency=pace.concurrency))[0] > seconds:
        more = range(pace.concurrency + 1, MOST_HANDS + 1)
        hands = next((n for n in more if lasts(load, Pace(concurrency=n))[0] <= seconds), None)
        if hands is None:
            return None
    used = hands or pace.concurrency
    room = seconds - load.latency_s - _straggling(load, min(used, math.ceil(load.requests)))
    if room <= 0:
        return None
    starts = math.ceil((load.requests - 1) * MINUTE / room)
    if pace.found and pace.starts is not None and starts > pace.starts:
        return None
    tokens = math.ceil(load.tokens * MINUTE / room)
    return Faster(
        concurrency=hands,
        starts=starts if pace.starts is not None and starts > pace.starts else None,
        tokens=tokens if pace.tokens is not None and tokens > pace.tokens else None,
    )
