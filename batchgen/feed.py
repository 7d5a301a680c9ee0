"""
Which task is bought next?

Rows come as `selection` has them; those that continue others come after them. A child of what is still in
flight is set aside, some of them at a time, and goes as soon as its parent has its picture.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from batchgen import events
from batchgen.ledger import Orphan
from batchgen.lineage import Lineage
from batchgen.records import ErrorClass, Status
from batchgen.selection import UNSEEN, Fate, fate, selected
from batchgen.store import safe_stem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from batchgen.job import Job
    from batchgen.ledger import Ledger, Reader, Standing, State
    from batchgen.manifest import Batch, Finished, Manifest
    from batchgen.records import Task
    from batchgen.worker import Blocking

_ORPHANS_AT_ONCE = 256


class Offer(NamedTuple):
    """A task that is to be bought."""

    task: Task
    state: State | None
    parent_sha: str | None = None
    """Of the picture it continues."""


class _Row:
    """A task of a manifest with parents, until it is known what becomes of it."""

    __slots__ = ("_source", "key", "parent", "parent_key", "parent_row", "state", "unsure")

    def __init__(
        self, batch: Batch, index: int, state: State | None, parent: Standing | None, unsure: frozenset[str]
    ) -> None:
        self._source: tuple[Batch, int] | Task = (batch, index)
        self.key = batch.keys[index]
        self.state = state
        self.parent = parent
        self.parent_key = batch.parents[index] or ""
        self.parent_row = batch.parent_rows[index] or 0
        self.unsure = self.parent_key in unsure
        """Whether `parent` was looked up while that one was on its way."""

    def task(self) -> Task:
        if isinstance(self._source, tuple):
            batch, index = self._source
            self._source = batch.task(index)
        return self._source


class Feed:
    """The tasks of one run, one after the other, none of them twice."""

    def __init__(
        self,
        job: Job,
        manifest: Manifest,
        reader: Reader,
        only: frozenset[str] | None,
        *,
        finished: Finished,
        ledger: Ledger,
        provider: str,
        address: Callable[[str], str],
        room: int,
        blocking: Blocking,
        now: Callable[[], int],
        tell: Callable[[events.Event], None],
    ) -> None:
        """
        Begin with the first one.

        :param finished: what is left as it is without a look.
        :param address: how a picture of the run is named to whoever is to read it.
        :param room: children that are set aside at most.
        :param blocking: runs a blocking call off the event loop.
        :param now: microseconds since 1970.
        :param tell: takes what becomes of tasks for which nothing is sent.
        """
        self.skipped = finished.tasks
        """Tasks that were left as they were."""
        self.unsuccessful = finished.tasks - finished.statuses.get(Status.SUCCEEDED, 0)
        """Of those, the ones without success."""
        self.orphaned = 0
        """Tasks that failed because what they continue has no picture."""
        self.waiting = 0
        """Tasks that stay pending because what they continue is no part of this run."""
        # What it was to buy anew is pending by now.
        self._job = msgspec.structs.replace(job, again=False, retry_failed=False)
        self._chained = manifest.levels > 1
        self._batches = selected(self._job, manifest, reader, only, without=finished)
        self._rows: Iterator[_Row] = iter(())
        self._reader = reader
        self._ledger = ledger
        self._provider = provider
        self._lineage = Lineage(manifest, reader, address)
        self._room = room
        self._blocking = blocking
        self._now = now
        self._tell = tell
        self._busy: set[str] = set()
        """Keys of what is on its way or set aside."""
        self._aside: dict[str, list[_Row]] = {}
        """By the key of what they wait for."""
        self._held = 0
        self._ready: deque[_Row] = deque()
        self._orphans: list[tuple[Task, Orphan]] = []
        self._latest: tuple[str, Standing] = ("", UNSEEN)
        self._landed = anyio.Event()

    def ended(self, key: str) -> None:
        """Say that an offered task is on its way no more."""
        self._busy.discard(key)
        rows = self._aside.pop(key, ())
        self._held -= len(rows)
        self._ready += rows
        self._landed.set()

    async def offers(self) -> AsyncGenerator[Offer, None]:
        """Everything that is to be bought, read no further ahead than it is needed."""
        while not self._chained and (found := await self._more()) is not None:
            batch, chosen = found
            for index, state, _ in chosen:
                kind = fate(self._job, state)
                if kind is Fate.BUY:
                    yield Offer(batch.task(index), state)
                elif kind is Fate.GIVE_UP:
                    await self._give_up(batch.task(index))
                else:
                    self._leave(state)
        while self._chained and (row := await self._next()) is not None:
            offer = await self._offer(row)
            if offer is not None:
                yield offer

    async def _more(self) -> tuple[Batch, list[tuple[int, State | None, Standing | None]]] | None:
        return await self._blocking(lambda: next(self._batches, None))

    async def _give_up(self, task: Task) -> None:
        await self._ledger.give_up(task.key)
        self._tell(events.unsent(task, Status.UNCERTAIN, ErrorClass.UNCERTAIN, "not asked for once more"))
        self.skipped += 1
        self.unsuccessful += 1

    def _leave(self, state: State | None) -> None:
        self.skipped += 1
        self.unsuccessful += state is not None and state.status is not Status.SUCCEEDED

    async def _next(self) -> _Row | None:
        """The next row whose parent is not on its way; waits where there is none but others to come."""
        while not self._ready:
            row = await self._read() if self._held < self._room else None
            if row is None:
                await self._flush()
                if self._ready:
                    break  # what they waited for has landed meanwhile
                if not self._aside:
                    return None
                self._landed = anyio.Event()
                await self._landed.wait()
            elif row.parent is None or row.parent_key not in self._busy:
                return row
            else:
                row.task()  # so that its batch is not held along with it
                self._aside.setdefault(row.parent_key, []).append(row)
                self._held += 1
                self._busy.add(row.key)
        return self._ready.popleft()

    async def _read(self) -> _Row | None:
        while (row := next(self._rows, None)) is None:
            await self._flush()
            unsure = frozenset(self._busy)
            found = await self._more()
            if found is None:
                return None
            batch, chosen = found
            self._rows = (_Row(batch, index, state, parent, unsure) for index, state, parent in chosen)
        return row

    async def _offer(self, row: _Row) -> Offer | None:
        """What is to be bought for a row, if anything."""
        parent = row.parent
        if parent is not None and (row.unsure or row.key in self._busy):
            parent = await self._standing(row.parent_key)
        kind = fate(self._job, row.state, parent)
        if kind is Fate.BUY:
            self._busy.add(row.key)
            if parent is None:
                return Offer(row.task(), row.state)
            return await self._blocking(lambda: self._continued(row))
        if kind is Fate.ORPHAN and parent is not None:
            self._orphans.append((row.task(), _orphan(row.task(), parent)))
            if len(self._orphans) >= _ORPHANS_AT_ONCE:
                await self._flush()
        elif kind is Fate.WAIT:
            self.waiting += 1
        elif kind is Fate.GIVE_UP:
            await self._give_up(row.task())
        else:
            self._leave(row.state)
        if row.key in self._busy:
            self.ended(row.key)
        return None

    def _continued(self, row: _Row) -> Offer:
        task = self._lineage.continued(row.task(), row.parent_row, row.parent_key)
        return Offer(task, row.state, task.references[0].sha256)

    async def _standing(self, key: str) -> Standing:
        """What has become of a parent in this run; its children come one after the other."""
        if self._latest[0] != key:
            await self._flush()
            found = await self._blocking(lambda: self._reader.standings([key]))
            self._latest = key, found.get(key, UNSEEN)
        return self._latest[1]

    async def _flush(self) -> None:
        if self._orphans:
            orphans, self._orphans = self._orphans, []
            noted = [orphan for _, orphan in orphans]
            await self._ledger.orphan(noted, provider=self._provider, now=self._now())
            self.orphaned += len(orphans)
            for task, orphan in orphans:
                self._tell(events.unsent(task, Status.FAILED, ErrorClass.PARENT_FAILED, orphan.message))


def _orphan(task: Task, parent: Standing) -> Orphan:
    return Orphan(
        key=task.key,
        row_id=task.id,
        stem=safe_stem(task.name),
        model=task.model,
        message=f"row {parent.id}, which it continues, has no picture ({parent.status})",
    )
