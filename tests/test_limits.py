"""The gate never passes a declared limit, uses it to the full and holds everybody when the server says so."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.limits import STATEMENTS, Gate, Pass, next_day
from batchgen.records import Limit, Quota

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

virtual_time = pytest.mark.virtual_time

# --- Gate: cool-downs -------------------------------------------------------------------------------------


def gate(
    *,
    rpm: float | None = None,
    ipm: float | None = None,
    tpm: float | None = None,
    seed: int = 1,
    known: Limit | None = None,
) -> Gate:
    return Gate(rpm=rpm, ipm=ipm, tpm=tpm, rng=random.Random(seed), known=known)


@virtual_time
async def test_an_open_gate_without_limits_lets_all_pass_at_once() -> None:
    open_gate = gate()
    for _ in range(100):
        assert (await open_gate.enter(1000)).at == anyio.current_time()
    assert open_gate.cooling == 0


@virtual_time
async def test_the_server_s_delay_holds_everybody_and_is_never_cut_short() -> None:
    shared = gate()
    first = await shared.enter(0)
    begin = anyio.current_time()
    assert 10 <= shared.cool(first, 10) <= 10.5
    assert 10 <= shared.cooling <= 10.5
    assert 30 <= shared.cool(first, 30) <= 31.5  # the longest of concurrent delays
    assert 30 <= shared.cool(first, 3) <= 31.5
    await shared.enter(0)
    assert 30 <= anyio.current_time() - begin <= 31.5


@virtual_time
async def test_a_waiter_asleep_when_a_cool_down_begins_waits_for_its_end() -> None:
    shared = gate(rpm=60)
    first = await shared.enter(0)
    begin = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(shared.enter, 0)
        await anyio.wait_all_tasks_blocked()
        shared.cool(first, 20)
    assert anyio.current_time() - begin >= 20


@virtual_time
@pytest.mark.parametrize("retry_after", [None, 0, -5, math.nan])
async def test_without_a_usable_delay_the_waits_double_up_to_a_minute(retry_after: float | None) -> None:
    shared = gate()
    for nominal in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        passed = await shared.enter(0)
        assert 0.75 * nominal <= shared.cool(passed, retry_after) <= 1.25 * nominal


@virtual_time
async def test_a_burst_of_429s_is_one_event() -> None:
    shared = gate()
    burst = [await shared.enter(0) for _ in range(50)]
    await anyio.sleep(0.1)
    for passed in burst:
        assert shared.cool(passed, None) <= 1.25
    await anyio.sleep(5)
    assert shared.cool(burst[0], None) == 0  # late news of what is over
    assert shared.cool(await shared.enter(0), None) >= 1.5


@virtual_time
async def test_a_success_begins_the_waits_anew_unless_it_began_before_the_429() -> None:
    shared = gate()
    early = await shared.enter(0)
    await anyio.sleep(1)
    for _ in range(3):
        shared.cool(await shared.enter(0), None)
    shared.settle(early, None, ok=True)
    assert shared.cool(await shared.enter(0), None) >= 0.75 * 8
    late = await shared.enter(0)
    shared.settle(late, None, ok=False)
    assert shared.cool(late, None) >= 0.75 * 16
    shared.settle(await shared.enter(0), None, ok=True)
    assert shared.cool(await shared.enter(0), None) <= 1.25


@virtual_time
@pytest.mark.parametrize(("ok", "share"), [(True, 0.7), (False, 0.5)])
async def test_the_rate_is_halved_when_nothing_got_through_since_the_last_429(ok: bool, share: float) -> None:
    shared = gate()
    last = await shared.enter(0)
    for _ in range(40):
        await anyio.sleep(0.1)
        last = await shared.enter(0)
    before = anyio.current_time() + shared.cool(last, 0.1)
    rate = shared._ramp.rate(before)
    again = await shared.enter(0)
    shared.settle(again, None, ok=ok)
    after = anyio.current_time() + shared.cool(again, 0.1)
    assert shared._ramp.rate(after) == pytest.approx(rate * share, rel=0.02)


@virtual_time
@pytest.mark.parametrize("retry_after", [86_400, math.inf])
async def test_a_server_that_names_a_day_is_asked_again_after_an_hour(retry_after: float) -> None:
    shared = gate()
    assert 3600 <= shared.cool(await shared.enter(0), retry_after) <= 3780


@virtual_time
async def test_after_a_cool_down_the_waiters_return_one_by_one() -> None:
    shared = gate()
    times: list[float] = []

    async def wait() -> None:
        times.append((await shared.enter(0)).at)

    passed = [await shared.enter(0) for _ in range(20)]
    shared.cool(passed[0], 5)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(wait)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) >= 0.04
    assert times[-1] - times[0] <= 4


# --- Gate: what answers say of limits ---------------------------------------------------------------------

EMPTY = Quota(remaining=0, reset=20)


@virtual_time
@pytest.mark.parametrize("rpm", [None, 600])
async def test_where_nothing_is_left_everybody_waits_for_the_reset(rpm: float | None) -> None:
    shared = gate(rpm=rpm)
    first, second = await shared.enter(0), await shared.enter(0)
    begin = first.at
    await anyio.sleep(begin + 5 - anyio.current_time())
    assert shared.heed(first, [EMPTY, Quota(remaining=7, reset=300)]) == pytest.approx(15)
    assert shared.heed(second, [Quota(remaining=0, reset=300)]) == 0, "counted before that was known"
    later = await shared.enter(0)
    assert later.at - begin == pytest.approx(20)
    assert shared.heed(later, [EMPTY]) == pytest.approx(20), "that is news"
    assert shared.limit == Limit()


@virtual_time
@pytest.mark.parametrize(
    "said",
    [
        Quota(remaining=1, reset=20),
        Quota(remaining=0),
        Quota(reset=20),
        Quota(remaining=0, reset=5),
        Quota(limit=9, remaining=0, reset=0),
    ],
    ids=str,
)
async def test_what_is_left_unsaid_or_over_holds_nobody(said: Quota) -> None:
    shared = gate()
    first = await shared.enter(0)
    await anyio.sleep(5)
    assert shared.heed(first, [said]) == 0
    assert shared.cooling == 0


@virtual_time
async def test_who_says_that_nothing_is_left_for_a_day_is_asked_after_a_quarter_of_an_hour() -> None:
    shared = gate()
    assert shared.heed(await shared.enter(0), [Quota(remaining=0, reset=86_400)]) == 900


@virtual_time
async def test_a_park_and_a_cool_down_that_are_longer_stay_as_they_are() -> None:
    shared = gate()
    shared.cool(await shared.enter(0), 60)
    assert shared.heed(Pass(anyio.current_time() + 1, None), [EMPTY]) == 0
    assert shared.cooling >= 60


@virtual_time
async def test_a_429_while_all_wait_for_a_reset_is_gone_on_from_slowly() -> None:
    shared = gate()
    first, second = await shared.enter(0), await shared.enter(0)
    assert shared.heed(first, [Quota(remaining=0, reset=100)]) == 100
    assert shared.cool(second, 1) == 100
    assert shared._ramp.rate(100.0 + first.at) == pytest.approx(2 * 0.7)


@virtual_time
async def test_what_was_felt_before_is_begun_with() -> None:
    shared = gate(known=Limit(felt=60, stated=6))
    first = await shared.enter(0)
    assert (await shared.enter(0)).at - first.at == pytest.approx(1)
    assert shared.limit == Limit(felt=60)


@virtual_time
async def test_a_stated_limit_is_kept_to_until_another_one_is_stated() -> None:
    shared = gate()
    first = await shared.enter(0)
    shared.heed(
        first, [Quota(limit=5000, window=60), Quota(limit=10, window=10), Quota(limit=9, window=86_400)]
    )
    assert shared.limit == Limit(stated=60)
    times = [(await shared.enter(0)).at for _ in range(6)]
    assert times[-1] - times[0] == pytest.approx(5 * 1.005)
    shared.heed(first, [Quota(limit=600, window=60)])
    times = [(await shared.enter(0)).at for _ in range(6)]
    assert times[-1] - times[0] == pytest.approx(5 * 0.1005)


@virtual_time
async def test_of_models_that_state_limits_of_their_own_the_highest_is_kept_to_while_it_is_said() -> None:
    shared = gate()
    first = await shared.enter(0)
    for limit in (900, 60, 60, 900, 60):
        shared.heed(first, [Quota(limit=limit, window=60)])
    assert shared.limit.stated == 900
    for _ in range(STATEMENTS):
        shared.heed(first, [Quota(limit=60, window=60)])
    assert shared.limit.stated == 60


@virtual_time
async def test_who_states_another_limit_with_each_answer_lets_nothing_burst() -> None:
    shared = gate()
    shared.heed(await shared.enter(0), [Quota(limit=60, window=60)])
    times = []
    for limit in range(61, 81):
        passed = await shared.enter(0)
        times.append(passed.at)
        shared.heed(passed, [Quota(limit=limit, window=60)])
    assert times[-1] - times[0] == pytest.approx(sum(60.3 / limit for limit in range(61, 80)))


@virtual_time
async def test_a_declared_limit_goes_before_what_is_stated_and_what_was_known() -> None:
    shared = gate(rpm=600, known=Limit(felt=6, stated=6))
    first = await shared.enter(0)
    shared.heed(first, [Quota(limit=6, window=60)])
    assert (await shared.enter(0)).at - first.at == pytest.approx(0.1005)
    assert shared.limit == Limit()


@virtual_time
async def test_limits_of_tokens_and_overloads_say_nothing_of_requests() -> None:
    shared = gate()
    first = await shared.enter(0)
    shared.heed(first, [Quota(limit=6, window=60, of_requests=False)])
    shared.overloaded()
    assert shared.limit == Limit()
    assert (await shared.enter(0)).at == first.at


@pytest.mark.parametrize(
    ("before", "now", "news"),
    [
        (Limit(), Limit(), False),
        (Limit(), Limit(felt=1), True),
        (Limit(felt=100), Limit(felt=109), False),
        (Limit(felt=100), Limit(felt=110), True),
        (Limit(felt=100), Limit(felt=90), True),
        (Limit(felt=100), Limit(felt=100, stated=5), True),
        (Limit(felt=100, stated=5), Limit(felt=100), False),
    ],
)
def test_a_limit_is_news_when_it_is_another_one(before: Limit, now: Limit, news: bool) -> None:
    assert now.is_news(before) is news


# --- Gate: waiting ----------------------------------------------------------------------------------------


@virtual_time
async def test_waiters_pass_in_the_order_of_asking() -> None:
    shared = gate(rpm=600)
    order: list[int] = []

    async def wait(number: int) -> None:
        await shared.enter(0)
        order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
    assert order == list(range(50))


@virtual_time
@given(
    st.dictionaries(st.integers(0, 19), st.sampled_from([0.0, 0.5, *(1.005 * turn for turn in range(1, 9))]))
)
@settings(max_examples=50, deadline=None)
async def test_who_is_cancelled_while_waiting_takes_nothing(cancelled: dict[int, float]) -> None:
    shared = gate(rpm=60)
    passes = [await shared.enter(0)]
    begin = anyio.current_time()

    async def wait(number: int) -> None:
        with anyio.CancelScope(deadline=begin + cancelled.get(number, math.inf)):
            passes.append(await shared.enter(0))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(wait, number)
    assert len(passes) >= 21 - len(cancelled)
    gaps = [after.at - before.at for before, after in itertools.pairwise(passes)]
    assert gaps == [pytest.approx(1.005)] * (len(passes) - 1)


@virtual_time
async def test_of_requests_and_pictures_the_lower_limit_holds() -> None:
    shared = gate(rpm=600, ipm=60)
    times = [(await shared.enter(0)).at for _ in range(10)]
    assert times[-1] - times[0] == pytest.approx(9 * 1.005)


@virtual_time
async def test_tokens_wait_until_the_minute_has_room_for_them() -> None:
    shared = gate(tpm=1000)
    times = [(await shared.enter(300)).at for _ in range(4)]
    assert times[3] - times[0] == pytest.approx(60.3)


@virtual_time
async def test_a_correction_wakes_who_waits_for_tokens() -> None:
    shared = gate(tpm=1000)
    first = await shared.enter(1000)
    begin = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(shared.enter, 1000)
        await anyio.sleep(20)
        shared.settle(first, 100, ok=True)
    assert anyio.current_time() - begin == pytest.approx(20)


@virtual_time
@pytest.mark.parametrize("claim", [None, 0, -7])
async def test_an_answer_that_claims_no_tokens_leaves_the_reservation(claim: int | None) -> None:
    shared = gate(tpm=1000)
    shared.settle(await shared.enter(1000), claim, ok=True)
    begin = anyio.current_time()
    await shared.enter(1000)
    assert anyio.current_time() - begin >= 60


@virtual_time
async def test_answers_teach_what_the_next_request_is_reserved_at() -> None:
    shared = gate(tpm=60_000)

    async def reserved() -> float:
        passed = await shared.enter(30_000)
        assert passed.tokens is not None
        shared.settle(passed, 1000, ok=True)
        return passed.tokens.weight

    assert await reserved() == 30_000
    assert await reserved() == 1000
    shared.settle(await shared.enter(0), 5000, ok=True)
    assert await reserved() == 5000  # of a few answers the largest
    for _ in range(30):
        await reserved()
    assert await reserved() == 1000  # of many the 95th percentile


@virtual_time
async def test_the_clock_may_count_from_anywhere() -> None:
    shared = Gate(rpm=60, ipm=None, tpm=None, rng=random.Random(1), clock=lambda: anyio.current_time() - 1e6)
    begin = anyio.current_time()
    first = await shared.enter(0)
    await shared.enter(0)
    assert first.at == begin - 1e6
    assert anyio.current_time() - begin == pytest.approx(1.005)


# --- Gate against servers ---------------------------------------------------------------------------------


class Server(Protocol):
    def take(self, now: float, tokens: int) -> float | None:
        """Return None when the request is let in, else the seconds to wait."""


@dataclass
class Bucket:
    """A token bucket."""

    rate: float
    burst: float
    drop: tuple[float, float] = (0.0, 0.0)
    """From when until when the rate is `share` of what it was."""
    share: float = 0.25
    at: float = field(default=0.0, repr=False)
    level: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self, now: float, tokens: int) -> float | None:
        rate = self.rate * self.share if self.drop[0] <= now < self.drop[1] else self.rate
        self.level = min(self.burst, self.level + (now - self.at) * rate)
        self.at = now
        if self.level < 1:
            return (1 - self.level) / rate
        self.level -= 1
        return None

    def states(self, times: float = 1.0) -> tuple[Quota, ...]:
        """Return what headers would say that name so many times the limit there is."""
        rate = self.rate * self.share if self.drop[0] <= self.at < self.drop[1] else self.rate
        left, reset = math.floor(self.level), (self.burst - self.level) / rate
        return (Quota(limit=rate * 60 * times, window=60, remaining=left, reset=reset),)


@dataclass
class Sliding:
    """Counts the requests (or the tokens) of the last sixty seconds."""

    limit: float
    tokens: bool = False
    log: deque[tuple[float, int]] = field(default_factory=deque, repr=False)

    def take(self, now: float, tokens: int) -> float | None:
        weight = tokens if self.tokens else 1
        while self.log and self.log[0][0] <= now - 60:
            self.log.popleft()
        if sum(used for _, used in self.log) + weight > self.limit:
            return self.log[0][0] + 60 - now
        self.log.append((now, weight))
        return None


@dataclass
class Fixed:
    """Counts the requests since the last full minute."""

    limit: float
    minute: int = field(default=0, repr=False)
    count: int = field(default=0, repr=False)

    def take(self, now: float, tokens: int) -> float | None:
        minute = int(now // 60)
        if minute != self.minute:
            self.minute, self.count = minute, 0
        if self.count >= self.limit:
            return (minute + 1) * 60 - now
        self.count += 1
        return None


@dataclass
class Load:
    """Workers that buy `rows` pictures through the gate."""

    server: Server
    rows: int
    latency: float = 14.0
    way: float = 0.0
    """Seconds at most from the start of a request to the server."""
    names_delay: bool = True
    says: Callable[[], tuple[Quota, ...]] = tuple
    """What the headers of an answer say, as the server is when it takes or refuses."""
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    starts: list[float] = field(default_factory=list)
    tokens: int = 0
    done: int = 0
    rejected: int = 0

    async def run(self, shared: Gate, workers: int) -> None:
        rows = iter(range(self.rows))
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(self._work, shared, rows)

    async def _work(self, shared: Gate, rows: Iterator[int]) -> None:
        for _ in rows:
            while not await self._attempt(shared, self.rng.randrange(1200, 1500)):
                pass

    async def _attempt(self, shared: Gate, tokens: int) -> bool:
        passed: Pass = await shared.enter(2000)
        self.starts.append(passed.at)
        await anyio.sleep(self.rng.uniform(0, self.way))
        wait = self.server.take(anyio.current_time(), tokens)
        said = self.says()
        if wait is not None:
            self.rejected += 1
            await anyio.sleep(0.08)
            shared.cool(passed, wait if self.names_delay else None)
            shared.heed(passed, said)
            return False
        await anyio.sleep(self.latency * self.rng.lognormvariate(0, 0.4))
        shared.settle(passed, tokens, ok=True)
        shared.heed(passed, said)
        self.tokens += tokens
        self.done += 1
        return True

    @property
    def span(self) -> float:
        return self.starts[-1] - self.starts[0]


@virtual_time
@pytest.mark.parametrize(
    ("server", "rpm", "way"),
    [
        (Bucket(1, 1), 60, 0.0),
        (Bucket(10, 1), 600, 0.0),
        (Bucket(10, 2), 600, 0.05),
        (Bucket(10, 40), 600, 0.3),
        (Sliding(20), 20, 0.3),
        (Sliding(600), 600, 0.3),
        (Fixed(60), 60, 0.0),
        (Fixed(300), 300, 0.3),
    ],
    ids=str,
)
async def test_at_the_declared_limit_no_429_comes_and_the_quota_is_used(
    server: Server, rpm: float, way: float
) -> None:
    load = Load(copy.deepcopy(server), rows=min(1500, int(rpm * 5)), way=way)
    await load.run(gate(rpm=rpm), workers=int(rpm / 60 * 40) + 4)
    assert load.rejected == 0
    assert load.done == load.rows
    assert (load.rows - 1) / load.span * 60 >= 0.98 * rpm


@virtual_time
async def test_tokens_are_never_passed_and_used_nearly_to_the_full() -> None:
    load = Load(Sliding(100_000, tokens=True), rows=600, way=0.2)
    await load.run(gate(tpm=100_000), workers=64)
    assert load.rejected == 0
    assert load.tokens / load.span * 60 >= 0.95 * 100_000


@virtual_time
@pytest.mark.parametrize("names_delay", [True, False])
async def test_a_server_that_drops_to_a_quarter_for_five_minutes_gets_every_row_done(
    names_delay: bool,
) -> None:
    load = Load(Bucket(5, 5, drop=(60, 360)), rows=2000, names_delay=names_delay)
    await load.run(gate(rpm=300), workers=128)
    assert load.done == 2000
    assert load.rejected <= 100
    assert load.span <= 1.25 * (360 + (2000 - 60 * 5 - 300 * 1.25) / 5)


@virtual_time
@pytest.mark.parametrize(
    ("rows", "names_delay", "states", "known"),
    [
        (1200, True, None, None),
        (1200, False, None, None),
        (600, False, 1.0, None),
        (600, True, 5.0, None),
        (600, False, None, 900.0),
    ],
    ids=["waits", "no waits", "headers", "headers of more than there is", "known from before"],
)
async def test_a_limit_nobody_declared_is_found_and_used(
    rows: int, names_delay: bool, states: float | None, known: float | None
) -> None:
    server = Bucket(15, 15)
    load = Load(server, rows=rows, latency=2.0, names_delay=names_delay)
    if states is not None:
        load.says = partial(server.states, states)
    shared = gate(known=Limit(felt=known))
    await load.run(shared, workers=200)
    assert load.done == rows
    assert load.rejected <= (0 if states == 1.0 else 0.02 * rows)
    assert rows / load.span >= 0.9 * 15, "the start included"
    assert shared.limit.per_minute == pytest.approx(900, rel=0.05)
    assert shared.limit.stated == (None if states is None else 900 * states)


@virtual_time
async def test_a_known_limit_is_used_to_its_last_request() -> None:
    load = Load(Bucket(15, 15), rows=600, latency=2.0)
    await load.run(gate(rpm=900), workers=64)
    assert (load.done, load.rejected) == (600, 0)
    assert 599 / load.span >= 0.98 * 15


@virtual_time
async def test_a_stated_limit_that_halves_and_returns_is_followed_with_fewer_429s() -> None:
    server = Bucket(5, 5, drop=(60, 150), share=0.5)
    load = Load(server, rows=1000, latency=2.0, says=server.states)
    await load.run(gate(), workers=64)
    began = load.starts[0]

    def rate(since: float, until: float) -> float:
        return sum(since <= at - began < until for at in load.starts) / (until - since)

    assert rate(75, 150) <= 1.1 * 2.5
    assert rate(75, 150) >= 0.9 * 2.5
    assert rate(170, 210) >= 0.95 * 5
    assert load.rejected <= 10


@virtual_time
async def test_of_a_window_without_a_name_all_is_used_and_its_end_waited_for() -> None:
    server = Fixed(60)
    load = Load(server, rows=240, latency=2.0)
    load.says = lambda: (Quota(limit=60, remaining=60 - server.count, reset=60 - anyio.current_time() % 60),)
    await load.run(gate(), workers=64)
    assert load.done == 240
    assert load.rejected <= 0.05 * 240
    assert load.span <= 200


@virtual_time
@pytest.mark.parametrize("names_delay", [True, False])
async def test_a_limit_that_halves_and_returns_is_followed_within_a_minute(names_delay: bool) -> None:
    load = Load(Bucket(15, 15, drop=(60, 150), share=0.5), rows=3000, latency=2.0, names_delay=names_delay)
    await load.run(gate(), workers=200)
    began = load.starts[0]

    def rate(since: float, until: float) -> float:
        return sum(since <= at - began < until for at in load.starts) / (until - since)

    assert rate(70, 150) <= 1.1 * 7.5
    assert rate(70, 150) >= 0.9 * 7.5
    assert rate(210, 240) >= 0.9 * 15
    assert load.rejected <= 0.02 * 3000


@virtual_time
async def test_nobody_waits_long_where_there_is_no_limit() -> None:
    load = Load(Bucket(1e6, 1e6), rows=2000, latency=12.0)
    await load.run(gate(), workers=256)
    assert load.rejected == 0
    assert load.span <= 1.2 * 2000 * 12 * 1.083 / 256, "a mean of so many medians"


@virtual_time
async def test_waiting_is_asleep_and_not_polling() -> None:
    shared, turns = gate(rpm=1), 0

    def clock() -> float:
        nonlocal turns
        turns += 1
        return anyio.current_time()

    shared._clock = clock
    for _ in range(10):
        await shared.enter(0)
        await checkpoint()
    assert turns <= 30


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("2026-11-21T17:48:00-08:00", "2026-11-22T00:00:00-08:00"),
        ("2026-11-22T00:00:00-08:00", "2026-11-23T00:00:00-08:00"),
        ("2026-11-21T23:59:59.5-08:00", "2026-11-22T00:00:00-08:00"),
        ("2026-03-08T00:30:00-08:00", "2026-03-09T00:00:00-07:00"),
        ("2026-11-01T00:30:00-07:00", "2026-11-02T00:00:00-08:00"),
    ],
)
def test_google_s_day_ends_at_midnight_in_california_whatever_the_clocks_do(now: str, then: str) -> None:
    assert next_day(datetime.fromisoformat(now).timestamp()) == datetime.fromisoformat(then).timestamp()


@given(st.floats(1.7e9, 4e9))
def test_google_s_next_day_is_never_more_than_25_hours_away(now: float) -> None:
    assert 0 < next_day(now) - now <= 25 * 3600


@virtual_time
async def test_a_park_holds_everybody_and_ends_with_one_request_alone() -> None:
    shared, passed = gate(), []
    began = anyio.current_time()
    met = await shared.enter(0)
    assert shared.park(met, 1000)
    assert not shared.park(met, 5000), "the same end of the same quota"

    async def worker() -> None:
        leave = await shared.enter(0)
        passed.append(anyio.current_time() - began)
        await anyio.sleep(20)
        shared.settle(leave, None, ok=True)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(worker)
    assert passed == [1000, *[1020] * 4]


@virtual_time
async def test_a_probe_that_meets_the_same_end_parks_everybody_again() -> None:
    shared = gate()
    began = anyio.current_time()
    assert shared.park(await shared.enter(0), 1000)
    probe = await shared.enter(0)
    shared.settle(probe, None, ok=False)
    assert shared.park(probe, 600)
    again = await shared.enter(0)
    assert anyio.current_time() - began == 1600
    with anyio.move_on_after(100) as waited:
        await shared.enter(0)
    assert waited.cancelled_caught, "nobody passes before the probe has come back"
    shared.settle(again, None, ok=True)
    with anyio.fail_after(0.1):
        await shared.enter(0)
