"""
When may the next request start?

A `Pacer` answers for one declared limit, a `Ramp` for what 429s taught of limits nobody declared, and the
`Gate` puts both before every request, in the order of asking, with a cool-down that holds everybody. `Pacer`
and `Ramp` are pure: they are told the time. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import anyio

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MINUTE = 60.3
"""Half a percent more than a minute: requests reach the server up to 0.3 s apart from how they started."""
CATCH_UP = 1.0
"""Seconds of lateness that are made good at most."""
GRAIN = MINUTE / 1000
"""Seconds within which starts share a slot of the window."""
LONGEST = 3600.0
"""Seconds; a server that names a longer wait is asked again after this one."""
BACKOFF = 60.0
"""Seconds; the longest wait of our own when the server names none."""
PACIFIC = "America/Los_Angeles"
"""Where the day of Google's quotas ends: https://ai.google.dev/gemini-api/docs/rate-limits"""


def next_day(now: float) -> float:
    """When the day of Google's quotas that holds `now` ends; both in seconds since 1970."""
    there = ZoneInfo(PACIFIC)
    day = datetime.fromtimestamp(now, there).date() + timedelta(days=1)
    return datetime.combine(day, time(), there).timestamp()


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
        if not limit > 0:
            raise ValueError(f"a limit is above zero, not {limit}")
        self._most = max(limit, 1.0)
        self._span = MINUTE * self._most / limit
        self._rest = MINUTE / limit
        self._used = 0.0
        self._window: deque[_Slot] = deque()
        self._due = -math.inf
        """When the next start is exactly on pace: the theoretical arrival time."""

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

    def __init__(self, *, declared: bool, known: float | None = None) -> None:
        """
        Begin.

        :param declared: whether somebody keeps to a stated limit: then all start at once until a 429.
        :param known: starts a second that an earlier run found.
        """
        self._starts: deque[float] = deque(maxlen=32)
        self._peak = math.inf if known is None else known
        self._dip = 0.0
        self._grown = 0.0
        """Seconds of growth, up to `_since`."""
        self._since = -math.inf
        self._next = -math.inf
        self._opening = not declared and known is None
        self._opened: float | None = None
        """When the first request started."""
        self._begun = self._answered = 0

    @property
    def limit(self) -> float | None:
        """Starts a second at which the endpoint said 429 last; None where it never did."""
        return None if math.isinf(self._peak) else self._peak

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
            self._since = at
        self._begun += 1
        self._starts.append(at)
        self._next = at + 1 / self.rate(at)

    def answered(self) -> None:
        """Note a good answer."""
        self._answered += 1

    def cut(self, now: float, share: float) -> None:
        """Go back to `share` of the present rate of starts."""
        seen = len(self._starts) / max(1.0, now - self._starts[0])
        self._opening = False
        self._peak = min(self.rate(now), seen)
        self._dip = math.cbrt(1 - share)

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


