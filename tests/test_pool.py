"""Every item is begun by one worker at a time until it is finished, and a drain begins nothing more."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.limits import Gate
from batchgen.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

pytestmark = pytest.mark.virtual_time


async def numbers(values: Iterable[int], pause: float = 0.0) -> AsyncGenerator[int]:
    for value in values:
        await anyio.sleep(pause)
        yield value


async def run(
    pool: Pool[int], values: Iterable[int], work: Callable[[int, int], Awaitable[float | None]]
) -> None:
    async with aclosing(numbers(values)) as source:
        await pool.run(source, work)


async def second(item: int, worker: int) -> None:
    await anyio.sleep(1)


# --- any schedule -----------------------------------------------------------------------------------------

SECONDS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0, 10.0])
ATTEMPTS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=4)
"""Of one item: how long each attempt takes and, but for the last, how long until the next."""


@dataclass
class Recorder:
    """Plays a schedule and checks at every step what always holds."""

    pool: Pool[int]
    concurrency: int
    schedule: list[list[tuple[float, float]]]
    pause: float
    pulled: int = 0
    drained: bool = False
    attempts: Counter[int] = field(default_factory=Counter)
    finished: list[int] = field(default_factory=list)
    due: dict[int, float] = field(default_factory=dict)
    at_work: dict[int, int] = field(default_factory=dict)
    """Worker → item."""

    async def source(self) -> AsyncGenerator[int]:
        for item in range(len(self.schedule)):
            await anyio.sleep(self.pause)
            self.pulled += 1
            yield item

    async def work(self, item: int, worker: int) -> float | None:
        self._check_begin(item, worker)
        self.at_work[worker] = item
        assert self.pool.inflight <= self.concurrency
        length, delay = self.schedule[item][self.attempts[item]]
        self.attempts[item] += 1
        await anyio.sleep(length)
        del self.at_work[worker]
        if self.attempts[item] < len(self.schedule[item]):
            self.due[item] = anyio.current_time() + delay
            return delay
        self.finished.append(item)
        return None

    def _check_begin(self, item: int, worker: int) -> None:
        now = anyio.current_time()
        assert not self.drained
        assert 0 <= worker < self.concurrency
        assert worker not in self.at_work
        assert item not in self.at_work.values()
        assert self.pulled <= len(self.attempts) + 1
        if item in self.due:
            own = self.due.pop(item)
            assert own <= now
            assert all(due >= own for due in self.due.values())
        else:
            assert self.attempts[item] == 0
            assert len(self.due) < self.concurrency
            assert all(due >= now for due in self.due.values())

    async def drain_at(self, moment: float) -> None:
        await anyio.sleep(moment)
        self.drained = True
        self.pool.drain()


@given(
    concurrency=st.integers(1, 5),
    schedule=st.lists(ATTEMPTS, max_size=25),
    pause=st.sampled_from([0.0, 0.0, 0.7]),
    drain=st.none() | st.floats(0, 40),
)
@settings(deadline=None)
async def test_every_item_is_finished_once_or_left_over_or_never_begun(
    concurrency: int, schedule: list[list[tuple[float, float]]], pause: float, drain: float | None
) -> None:
    pool = Pool[int](concurrency=concurrency)
    recorder = Recorder(pool, concurrency, schedule, pause)
    async with anyio.create_task_group() as group, aclosing(recorder.source()) as source:
        if drain is not None:
            group.start_soon(recorder.drain_at, drain)
        await pool.run(source, recorder.work)
        group.cancel_scope.cancel()
    items = range(len(schedule))
    never = [item for item in items if recorder.attempts[item] == 0]
    assert sorted([*recorder.finished, *pool.leftovers, *never]) == list(items)
    assert all(recorder.attempts[item] == len(schedule[item]) for item in recorder.finished)
    assert pool.inflight == 0
    assert pool.retrying == len(pool.leftovers) == len(recorder.due)
    assert [recorder.due[item] for item in pool.leftovers] == sorted(recorder.due.values())
    if not recorder.drained:
        assert len(recorder.finished) == len(schedule)


# --- order and use ----------------------------------------------------------------------------------------


async def test_all_workers_are_at_work_while_there_is_any() -> None:
    begin = anyio.current_time()
    await run(Pool[int](concurrency=4), range(20), second)
    assert anyio.current_time() - begin == pytest.approx(5)


async def test_falsy_items_are_items() -> None:
    seen: list[int] = []

    async def work(item: int, worker: int) -> None:
        seen.append(item)

    await run(Pool[int](concurrency=2), [0, 0, 1], work)
    assert seen == [0, 0, 1]


async def test_an_item_that_waits_for_its_retry_occupies_no_worker() -> None:
    ends: dict[int, float] = {}
    begin = anyio.current_time()

    async def work(item: int, worker: int) -> float | None:
        first = item == 0 and item not in ends
        ends[item] = anyio.current_time() - begin
        return 100 if first else None

    pool = Pool[int](concurrency=2)
    await run(pool, range(5), work)
    assert ends == {0: pytest.approx(100), 1: 0, 2: 0, 3: 0, 4: 0}


async def test_while_as_many_items_wait_as_there_are_workers_no_new_item_begins() -> None:
    order: list[int] = []
    delays = {0: 1.5, 1: 0.5}

    async def work(item: int, worker: int) -> float | None:
        order.append(item)
        await anyio.sleep(1)
        return delays.pop(item, None)

    await run(Pool[int](concurrency=1), range(4), work)
    # Only one item may wait at a time, so item 1 begins when item 0 has had its retry.
    assert order == [0, 0, 1, 1, 2, 3]


async def test_an_empty_source_ends_the_run() -> None:
    pool = Pool[int](concurrency=3)
    await run(pool, [], second)
    assert pool.leftovers == ()


async def test_due_retries_go_before_new_items_the_earliest_first() -> None:
    order: list[int] = []
    delays = {0: 6.0, 1: 4.0, 2: 2.0}

    async def work(item: int, worker: int) -> float | None:
        order.append(item)
        delay = delays.pop(item, None)
        await anyio.sleep(10 if item >= 3 else 0)
        return delay

    await run(Pool[int](concurrency=4), range(8), work)
    assert order == [0, 1, 2, 3, 4, 5, 6, 2, 1, 0, 7]


async def test_retries_due_at_the_same_moment_run_in_the_order_they_came() -> None:
    order: list[int] = []

    async def work(item: int, worker: int) -> float | None:
        order.append(item)
        return 5 if len(order) <= 3 else None

    await run(Pool[int](concurrency=4), range(3), work)
    assert order == [0, 1, 2, 0, 1, 2]


async def test_a_slow_source_delays_no_retry() -> None:
    times: list[float] = []
    begin = anyio.current_time()

    async def work(item: int, worker: int) -> float | None:
        times.append(anyio.current_time() - begin)
        return 1 if len(times) == 1 else None

    async with aclosing(numbers([1, 2], pause=50)) as source:
        await Pool[int](concurrency=2).run(source, work)
    assert times == [pytest.approx(50), pytest.approx(51), pytest.approx(100)]


async def test_workers_share_the_work_evenly() -> None:
    load: Counter[int] = Counter()

    async def work(item: int, worker: int) -> None:
        load[worker] += 1
        await anyio.sleep(1)

    await run(Pool[int](concurrency=5), range(100), work)
    assert load == dict.fromkeys(range(5), 20)


async def test_items_are_pulled_only_for_a_free_worker() -> None:
    pulled = 0

    async def source() -> AsyncGenerator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    pool = Pool[int](concurrency=3)
    async with aclosing(source()) as endless, anyio.create_task_group() as group:
        group.start_soon(pool.run, endless, second)
        await anyio.sleep(0.5)
        assert (pulled, pool.inflight, pool.retrying) == (3, 3, 0)
        await anyio.sleep(1)
        assert pulled == 6
        pool.drain()


async def test_an_outage_does_not_swallow_the_source() -> None:
    begun: set[int] = set()

    async def work(item: int, worker: int) -> float:
        begun.add(item)
        await anyio.sleep(0.1)
        return 1000

    pool = Pool[int](concurrency=8)
    async with aclosing(numbers(itertools.count())) as endless, anyio.create_task_group() as group:
        group.start_soon(pool.run, endless, work)
        await anyio.sleep(80_000)
        assert len(begun) < 16
        pool.drain()
    assert set(pool.leftovers) == begun


async def test_waiting_is_asleep_and_not_polling() -> None:
    asked = begun = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return anyio.current_time() + 1e6

    async def work(item: int, worker: int) -> float | None:
        nonlocal begun
        begun += 1
        await anyio.sleep(500)
        return 10_000 if begun <= 10 else None

    await run(Pool[int](concurrency=10, clock=clock), range(20), work)
    assert asked <= 150


# --- drain ------------------------------------------------------------------------------------------------


async def test_a_drain_ends_waiting_at_once_and_work_in_its_own_time() -> None:
    paid: list[int] = []
    begin = anyio.current_time()
    pool = Pool[int](concurrency=3)

    async def work(item: int, worker: int) -> float | None:
        if item == 0:
            await anyio.sleep(10)
            paid.append(item)
            return None
        with pool.waiting() as scope:
            await anyio.sleep(math.inf)
        assert scope.cancelled_caught
        assert anyio.current_time() - begin == pytest.approx(2)
        return 0.0

    async with anyio.create_task_group() as group:
        group.start_soon(run, pool, range(10), work)
        await anyio.sleep(2)
        pool.drain()
    assert anyio.current_time() - begin == pytest.approx(10)
    assert paid == [0]
    assert sorted(pool.leftovers) == [1, 2]


async def test_who_queues_for_quota_stops_at_once_and_takes_none() -> None:
    gate = Gate(rpm=1, ipm=None, tpm=None, rng=random.Random(1))
    pool = Pool[int](concurrency=5)
    sent: list[int] = []

    async def work(item: int, worker: int) -> float | None:
        with pool.waiting() as scope:
            await gate.enter(0)
        if scope.cancelled_caught:
            return 0.0
        await anyio.sleep(90)
        sent.append(item)
        return None

    begin = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(run, pool, range(10), work)
        await anyio.sleep(10)
        pool.drain()
    assert anyio.current_time() - begin == pytest.approx(90)
    assert sent == [0]
    assert sorted(pool.leftovers) == [1, 2, 3, 4]
    assert not pool._interruptible  # a night's waits are not remembered


async def test_a_wait_that_begins_after_a_drain_ends_at_once() -> None:
    pool = Pool[int](concurrency=1)

    async def work(item: int, worker: int) -> float | None:
        pool.drain()
        with pool.waiting() as scope:
            await anyio.sleep(math.inf)
        assert scope.cancelled_caught
        return None

    await run(pool, range(5), work)
    assert pool.leftovers == ()


async def test_a_drained_pool_begins_nothing() -> None:
    async def work(item: int, worker: int) -> None:
        raise AssertionError

    pool = Pool[int](concurrency=3)
    pool.drain()
    await run(pool, range(5), work)
    pool.drain()
    assert (pool.inflight, pool.retrying, pool.leftovers) == (0, 0, ())


@pytest.mark.parametrize("values", [range(1), range(9)], ids=["exhausted", "slow"])
async def test_a_drain_does_not_wait_for_the_source_or_for_a_retry(values: range) -> None:
    async def work(item: int, worker: int) -> float:
        return 3600

    pool = Pool[int](concurrency=2)
    begin = anyio.current_time()
    async with aclosing(numbers(values, pause=5)) as source, anyio.create_task_group() as group:
        group.start_soon(pool.run, source, work)
        await anyio.sleep(7)
        pool.drain()
    assert anyio.current_time() - begin == pytest.approx(7)
    assert pool.leftovers == (0,)


# --- errors and cancellation ------------------------------------------------------------------------------


async def test_an_error_of_work_is_raised_as_itself_and_cancels_the_others() -> None:
    ended: list[int] = []

    async def work(item: int, worker: int) -> None:
        if item == 2:
            raise OSError(28, "No space left on device")
        try:
            await anyio.sleep(math.inf)
        finally:
            ended.append(item)

    pool = Pool[int](concurrency=3)
    with pytest.raises(OSError, match="No space left") as caught:
        await run(pool, range(9), work)
    assert caught.value.__context__ is None
    assert sorted(ended) == [0, 1]
    assert pool.inflight == 0


async def test_several_errors_are_raised_as_a_group() -> None:
    async def work(item: int, worker: int) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        raise ValueError(item)

    with pytest.raises(ExceptionGroup) as caught:
        await run(Pool[int](concurrency=2), range(9), work)
    assert {str(error) for error in caught.value.exceptions} == {"0", "1"}


async def test_a_nested_group_of_one_is_unwrapped() -> None:
    async def fail() -> None:
        raise ValueError("deep")

    async def work(item: int, worker: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    with pytest.raises(ValueError, match="deep"):
        await run(Pool[int](concurrency=2), [7], work)


async def test_an_error_of_the_source_stops_the_pool() -> None:
    async def source() -> AsyncGenerator[int]:
        yield 1
        raise LookupError("row 2")

    async def work(item: int, worker: int) -> None:
        await anyio.sleep(math.inf)

    with pytest.raises(LookupError, match="row 2"):
        await Pool[int](concurrency=2).run(source(), work)


@pytest.mark.parametrize("moment", [0.0, 0.5, 2.5])
async def test_a_run_that_is_cancelled_from_outside_ends_at_once(moment: float) -> None:
    async def work(item: int, worker: int) -> float:
        await anyio.sleep(1)
        return 100

    pool = Pool[int](concurrency=3)
    begin = anyio.current_time()
    with anyio.move_on_after(moment) as scope:
        await run(pool, range(9), work)
    assert scope.cancelled_caught
    assert anyio.current_time() - begin == pytest.approx(moment)
    assert pool.inflight == 0


async def test_a_pool_without_workers_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        Pool[int](concurrency=0)


# --- spare time, and what nobody waits for ----------------------------------------------------------------


async def test_a_worker_with_nothing_to_do_takes_what_there_is_in_spare_time() -> None:
    begun: list[tuple[float, int]] = []
    late = [7]

    async def work(item: int, worker: int) -> None:
        begun.append((anyio.current_time() - start, item))
        await anyio.sleep(10 if item == 0 else 1)

    def spare() -> int | None:
        return late.pop() if late and anyio.current_time() >= start + 5 else None

    start = anyio.current_time()
    await run(Pool(concurrency=2, spare=spare), range(3), work)
    assert begun == [(0, 0), (0, 1), (1, 2), (5, 7)]


async def test_no_worker_is_spared_for_which_there_is_an_item_or_a_retry_to_come() -> None:
    asked: list[float] = []

    async def work(item: int, worker: int) -> float | None:
        await anyio.sleep(1)
        return 6.0 if item == 0 and anyio.current_time() < start + 2 else None

    def spare() -> None:
        asked.append(anyio.current_time() - start)

    start = anyio.current_time()
    await run(Pool(concurrency=1, spare=spare), range(1), work)
    assert asked == []
    start = anyio.current_time()
    await run(Pool(concurrency=2, spare=spare), range(1, 6), work)
    assert min(asked) == 2, "while there were items"
    asked.clear()
    start = anyio.current_time()
    async with aclosing(numbers(range(1, 3), pause=4.0)) as source:
        pool: Pool[int] = Pool(concurrency=2, spare=spare)
        await pool.run(source, work)
    assert min(asked) == 1, "a source that is silent for a second leaves workers idle"


async def test_what_nobody_waits_for_is_cut_off_when_all_else_is_done() -> None:
    pool: Pool[int] = Pool(concurrency=3)
    ended: dict[int, float] = {}

    async def work(item: int, worker: int) -> None:
        scope = anyio.CancelScope()
        with pool.holding(scope):
            if item < 2:
                pool.let_go(scope)
            await anyio.sleep([2, 100, 5][item])
        ended[item] = anyio.current_time() - start

    start = anyio.current_time()
    await run(pool, range(3), work)
    assert ended == {0: 2, 1: 5, 2: 5}


async def test_a_drain_waits_for_nothing_that_nobody_waits_for() -> None:
    pool: Pool[int] = Pool(concurrency=1)

    async def work(item: int, worker: int) -> None:
        scope = anyio.CancelScope()
        with pool.holding(scope):
            pool.let_go(scope)
            await anyio.sleep(100)

    async def drain() -> None:
        await anyio.sleep(3)
        pool.drain()

    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(drain)
        await run(pool, itertools.count(), work)
    assert anyio.current_time() - start == 3
