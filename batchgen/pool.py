"""
Which task runs next, and where?

A fixed number of workers; whoever is free takes the retry that is due, else a new item. The pool does not
know what an item is: `work` makes one attempt and says whether the item is finished.
"""

from __future__ import annotations

import heapq
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

T = TypeVar("T")


class Pool(Generic[T]):
    """
    Runs items of one source on `concurrency` workers, once; a second run needs a second pool.

    No new item begins while `concurrency` items wait for their retry, so the pool never holds more than twice
    as many, however long an outage lasts. `clock` runs at the pace of `anyio.current_time`.
    """

    def __init__(self, *, concurrency: int, clock: Callable[[], float] = anyio.current_time) -> None:
        if concurrency < 1:
            raise ValueError(f"a pool has at least one worker, not {concurrency}")
        self._concurrency = concurrency
        self._clock = clock
        self._inflight = 0
        self._retries: list[tuple[float, int, T]] = []
        self._returned = 0
        self._fresh: list[T] = []
        """The item that was pulled and not yet begun, if any."""
        self._exhausted = False
        self._draining = False
        self._turn = anyio.Lock(fast_acquire=True)
        self._news = anyio.Event()
        self._hungry = anyio.Event()
        self._interruptible: set[anyio.CancelScope] = set()

    @property
    def inflight(self) -> int:
        """Items at work."""
        return self._inflight

    @property
    def retrying(self) -> int:
        """Items that wait for their next attempt."""
        return len(self._retries)

    @property
    def leftovers(self) -> tuple[T, ...]:
        """The items that wait for their next attempt, the earliest due first; final after a drain."""
        return tuple(item for _, _, item in sorted(self._retries, key=lambda retry: retry[:2]))

    async def run(self, source: AsyncIterator[T], work: Callable[[T, int], Awaitable[float | None]]) -> None:
        """
        Work until the source is exhausted and no item waits, or until drained.

        `work(item, worker)` makes one attempt; worker counts from 0. It returns None when the item is
        finished, or the seconds after which the item wants its next attempt. An error of `work` or of the
        source cancels everything and is raised as itself, several at once as a group. An item is pulled when
        a worker is free for it; closing the source is the caller's business.
        """
        failure: BaseException
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._pull, source)
                for worker in range(self._concurrency):
                    group.start_soon(self._work, worker, work)
        except BaseExceptionGroup as several:
            failure = several
            while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
                failure = failure.exceptions[0]
        else:
            return
        raise failure  # outside of the handler, so that the group does not become its context

    def drain(self) -> None:
        """Begin nothing more, neither new items nor retries; `run` returns when what is at work has ended."""
        self._draining = True
        for scope in self._interruptible:
            scope.cancel()
        self._news.set()

    @contextmanager
    def waiting(self) -> Iterator[anyio.CancelScope]:
        """
        Mark a phase of `work` that a drain cancels, as waiting for quota.

        The scope's `cancelled_caught` tells afterwards whether it did.
        """
        with anyio.CancelScope() as scope:
            self._interruptible.add(scope)
            try:
                if self._draining:
                    scope.cancel()
                yield scope
            finally:
                self._interruptible.discard(scope)

    async def _pull(self, source: AsyncIterator[T]) -> None:
        """
        Pull one item each time a worker is hungry.

        In a task of its own, so that a slow source delays no retry.
        """
        with self.waiting():
            while True:
                await self._hungry.wait()
                try:
                    self._fresh.append(await anext(source))
                    self._hungry = anyio.Event()
                except StopAsyncIteration:
                    self._exhausted = True
                    return
                finally:
                    self._news.set()

    async def _work(self, worker: int, work: Callable[[T, int], Awaitable[float | None]]) -> None:
        while found := await self._next():
            (item,) = found
            try:
                delay = await work(item, worker)
            finally:
                self._inflight -= 1
            if delay is not None:
                self._returned += 1
                heapq.heappush(self._retries, (self._clock() + delay, self._returned, item))
            self._news.set()

    async def _next(self) -> tuple[T] | None:
        """Wait for an item to begin, one worker at a time; None when there will be none."""
        async with self._turn:
            while not self._over():
                wait = self._retries[0][0] - self._clock() if self._retries else math.inf
                if wait <= 0:
                    self._inflight += 1
                    return (heapq.heappop(self._retries)[2],)
                if len(self._retries) < self._concurrency:
                    if self._fresh:
                        self._inflight += 1
                        return (self._fresh.pop(),)
                    self._hungry.set()
                self._news = anyio.Event()
                with anyio.move_on_after(wait):
                    await self._news.wait()
            return None

    def _over(self) -> bool:
        # What is at work has its worker, who stays for its retries: the others may go.
        return self._draining or (self._exhausted and not self._retries)
