"""
How fast may requests start: by a limit that is declared, or by what 429s taught of one that is not?

A `Pacer` keeps to one known limit, a `Ramp` finds one that nobody declared. Both are pure: they are told the
time. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

MINUTE = 60.3
"""Half a percent more than a minute: requests reach the server up to 0.3 s apart from how they started."""
CATCH_UP = 1.0
"""Seconds of lateness that are made good at most."""
GRAIN = MINUTE / 1000
"""Seconds within which starts share a slot of the window."""


@dataclass(slots=True, eq=False)
class _Slot:
    """What started within one grain; it leaves the window as if all of it had started last."""

    first: float
    last: float
    used: float
    live: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """A weight that was taken, until it is known better."""

    slot: _Slot
    weight: float


class Pacer:
    """
    Keeps what starts within any minute at or below `limit`, evenly spread.

    Two rules hold together. The window: what starts in any 60 seconds weighs at most `limit`; below one a
    minute, one start in any 60 / `limit` seconds. The pace: a start of weight w is due w × 60 / `limit`
    seconds before the next (the generic cell rate algorithm, as virtual scheduling; ITU-T I.371). A start
    that comes late keeps the schedule, so that the next one catches up; later than one interval or one
    second, the schedule begins anew. So nothing bursts, not even at the beginning, and a server's bucket of
    two requests never runs dry.

    A weight above `limit` passes alone, after a whole empty window, and is rested for in full.
    """

    def __init__(self, limit: float) -> None:
        self._set(limit)
        self._used = 0.0
        self._window: deque[_Slot] = deque()
        self._due = -math.inf
        """When the next start is exactly on pace: the theoretical arrival time."""

    def change(self, limit: float) -> None:
        """
        Keep to another limit: the last start is rested for by the new one.

        The window begins anew: what was right by the limit before would keep a lower one from being used.
        """
        self._forget(math.inf)
        self._due -= self._rest
        self._set(limit)
        self._due += self._rest

    def _set(self, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f"a limit is above zero, not {limit}")
        self._most = max(limit, 1.0)
        self._span = MINUTE * self._most / limit
        self._rest = MINUTE / limit

    def earliest(self, now: float, weight: float = 1.0) -> float:
        """When `weight` may start if nothing else does before: `now` or exactly that later moment."""
        at = max(now, self._due)
        used = self._used
        room = self._most - weight  # below zero: not before all has left
        for slot in self._window:
            leaves = slot.last + self._span
            if leaves > at:
                if used <= room:
                    break
                at = leaves
            used -= slot.used
        return at

    def take(self, at: float, weight: float = 1.0) -> Reservation:
        """Book `weight` as started at `at`, which `earliest` allowed; times never go back."""
        self._forget(at)
        rest = weight * self._rest
        late = at - self._due
        self._due = (self._due if late <= min(CATCH_UP, rest) else at) + rest
        self._used += weight
        slot = self._window[-1] if self._window else None
        if slot is None or at - slot.first >= GRAIN:
            slot = _Slot(first=at, last=at, used=0.0)
            self._window.append(slot)
        slot.last = at
        slot.used += weight
        return Reservation(slot, weight)

    def correct(self, reservation: Reservation, actual: float) -> None:
        """Put what was really used in the place of what was reserved; once per reservation."""
        change = actual - reservation.weight
        self._due += change * self._rest
        reservation.slot.used += change
        if reservation.slot.live:
            self._used += change

    def _forget(self, now: float) -> None:
        while self._window and self._window[0].last + self._span <= now:
            slot = self._window.popleft()
            slot.live = False
            self._used -= slot.used


class Ramp:
    """
    Finds a limit that nobody declared, and keeps to it.

    It opens as TCP does (RFC 5681, section 3.1): some starts at once, two more for each that was answered,
    and, since pictures take long, some more with time, twice as many in every other second. The first 429 of
    a burst ends that and cuts the rate of starts, which then grows by the cubic function of RFC 9438, section
    4.2: fast back to where the 429 came, level there, and fast again beyond, to twice the rate within a
    minute. So a limit is found and kept to, and a passing one is soon forgotten.
    """

    STRETCH = 30.0
    """Seconds from the level part to twice the rate."""
    FLOOR = 0.05
    """Starts a second below which nothing is cut: the cool-down between them does the rest."""
    OPENING = 10
    """Starts at once: what the smallest quotas seen let through."""
    DOUBLING = 2.0
    """Seconds in which as many more may start as before, without an answer."""
    QUIET = 2.0
    """Seconds after an overload in which nothing grows."""
    FEW = 8
    """Starts from which nothing is told of a limit."""
    LONG = 60.0
    """Seconds without a 429 after which what was taken is a limit that is kept to, or more."""

    def __init__(self, *, declared: bool, known: float | None = None) -> None:
        """
        Begin.

        :param declared: whether somebody keeps to a stated limit: then all start at once until a 429.
        :param known: starts a second that an earlier run found.
        """
        self._starts: deque[float] = deque(maxlen=32)
        self._peak = math.inf if known is None else known
        self._felt = known
        self._dip = 0.0
        self._grown = 0.0
        """Seconds of growth, up to `_since`."""
        self._since = -math.inf
        self._next = -math.inf
        self._opening = not declared and known is None
        self._opened: float | None = None
        """When the first request started; of an opening, the first one of it."""
        self._begun = self._answered = 0
        self._counted = math.inf
        """Since when starts are counted that no 429 answered: from the last cut on, or the first start."""
        self._taken = 0.0
        self._emptied = False
        """Whether nothing was left for us then."""

    def felt(self, now: float) -> float | None:
        """
        Starts a second that the endpoint takes, as its 429s taught; None where there was none.

        Between two 429s it has taken what its limit is. Of long without one, it is at least what it took.
        """
        if self._felt is None or now - self._counted < self.LONG:
            return self._felt
        return max(self._felt, self._taken / (now - self._counted))

    def earliest(self, now: float) -> float:
        """When the next request may start."""
        if self._opened is None or not self._opening:
            return max(now, self._next)
        more = (self._begun + 1 - 2 * self._answered) / self.OPENING
        return max(now, self._opened + self.DOUBLING * math.log2(more) if more > 1 else now)

    def start(self, at: float) -> None:
        """Note a start."""
        if self._opened is None:
            self._opened = at
            self._since = max(at, self._since)
        self._counted = min(at, self._counted)
        self._begun += 1
        self._taken += 1
        self._starts.append(at)
        self._next = at + 1 / self.rate(at)

    def answered(self, started: float) -> None:
        """Note a good answer to what started then."""
        if self._opened is not None and started >= self._opened:
            self._answered += 1

    def refused(self) -> None:
        """Note an answer 429; the first one of a burst is a `cut` as well."""
        self._taken -= 1

    def cut(self, now: float, share: float) -> None:
        """Go back to `share` of the present rate of starts."""
        seen = len(self._starts) / max(1.0, now - self._starts[0])
        self._opening = False
        self._peak = min(self.rate(now), seen)
        self._dip = math.cbrt(1 - share)
        self._learn(now)

    def _learn(self, now: float) -> None:
        # What a bucket held at first is no rate.
        held = 0 if self._emptied else self.OPENING
        few = self._taken < held + self.FEW
        if self._emptied and few:
            return
        if not few:
            span = max(1.0, now - self._counted)
            taken = self._taken if self._emptied else min(self._taken - held, self._peak * span)
            self._felt = max(self.FLOOR, taken / span)
        self._counted, self._taken, self._emptied = now, 0.0, True

    def rest(self, now: float, until: float) -> None:
        """Start nothing before `until`; then go on as before, or begin anew where no limit is known."""
        if self._opening:
            self._opened, self._begun, self._answered = None, 0, 0
            return
        self._grown += max(0.0, now - self._since)
        self._since = self._next = until

    def hold(self, until: float) -> None:
        """Begin to grow at `until`, with the first start."""
        self._grown, self._since, self._next = 0.0, until, until

    def pause(self, now: float) -> None:
        """
        Grow no further for a moment: who is overloaded has named no limit, and must not be pressed.

        Not again before it has grown for as long: at a hundred starts a second one answer in a hundred comes
        every second, and would hold the rate for the whole night where the first 429 has put it.
        """
        if now - self._since >= self.QUIET:
            self._grown += now - self._since
            self._since = now + self.QUIET

    def rate(self, at: float) -> float:
        """Starts a second that are allowed at `at`, once a limit was met."""
        grown = (self._grown + max(0.0, at - self._since)) / self.STRETCH - self._dip
        return max(self.FLOOR, self._peak * (1 + grown**3))
