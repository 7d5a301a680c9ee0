"""
What will the night be like?

As somebody says; else as the job's own simulator is set; else as this run directory has seen it; else as the
simulator takes it to be. Each assumption says which of these it is.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from batchgen.errors import InputError, nearest
from batchgen.records import ErrorClass, Expect, Value
from batchgen.simulator import Faults, Latency, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchgen.ledger import Attempted

RECENT = 10_000
"""Requests of the past that are looked at."""
_FEW_ANSWERS, _FEW_SPREAD, _FEW_REQUESTS, _FEW_LIMITED = 5, 20, 50, 5
"""Fewer of these say nothing of a median, of a spread, of the rates of faults, of a quota."""
_MINUTE = 60_000_000
"""Microseconds."""
_FAULTS = {
    ErrorClass.RATE: "rate_limited",
    ErrorClass.UNREACHABLE: "reset_before",
    ErrorClass.NO_CHANNEL: "no_channel",
    ErrorClass.UNCERTAIN: "reset_after",
    ErrorClass.BAD_ANSWER: "bad_json",
    ErrorClass.CORRUPT: "corrupt",
    ErrorClass.DOWNLOAD: "lost_link",
    ErrorClass.BLOCKED: "refusal",
    ErrorClass.NO_IMAGE: "no_image",
}
"""
What the simulator does in the same way. The others stop a run, or are the request's own doing: no rate of the
past says anything about them.
"""


class Origin(StrEnum):
    """Who says so."""

    GIVEN = "given"
    JOB = "job"
    """The job's `[simulator]`."""
    HISTORY = "history"
    """The run directory's ledger."""
    USUAL = "usual"
    """The simulator's own settings."""


class Assumption(Value, frozen=True, kw_only=True):
    """One thing that is taken for granted."""

    name: str
    """`quota` (requests a minute), `latency` (median seconds), `tokens` (answers drawn from), or a fault."""
    value: float | None
    """None: there is none."""
    origin: Origin
    model: str | None = None
    """Where it is about one alone."""


class Wishes(Value, frozen=True, kw_only=True):
    """What somebody says the night will be like."""

    quota: float | None = None
    """Requests a minute that the endpoint takes."""
    latency: float | None = None
    """Median seconds of an answer, of any model."""
    faults: Mapping[str, float] = {}

    def __post_init__(self) -> None:
        for name, value in (("quota", self.quota), ("latency", self.latency)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name}: {value:g} is not above 0")
        for name in self.faults:
            if name not in Faults.__struct_fields__:
                known = Faults.__struct_fields__
                raise InputError(
                    f"--fault: {name!r} is unknown{nearest(name, known) or '; known: ' + ', '.join(known)}"
                )


class Conditions(Value, frozen=True, kw_only=True):
    """What an endpoint is taken to be like."""

    settings: Settings
    tokens: Mapping[tuple[str, Expect], tuple[tuple[int, int], ...]] = {}
    """Text and image tokens of earlier answers, by model and by what was expected."""
    assumptions: tuple[Assumption, ...] = ()


def expected(
    wishes: Wishes,
    history: Sequence[Attempted],
    models: Iterable[str],
    *,
    settings: Settings | None,
    timeout: float,
) -> Conditions:
    """
    Put together what is known.

    :param history: earlier requests to the same provider, the oldest first.
    :param models: those that will be asked, by the ids that are sent.
    :param settings: the job's own simulator; where there is one, the history has nothing to add.
    :param timeout: seconds a request may take: what took as long without an answer was cut off.
    :raises InputError: the faults add up to more than all.
    """
    past = () if settings is not None else history
    own = settings or Settings()
    quota = _quota(wishes, past, own)
    faults = _faults(wishes, past, own, quota=quota.value, timeout=timeout)
    latencies, seen = {}, defaultdict(list)
    for one in past:
        if one.error_class is None:
            seen[one.model].append(one)
    # What is told or was seen in seconds is meant in seconds.
    times, waits = own.latency if settings is not None and wishes.latency is None else 1.0, []
    for model in sorted(set(models)):
        latencies[model], origin = _latency(wishes, seen[model], own, model)
        origin = Origin.JOB if origin is Origin.USUAL and settings is not None else origin
        median = latencies[model].median * times
        waits.append(Assumption(name="latency", value=median, origin=origin, model=model))
    tokens = {
        (model, expect): tuple((one.text_tokens, one.image_tokens) for one in ones if one.expect is expect)
        for model, ones in seen.items()
        for expect in Expect
        if sum(one.expect is expect for one in ones) >= _FEW_SPREAD
    }
    return Conditions(
        settings=msgspec.structs.replace(
            own,
            rpm=quota.value,
            faults=Faults(**{fault.name: fault.value or 0.0 for fault in faults}),
            latencies=latencies,
            latency=times,
            paint=False,
            shape="S1",
        ),
        tokens=tokens,
        assumptions=(quota, *waits, *faults, *_drawn(tokens)),
    )


