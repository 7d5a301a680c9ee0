"""
When may the next request start?

The `Gate` puts what paces starts (`pacing`) before every request, in the order of asking, with a cool-down
that holds everybody. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import anyio

from batchgen.pacing import Pacer, Ramp
from batchgen.records import Limit

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from batchgen.pacing import Reservation
    from batchgen.records import Quota

LONGEST = 3600.0
"""Seconds; a server that names a longer wait is asked again after this one."""
BACKOFF = 60.0
"""Seconds; the longest wait of our own when the server names none."""
HELD = 900.0
"""Seconds; who says that nothing is left for longer is asked after these."""
STATEMENTS = 16
"""So many of the latest answers are believed that state a limit: those of several models do not agree."""
PACIFIC = "America/Los_Angeles"
"""Where the day of Google's quotas ends: https://ai.google.dev/gemini-api/docs/rate-limits"""


def next_day(now: float) -> float:
    """When the day of Google's quotas that holds `now` ends; both in seconds since 1970."""
    there = ZoneInfo(PACIFIC)
    day = datetime.fromtimestamp(now, there).date() + timedelta(days=1)
    return datetime.combine(day, time(), there).timestamp()


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

    `rpm`, `ipm` and `tpm` are requests, pictures and tokens a minute; None is none declared. Where neither of
    the first two is, the limit is found out, from what is `known` of it on. `clock` runs at the pace of
    `anyio.current_time`.
    """

    def __init__(
        self,
        *,
        rpm: float | None,
        ipm: float | None,
        tpm: float | None,
        rng: random.Random,
        known: Limit | None = None,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        # A request asks for one picture, so of the two limits the lower one holds for both.
        starts = [limit for limit in (rpm, ipm) if limit is not None]
        self._declared = bool(starts)
        self._starts = Pacer(min(starts)) if starts else None
        self._stated: deque[float] = deque(maxlen=STATEMENTS)
        self._tokens = Pacer(tpm) if tpm is not None else None
        # What was stated holds only as long as it is stated.
        felt = None if self._declared or known is None else known.felt
        self._ramp = Ramp(declared=self._declared, known=felt and felt / 60)
        self._learned = _Learned()
        self._rng = rng
        self._clock = clock
        self._turn = anyio.Lock()
        self._freed = anyio.Event()
        self._opens_at = -math.inf
        self._cooled_at = -math.inf
        self._held_at = -math.inf
        self._parked_at = -math.inf
        self._alone = False
        """Whether the next to start is the one that tries whether a park is over."""
        self._probe: Pass | None = None
        self._strikes = 0

    @property
    def cooling(self) -> float:
        """Seconds until the cool-down ends; 0 when the gate is open."""
        return max(0.0, self._opens_at - self._clock())

    @property
    def limit(self) -> Limit:
        """What was found out of the limit that nobody declared."""
        if self._declared:
            return Limit()
        felt = self._ramp.felt(self._clock())
        return Limit(
            felt=None if felt is None else round(felt * 60, 1), stated=max(self._stated, default=None)
        )

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
        self._ramp.refused()
        if news:
            self._ramp.cut(now, share=0.5 if self._strikes else 0.7)
            self._strikes += 1
            self._cooled_at = now
        if news or now + delay > self._opens_at:
            self._opens_at = max(self._opens_at, now + delay)
            self._ramp.hold(self._opens_at)
        return self.cooling

    def heed(self, started: Pass, quotas: Sequence[Quota]) -> float:
        """
        Go by what an answer to `started` says of limits; return the seconds for which it holds everybody.

        Where nothing is left, that is until the reset, counted from the start of the request, and only if
        that is news, as with 429s. A limit of a minute or less is kept to unless one is declared; 429s may
        teach a lower one.
        """
        if not self._declared:
            self._keep_to(quotas)
        empty = (quota for quota in quotas if quota.remaining is not None and quota.remaining < 1)
        wait = min(HELD, max((quota.reset or 0.0 for quota in empty), default=0.0))
        now, until = self._clock(), started.at + wait
        if started.at <= max(self._held_at, self._cooled_at) or until <= max(now, self._opens_at):
            return 0.0
        self._held_at, self._opens_at = now, until
        self._ramp.rest(now, until)
        return until - now

    def _keep_to(self, quotas: Sequence[Quota]) -> None:
        rates = [
            60 * quota.limit / quota.window
            for quota in quotas
            if quota.of_requests and quota.limit and quota.window and quota.window <= 60
        ]
        if rates:
            before = max(self._stated, default=None)
            self._stated.append(min(rates))
            limit = max(self._stated)
            if self._starts is None:
                self._starts = Pacer(limit)
            elif limit != before:
                self._starts.change(limit)
            if limit != before:
                self._freed.set()

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
            self._ramp.answered(started.at)
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