class _Learned:
    """The tokens of recent answers: the largest of a few, the 95th percentile of many."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=100)
        self.value: float | None = None

    def observe(self, tokens: int) -> None:
        self._recent.append(tokens)
        self.value = sorted(self._recent)[math.ceil(0.95 * len(self._recent)) - 1]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """The leave to send one request."""

    at: float
    """When the request was let through."""
    tokens: Reservation | None
    """Its share of the tokens a minute; None when they have no limit."""


class Gate:
    """
    Lets requests start in the order of asking, as fast as the limits allow and never faster.

    `rpm`, `ipm` and `tpm` are requests, pictures and tokens a minute; None is no declared limit. `clock` runs
    at the pace of `anyio.current_time`.
    """

    def __init__(
        self,
        *,
        rpm: float | None,
        ipm: float | None,
        tpm: float | None,
        rng: random.Random,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        # A request asks for one picture, so of the two limits the lower one holds for both.
        starts = [limit for limit in (rpm, ipm) if limit is not None]
        self._starts = Pacer(min(starts)) if starts else None
        self._tokens = Pacer(tpm) if tpm is not None else None
        self._ramp = Ramp(declared=bool(starts))
        self._learned = _Learned()
        self._rng = rng
        self._clock = clock
        self._turn = anyio.Lock()
        self._freed = anyio.Event()
        self._opens_at = -math.inf
        self._cooled_at = -math.inf
        self._parked_at = -math.inf
        self._alone = False
        """Whether the next to start is the one that tries whether a park is over."""
        self._probe: Pass | None = None
        self._strikes = 0

    @property
    def cooling(self) -> float:
        """Seconds until the cool-down ends; 0 when the gate is open."""
        return max(0.0, self._opens_at - self._clock())

    def is_free(self, tokens: float) -> bool:
        """Whether a request may start at once, with nobody before it and no quota to be tried."""
        now = self._clock()
        weight = tokens if self._learned.value is None else self._learned.value
        return not self._alone and not self._turn.locked() and self._earliest(now, weight) <= now

    async def enter(self, tokens: float) -> Pass:
        """
        Wait until a request may start now, and book it.

        `tokens` is a careful guess at what the request will use; answers soon teach better. Who is cancelled
        while waiting has taken nothing.
        """
        async with self._turn:
            while True:
                now = self._clock()
                weight = tokens if self._learned.value is None else self._learned.value
                wait = self._earliest(now, weight) - now
                if wait <= 0:
                    return self._take(now, weight)
                self._freed = anyio.Event()
                with anyio.move_on_after(wait):
                    await self._freed.wait()

    def cool(self, started: Pass, retry_after: float | None) -> float:
        """
        Hold everybody because `started` was answered 429; return the seconds to wait.

        With a delay from the server, until that is over (and up to 5 % longer). Without one, 1, 2, 4 … 60
        seconds, give or take a quarter. Only a request that started after the last cool-down began makes the
        next one longer: a burst of 429s is one event.
        """
        now = self._clock()
        news = started.at > self._cooled_at
        delay = 0.0
        if retry_after is not None and retry_after > 0:
            delay = min(retry_after, LONGEST) * self._rng.uniform(1, 1.05)
        elif news:
            delay = min(BACKOFF, 2.0 ** min(self._strikes, 10)) * self._rng.uniform(0.75, 1.25)
        if news:
            self._ramp.cut(now, share=0.5 if self._strikes else 0.7)
            self._strikes += 1
            self._cooled_at = now
        if now + delay > self._opens_at:
            self._opens_at = now + delay
            self._ramp.hold(self._opens_at)
        return self.cooling

    def overloaded(self) -> None:
        """Press no harder: the endpoint has said that it is overloaded, which is no limit of ours."""
        self._ramp.pause(self._clock())

    def park(self, started: Pass, wait: float) -> bool:
        """
        Hold everybody for `wait` seconds because `started` met the end of a quota.

        Then one request starts, and the others when it has come back. False, and nothing done, if `started`
        is from before the last park: that is no news.
        """
        if started.at <= self._parked_at:
            return False
        self._parked_at = self._clock()
        self._opens_at = self._parked_at + wait
        self._alone = True
        return True

    def settle(self, started: Pass, tokens: int | None, ok: bool) -> None:
        """
        Book what the request really used; where the answer claims nothing, the reservation stands.

        `ok` says that the server took the request: the next cool-down is a first one again.
        """
        if ok:
            self._ramp.answered()
            self._strikes = self._strikes if started.at <= self._cooled_at else 0
            self._freed.set()
        if started is self._probe:
            self._probe = None
            self._freed.set()
        if self._tokens is not None and started.tokens is not None and tokens is not None and tokens > 0:
            self._tokens.correct(started.tokens, tokens)
            self._learned.observe(tokens)
            self._freed.set()

    def _earliest(self, now: float, weight: float) -> float:
        if self._probe is not None:
            return math.inf
        at = self._ramp.earliest(max(now, self._opens_at))
        if self._starts is not None:
            at = self._starts.earliest(at)
        return at if self._tokens is None else self._tokens.earliest(at, weight)

    def _take(self, now: float, weight: float) -> Pass:
        self._ramp.start(now)
        if self._starts is not None:
            self._starts.take(now)
        taken = Pass(now, None if self._tokens is None else self._tokens.take(now, weight))
        if self._alone:
            self._alone, self._probe = False, taken
        return taken