def _drawn(tokens: Mapping[tuple[str, Expect], tuple[tuple[int, int], ...]]) -> Iterator[Assumption]:
    for (model, _), pairs in tokens.items():
        yield Assumption(name="tokens", value=len(pairs), origin=Origin.HISTORY, model=model)


def _quota(wishes: Wishes, past: Sequence[Attempted], own: Settings) -> Assumption:
    if wishes.quota is not None:
        return Assumption(name="quota", value=wishes.quota, origin=Origin.GIVEN)
    if own.rpm is not None:
        return Assumption(name="quota", value=own.rpm, origin=Origin.JOB)
    met = _met(past)
    if met is not None:
        return Assumption(name="quota", value=met, origin=Origin.HISTORY)
    return Assumption(name="quota", value=None, origin=Origin.USUAL)


def _met(past: Sequence[Attempted]) -> float | None:
    """
    The requests a minute that were let in whenever one was not: a bucket that is empty has given what it had.

    Of the first minute nothing is told: a bucket may have been full then.
    """
    taken = sorted(one.started_at for one in past if one.error_class != ErrorClass.RATE)
    limited = [one.started_at for one in past if one.error_class == ErrorClass.RATE]
    counts = [
        bisect_right(taken, at) - bisect_left(taken, at - _MINUTE)
        for at in limited
        if taken and at - _MINUTE >= taken[0]
    ]
    counts = [count for count in counts if count]
    return statistics.median(counts) if len(counts) >= _FEW_LIMITED else None


def _faults(
    wishes: Wishes, past: Sequence[Attempted], own: Settings, *, quota: float | None, timeout: float
) -> list[Assumption]:
    """Every fault that has a rate; one that somebody names is as they say, however often it was seen."""
    rates = {name: getattr(own.faults, name) for name in Faults.__struct_fields__}
    origins = dict.fromkeys(rates, Origin.JOB)
    if len(past) >= _FEW_REQUESTS:
        counts = Counter(name for one in past if (name := _fault(one, timeout)) is not None)
        if quota is not None:
            counts["rate_limited"] = 0  # they were the quota's
        rates = {name: counts[name] / len(past) for name in rates}
        origins = dict.fromkeys(rates, Origin.HISTORY)
    rates |= wishes.faults
    origins |= dict.fromkeys(wishes.faults, Origin.GIVEN)
    return [
        Assumption(name=name, value=rate, origin=origins[name])
        for name, rate in rates.items()
        if rate or origins[name] is Origin.GIVEN
    ]


def _fault(one: Attempted, timeout: float) -> str | None:
    if one.error_class is None:
        return None
    if one.error_class == ErrorClass.TRANSIENT:
        return "overloaded" if one.http_status == 503 else "server_error"
    if one.error_class == ErrorClass.UNCERTAIN and one.latency >= timeout:
        return "hang"
    return _FAULTS.get(ErrorClass(one.error_class))


def _latency(
    wishes: Wishes, answers: Sequence[Attempted], own: Settings, model: str
) -> tuple[Latency, Origin]:
    usual = own.latency_of(model)
    seen = [one.latency for one in answers if one.latency > 0]
    spread = usual.spread
    if len(seen) >= _FEW_SPREAD:
        spread = min(10.0, statistics.pstdev(map(math.log, seen)))
    if wishes.latency is not None:
        return Latency(median=wishes.latency, spread=spread), Origin.GIVEN
    if len(seen) >= _FEW_ANSWERS:
        return Latency(median=statistics.median(seen), spread=spread), Origin.HISTORY
    return usual, Origin.USUAL
