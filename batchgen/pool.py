"""
Which task runs next, and where?

A fixed number of workers; whoever is free takes the retry that is due, else a new item. The pool does not
know what an item is: `work` makes one attempt and says whether the item is finished.

Workers with nothing to do may be given something that is worth doing in spare time (`spare`), and work that
nobody waits for any more is cut off when it is all that keeps the pool from ending (`let_go`).
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

_LOOK = 1.0
"""Seconds between two looks for something to do in spare time; a source silent for as long has nothing."""


class Pool(Generic[T]):
    """
    Runs items of one source on `concurrency` workers, once; a second run needs a second pool.

    No new item begins while `concurrency` items wait for their retry, so the pool never holds more than twice
    as many, however long an outage lasts. `clock` runs at the pace of `anyio.current_time`.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        clock: Callable[[], float] = anyio.current_time,
        spare: Callable[[], T | None] | None = None,
    ) -> None:
        """
        Make a pool that is not at work yet.

        :param spare: gives an item that is at work and worth a second worker, if any; asked when there is
            nothing else to do and a worker is left for every retry to come. What `work` says of it is heeded
            as for the first.
        """
        if concurrency < 1:
            raise ValueError(f"a pool has at least one worker, not {concurrency}")
        self._concurrency = concurrency
        self._clock = clock
        self._spare = spare
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
        self._hungry_since = math.inf
        """Since when the source is asked in vain."""
        self._interruptible: set[anyio.CancelScope] = set()
        self._loose: set[anyio.CancelScope] = set()

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
        self._sever()

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

    @contextmanager
    def holding(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Mark the phase of `work` that `let_go` may end."""
        with scope:
            try:
                yield
            finally:
                self._loose.discard(scope)

    def let_go(self, scope: anyio.CancelScope) -> None:
        """Say that nobody waits for what a scope holds: it is cancelled when all else is done."""
        self._loose.add(scope)
        self._sever()

    def _sever(self) -> None:
        over = self._draining or (self._exhausted and not self._retries)
        if over and self._inflight == len(self._loose):
            for scope in self._loose:
                scope.cancel()

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
                    self._hungry, self._hungry_since = anyio.Event(), math.inf
                except StopAsyncIteration:
                    self._exhausted = True
                    self._sever()
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
            self._sever()

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
                    self._hungry_since = min(self._hungry_since, self._clock())
                if self._spare is not None:
                    item = self._spare() if self._is_idle() else None
                    if item is not None:
                        self._inflight += 1
                        return (item,)
                    wait = min(wait, _LOOK)
                self._news = anyio.Event()
                with anyio.move_on_after(wait):
                    await self._news.wait()
            return None

    def _is_idle(self) -> bool:
        """Whether this worker is needed neither for the source nor for a retry."""
        silent = self._exhausted or self._clock() >= self._hungry_since + _LOOK
        return silent and self._inflight + len(self._retries) < self._concurrency

    def _over(self) -> bool:
        if self._draining:
            return True
        # What is at work has its worker, who stays for its retries: the others may go, but for spare time.
        kept = self._spare is not None and self._inflight > len(self._loose)
        return self._exhausted and not self._retries and not kept
