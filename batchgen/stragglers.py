"""
When is a request so late that it is worth asking once more?

A hedged request (Dean & Barroso, "The Tail at Scale", CACM 56(2), 2013): the second one leaves once the
first has been outstanding for longer than nearly all of its kind. Pure: latencies and counts are passed in.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

RECENT = 1000
"""Good answers of a kind that are remembered: what they take changes in the course of a night."""
ENOUGH = 50
"""Good answers of a kind that must be known before any request of it is late."""
LATE, USUAL = 0.99, 0.95
STRETCH = 2.0
"""
Late is what takes longer than the 99th percentile, or twice the 95th where that is less. Log-normal latencies
of any spread up to 1.0 have the former first. Where one answer in a hundred takes twenty times as long, the
99th percentile is such an answer itself and would call nothing late.
"""
SHARE = 0.05
"""
Of all requests, those that may ask once more: the bound of Dean & Barroso. Hands that have nothing else to do
ask far less often; it holds for an endpoint that turns slow altogether, which is no reason to pay twice.
"""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of the values, in ascending order, that a share of them does not pass (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Stragglers:
    """How long answers of each kind take, and which requests take too long."""

    def __init__(self, known: Iterable[tuple[Hashable, float]] = ()) -> None:
        """:param known: kinds and seconds of earlier good answers, the latest last."""
        self._seconds: defaultdict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._patience: dict[Hashable, float] = {}
        for kind, seconds in known:
            self.answered(kind, seconds)

    def answered(self, kind: Hashable, seconds: float) -> None:
        """Learn from a good answer."""
        self._seconds[kind].append(seconds)
        self._patience.pop(kind, None)

    def patience(self, kind: Hashable) -> float:
        """Seconds after which a request of this kind is late; infinite while too few answers are known."""
        known = self._patience.get(kind)
        if known is None:
            known = self._patience[kind] = _patience(sorted(self._seconds[kind]))
        return known

    @staticmethod
    def allows(hedges: int, requests: int) -> bool:
        """Whether there may be one hedge more: a first one, and then one for every twenty requests."""
        return hedges < max(1.0, SHARE * requests)


def _patience(ordered: Sequence[float]) -> float:
    if len(ordered) < ENOUGH:
        return math.inf
    return min(percentile(ordered, LATE), STRETCH * percentile(ordered, USUAL))
