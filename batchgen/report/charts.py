"""
Which figures of a ledger's attempts make charts?

Time is time at work: the runs of a directory follow one another without the days between them, in at most a
few hundred slices, however long they took and however many requests they sent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from itertools import accumulate
from typing import TYPE_CHECKING

from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchgen.ledger import History
    from batchgen.ledger.history import Latencies, Slice

_SLICES = 240
_SECOND = 1_000_000
_STEPS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
"""Of a decade, each about a quarter more than the one before (ISO 3, R10)."""
_EDGES = tuple(step * 10.0**decade for decade in range(-3, 5) for step in _STEPS)


class Bar(Value, frozen=True, kw_only=True):
    """Answers that took from so many seconds to less than so many."""

    least: float
    below: float
    count: int


class Charts(Value, frozen=True, kw_only=True, omit_defaults=False):
    """Series over time, one value a slice each."""

    work: float
    """Seconds from the first request of each run to the end of its last, added up."""
    width: float
    """Seconds of a slice."""
    at: tuple[float, ...]
    """Seconds at work at the beginning of each slice."""
    clock: tuple[float, ...]
    """The time of day then, in milliseconds since 1970."""
    runs: tuple[float, ...]
    """Seconds at work when each run began."""
    good: tuple[int, ...]
    """Requests that brought what was asked for."""
    failed: tuple[int, ...]
    spent: tuple[float, ...]
    """USD so far."""
    wasted: tuple[float, ...]
    uncertain: tuple[float, ...]
    """USD so far that may have been billed without an answer."""
    median: tuple[float | None, ...]
    """Seconds an answer took; None where none came."""
    slow: tuple[float | None, ...]
    """Seconds in which nine of ten answers came."""
    histogram: tuple[Bar, ...]
    quantiles: Mapping[str, float]
    """Seconds by name: p50, p90, p99."""
    failures: Mapping[str, int]
    """Requests that brought nothing, by error class, the most frequent first."""


class _Axis:
    """Where a moment of a run lies in the time at work."""

    def __init__(self, history: History) -> None:
        self.stretches = history.stretches()
        spans = [max(0, stretch.ended - stretch.began) for stretch in self.stretches]
        self.starts = [*accumulate(spans, initial=0)]
        # A last slice that is hardly begun would look like a standstill: the end belongs to the one before.
        self.width = max(_SECOND, -(-(self.starts[-1] + 1) // _SLICES))
        self._of_run = {
            stretch.run: (start, stretch.began)
            for stretch, start in zip(self.stretches, self.starts, strict=False)
        }

    def place(self, run: int, at: int) -> int:
        """The slice in which something of a run happened."""
        start, began = self._of_run[run]
        return min((start + max(0, at - began)) // self.width, self.starts[-1] // self.width)

    def count(self) -> int:
        return self.starts[-1] // self.width + 1 if self.stretches else 0

    def clock(self, place: int) -> float:
        at = place * self.width
        index = min(bisect_right(self.starts, at) - 1, len(self.stretches) - 1)
        return (self.stretches[index].began + at - self.starts[index]) / 1000


def drawn(history: History) -> Charts:
    """
    Add a ledger's attempts up for charts. What is settled in between is in one series and not in another.

    :raises StorageError: the ledger cannot be read.
    """
    axis = _Axis(history)
    # A run that began meanwhile has no place yet.
    known = {stretch.run for stretch in axis.stretches}
    # The ledger slices by the clock and not from each run's begin: finely, so that it does not show.
    fine = max(_SECOND // 10, axis.width // 4)
    slices = [each for each in history.slices(fine) if each.run in known]
    latencies = [each for each in history.latencies(fine) if each.run in known]
    good, failed, spent, wasted, uncertain = _sums(axis, slices)
    quantiles = _by_place(axis, latencies)
    whole = Counter[float]()
    for each in latencies:
        whole[each.seconds] += each.count
    return Charts(
        work=axis.starts[-1] / _SECOND,
        width=axis.width / _SECOND,
        at=tuple(place * axis.width / _SECOND for place in range(axis.count())),
        clock=tuple(map(axis.clock, range(axis.count()))),
        runs=tuple(start / _SECOND for start in axis.starts[:-1]),
        good=tuple(map(int, good)),
        failed=tuple(map(int, failed)),
        spent=tuple(accumulate(spent)),
        wasted=tuple(accumulate(wasted)),
        uncertain=tuple(accumulate(uncertain)),
        median=tuple(_quantile(quantiles[place], 0.5) for place in range(axis.count())),
        slow=tuple(_quantile(quantiles[place], 0.9) for place in range(axis.count())),
        histogram=tuple(_bars(whole)),
        quantiles={
            f"p{share}": value
            for share in (50, 90, 99)
            if (value := _quantile(whole, share / 100)) is not None
        },
        failures=_failures(slices),
    )


def _sums(axis: _Axis, slices: Iterable[Slice]) -> list[list[float]]:
    good, failed, spent, wasted, uncertain = ([0.0] * axis.count() for _ in range(5))
    for each in slices:
        place = axis.place(each.run, each.at)
        spent[place] += float(each.cost_usd)
        uncertain[place] += float(each.uncertain_usd)
        if each.error_class is None:
            good[place] += each.count
        else:
            failed[place] += each.count
            wasted[place] += float(each.cost_usd)
    return [good, failed, spent, wasted, uncertain]


def _by_place(axis: _Axis, latencies: Iterable[Latencies]) -> Mapping[int, Counter[float]]:
    found: dict[int, Counter[float]] = defaultdict(Counter)
    for each in latencies:
        found[axis.place(each.run, each.at)][each.seconds] += each.count
    return found


def _quantile(counts: Mapping[float, int], share: float) -> float | None:
    """The value that so large a share does not pass."""
    wanted, seen = share * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return None


def _bars(counts: Mapping[float, int]) -> list[Bar]:
    """A histogram without its empty ends."""
    placed = Counter[int]()
    for value, count in counts.items():
        placed[min(max(0, bisect_right(_EDGES, value * (1 + 1e-9)) - 1), len(_EDGES) - 2)] += count
    if not placed:
        return []
    return [
        Bar(least=_EDGES[index], below=_EDGES[index + 1], count=placed[index])
        for index in range(min(placed), max(placed) + 1)
    ]


def _failures(slices: Sequence[Slice]) -> Mapping[str, int]:
    found = Counter[str]()
    for each in slices:
        if each.error_class is not None:
            found[each.error_class] += each.count
    return dict(found.most_common())
