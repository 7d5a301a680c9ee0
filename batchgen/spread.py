"""
What do several nights come to together, and what holds them up?

What a night comes to is a sum over its rows, so what nights of a part of the rows differ by grows, for all of
them, with the square root of their number.
"""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchgen.conditions import Assumption, Conditions
    from batchgen.job import Job
    from batchgen.progress import Stop
    from batchgen.simulator import Settings

_MANY, _BUSY, _SPARE = 10, 0.95, 1.1
"""Rows a worker from which the end of a night, where some have nothing to do, does not matter; the share of
workers at work that is all of them; how many more than the mean must be in flight for a quota to be used."""


class Night(Value, frozen=True, kw_only=True):
    """What one rehearsed night came to."""

    seconds: float
    requests: int
    limited: int
    """Requests that were answered 429."""
    retries: int
    """Requests after a failure of the same row that was no 429."""
    succeeded: int
    failed: int
    """Rows that failed for good."""
    cost_usd: Decimal
    busy: float
    """Seconds of all requests together."""
    stopped: Stop | None


class Range(Value, frozen=True, kw_only=True):
    """A number over the nights: of a hundred such nights, 5, 50 and 95 come to no more."""

    p5: float
    p50: float
    p95: float


class Money(Value, frozen=True, kw_only=True):
    """The same in USD."""

    p5: Decimal
    p50: Decimal
    p95: Decimal


class Bottleneck(StrEnum):
    """What keeps a night from being faster."""

    CONCURRENCY = "concurrency"
    QUOTA = "quota"


class Rehearsed(Value, frozen=True, kw_only=True):
    """What the nights came to."""

    manifest: str
    directory: str
    rows: int
    """Tasks that are to be bought."""
    nights: int
    whole: int
    """Of those, the ones of all rows; the others were of `sample`."""
    sample: int
    concurrency: int
    seconds: Range
    requests: Range
    limited: Range
    retries: Range
    succeeded: Range
    failed: Range
    cost_usd: Money
    in_flight: float
    """Requests at once, in the mean."""
    latency: float
    """Seconds of a request, in the mean."""
    stopped: tuple[tuple[str, int], ...]
    """Why whole nights ended before their rows did: reason, and how many."""
    stop: Stop | None
    """One of those."""
    quota: float | None
    """Requests a minute, the lower of the endpoint's and our own limit."""
    bottleneck: Bottleneck | None
    """None where too few rows, or something else, decides."""
    fitting: int | None
    """The concurrency with which the quota is used up and none of it waits, where that is another one."""
    slower: float | None
    """Requests a minute of our own with which next to none would be answered 429, where many are."""
    priced: bool
    """Whether the models have a price."""
    assumptions: tuple[Assumption, ...]


def summed(
    job: Job,
    conditions: Conditions,
    whole: Sequence[Night],
    parts: Sequence[Night],
    *,
    directory: str,
    rows: int,
    sample: int,
    priced: bool,
    affordable: float | None,
) -> Rehearsed:
    """
    What nights come to.

    :param whole: those of all rows, at least one.
    :param parts: those of `sample` rows; the middle is the first whole one's where there are any.
    :param affordable: USD that the budget lets one night spend.
    """

    def over(each: Callable[[Night], float], digits: int | None = None, most: float | None = None) -> Range:
        values = [each(night) for night in whole]
        if parts:
            values = _grown(values[0], [each(night) for night in parts], _ratio(whole[0], parts))
        return _ranged([round(value if most is None else min(value, most), digits) for value in values])

    requests = sum(night.requests for night in whole)
    seconds, busy = (
        sum(values) for values in zip(*((night.seconds, night.busy) for night in whole), strict=True)
    )
    stops = [night.stopped for night in whole if night.stopped is not None]
    settings = conditions.settings
    limits = [limit for limit in (job.rpm, job.ipm, settings.rpm, settings.ipm) if limit is not None]
    quota = min(limits, default=None)
    in_flight, latency = (busy / total if total else 0.0 for total in (seconds, requests))
    bottleneck, fitting = _held_up(job.concurrency, quota, rows=rows, in_flight=in_flight, latency=latency)
    return Rehearsed(
        manifest=job.manifest,
        directory=directory,
        rows=rows,
        nights=len(whole) + len(parts),
        whole=len(whole),
        sample=sample,
        concurrency=job.concurrency,
        seconds=over(lambda night: night.seconds, 6),
        requests=over(lambda night: night.requests),
        limited=over(lambda night: night.limited),
        retries=over(lambda night: night.retries),
        succeeded=over(lambda night: night.succeeded, most=rows),
        failed=over(lambda night: night.failed, most=rows),
        cost_usd=_money(over(lambda night: float(night.cost_usd), 4, most=affordable if parts else None)),
        in_flight=in_flight,
        latency=latency,
        stopped=tuple(Counter(stop.reason for stop in stops).most_common()),
        stop=stops[0] if stops else None,
        quota=quota,
        bottleneck=bottleneck,
        fitting=fitting,
        slower=_slower(requests, sum(night.limited for night in whole), settings),
        priced=priced,
        assumptions=conditions.assumptions,
    )


def _money(found: Range) -> Money:
    p5, p50, p95 = (Decimal(f"{value:.4f}") for value in (found.p5, found.p50, found.p95))
    return Money(p5=p5, p50=p50, p95=p95)


def _held_up(
    concurrency: int, quota: float | None, *, rows: int, in_flight: float, latency: float
) -> tuple[Bottleneck | None, int | None]:
    """What the limit of a night is, and the concurrency that a quota needs, by Little's law."""
    if rows < _MANY * concurrency:
        return None, None
    needed = None if quota is None else math.ceil(quota / 60 * latency * _SPARE)
    if in_flight >= _BUSY * concurrency:
        return Bottleneck.CONCURRENCY, needed if needed is not None and needed > concurrency else None
    if quota is None:
        return None, None
    return Bottleneck.QUOTA, needed if needed is not None and needed < concurrency else None


def _slower(requests: int, limited: int, settings: Settings) -> float | None:
    """Our own limit that keeps below the endpoint's, where one request of a hundred and more passes that."""
    ends = [limit for limit in (settings.rpm, settings.ipm) if limit is not None]
    return math.floor(min(ends) * 10) / 10 if ends and limited > requests / 100 else None


def _ratio(whole: Night, parts: Sequence[Night]) -> float:
    """How many times as much a whole night is: in requests, as it may have been stopped."""
    return whole.requests * len(parts) / max(1, sum(part.requests for part in parts))


def _grown(whole: float, parts: Sequence[float], times: float) -> list[float]:
    """A whole night's value as it would come with other dice, from nights of a part of its rows."""
    mean, root = sum(parts) / len(parts), math.sqrt(times)
    return [whole, *(max(0.0, whole + (part - mean) * root) for part in parts)]


def _ranged(values: Sequence[float]) -> Range:
    """Percentiles by the nearest rank."""
    ordered = sorted(values)
    p5, p50, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.05, 0.5, 0.95))
    return Range(p5=p5, p50=p50, p95=p95)
