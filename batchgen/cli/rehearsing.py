"""How is a rehearsal told at the terminal?"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from batchgen import rehearsal
from batchgen.cli.counting import span
from batchgen.cli.terminal import line
from batchgen.conditions import Origin, Wishes
from batchgen.errors import InputError
from batchgen.spread import Bottleneck

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.conditions import Assumption
    from batchgen.job import Job
    from batchgen.spread import Range, Rehearsed

_ORIGINS = {
    Origin.GIVEN: "as given",
    Origin.JOB: "as the job's [simulator] says",
    Origin.HISTORY: "as seen in this run directory",
    Origin.USUAL: "the simulator's own",
}


def wishes(*, quota: float | None, latency: float | None, faults: Mapping[str, str]) -> Wishes:
    """
    What the flags say of the night.

    :raises InputError: they cannot be.
    """
    rates = {}
    for name, rate in faults.items():
        try:
            rates[name] = float(rate)
        except ValueError:
            raise InputError(f"--fault {name}: {rate!r} is no rate from 0 to 1") from None
    return Wishes(quota=quota, latency=latency, faults=rates)


def play(job: Job, expected: Wishes, *, nights: int) -> Rehearsed:
    """Rehearse a job, with a line on a terminal that says how far it is."""
    # What a real run would warn of comes in the result, once and not every night.
    log = logging.getLogger("batchgen")
    log.handlers, log.propagate = [logging.NullHandler()], False
    watch = _Watch() if sys.stderr.isatty() else None
    try:
        return rehearsal.rehearse(job, expected, nights=nights, progress=watch)
    finally:
        if watch is not None:
            watch.close()


class _Watch:
    """One line on a terminal that says how far it is, and goes away."""

    def __call__(self, share: float) -> None:
        self._write(f"\rrehearsing: {share:4.0%}")

    def close(self) -> None:
        self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def told(found: Rehearsed) -> list[str]:
    """Tell what it came to."""
    if not found.rows:
        return ["nothing is left to buy, and nothing to rehearse"]
    head = "once" if found.nights == 1 else f"{found.nights:,} times; median (5 % – 95 % of such nights)"
    return [
        f"rehearsed {head}",
        f"  {_sums(found)}",
        *_stops(found),
        *_hints(found),
        f"  method    {_method(found)}",
        *(f"  {'assumed' if first else '':9} {text}" for first, text in _assumed(found)),
    ]


def _sums(found: Rehearsed) -> str:
    def count(value: float) -> str:
        return f"{round(value):,}"

    early = "over" if found.stopped else "done"
    cost = found.cost_usd
    money = (
        _within(float(cost.p5), float(cost.p50), float(cost.p95), _usd)
        if found.priced
        else "cost unknown: the model has no known price"
    )
    parts = [
        f"{found.rows:,} rows",
        f"{early} in {_ranged(found.seconds, span)}",
        f"{_ranged(found.requests, count)} requests",
        f"{_ranged(found.limited, count)} answered 429",
        f"{_ranged(found.retries, count)} retries",
        f"{_ranged(found.failed, count)} rows fail",
        money,
    ]
    return " · ".join(parts)


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value < 1000 else f"${value:,.0f}"


def _ranged(found: Range, shown: Callable[[float], str]) -> str:
    return _within(found.p5, found.p50, found.p95, shown)


def _within(low: float, middle: float, high: float, shown: Callable[[float], str]) -> str:
    ends = (shown(low), shown(high))
    return shown(middle) if ends[0] == ends[1] else f"{shown(middle)} ({ends[0]} – {ends[1]})"


def _stops(found: Rehearsed) -> list[str]:
    """What ends nights before their rows do."""
    if found.stop is None:
        return []
    done = round(found.succeeded.p50)
    lines = [
        f"  stopped   {count:,} of {found.whole:,} {'night' if found.whole == 1 else 'nights'}: {reason}"
        for reason, count in found.stopped
    ]
    return [*lines, f"            {line(found.stop.message)}; {done:,} rows have their picture by then"]


def _hints(found: Rehearsed) -> list[str]:
    """What holds the night up, and which setting would help."""
    flying = f"{found.in_flight:.0f} of {found.concurrency} requests in flight, in the mean"
    lines = []
    if found.bottleneck is Bottleneck.CONCURRENCY:
        more = "" if found.quota is not None else "; no quota is known, so a higher -c is a shorter night"
        if found.fitting is not None:
            more = f"; with -c {found.fitting} the quota would be the limit"
        lines.append(f"  limit     concurrency: {flying}{more}")
    elif found.bottleneck is Bottleneck.QUOTA:
        enough = f"; -c {found.fitting} would do" if found.fitting is not None else ""
        lines.append(f"  limit     {found.quota:g} requests a minute: {flying}{enough}")
    if found.slower is not None:
        lines.append(f"  quota     with --rpm {found.slower:g} nearly none of the answers would be a 429")
    return lines


def _method(found: Rehearsed) -> str:
    if not found.sample:
        return f"all {found.rows:,} rows{'' if found.nights == 1 else ' each time'}"
    return (
        f"all {found.rows:,} rows once; the brackets from {found.nights - found.whole:,} nights of"
        f" {found.sample:,} rows evenly taken, grown by the square root of the rows"
    )


def _assumed(found: Rehearsed) -> list[tuple[bool, str]]:
    said = [f"{_assumption(one)}, {_ORIGINS[one.origin]}" for one in found.assumptions]
    return [(not at, text) for at, text in enumerate(said)]


def _assumption(one: Assumption) -> str:
    if one.name == "quota":
        return "no quota" if one.value is None else f"a quota of {one.value:g} requests a minute"
    if one.name == "latency":
        return f"{one.model}: {one.value:.1f} s an answer in the median"
    if one.name == "tokens":
        return f"{one.model}: tokens drawn from {one.value:,.0f} answers"
    return f"{one.name}: {one.value or 0:.2%} of the requests"
