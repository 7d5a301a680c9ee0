"""
How would the night go?

The real run, in virtual time, against the simulated endpoint: the same purchase, pool, gate, budget and
rules, the same manifest with the fates that its ledger tells, and a ledger of its own, on a copy. Only
`StandIn` is in the place of the workers, so nothing is sent and nothing is painted; the run directory is only
read.

One whole night tells the middle. The spread comes from more nights with other dice: whole ones where that is
little work, else nights of an even sample of the rows (see `spread`).
"""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
import time
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec

from batchgen import conditions, depot, disk, plan, providers, recovery, runner
from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen.clock import VirtualTimeLoop
from batchgen.conditions import RECENT
from batchgen.errors import DamagedError, StorageError
from batchgen.job import LEDGER, MANIFEST
from batchgen.ledger import Ledger, Reader
from batchgen.lock import is_held
from batchgen.manifest import Finished
from batchgen.purchase import Purchase
from batchgen.records import ErrorClass
from batchgen.references import References
from batchgen.selection import Fate, fate, selected
from batchgen.simulator import Endpoint
from batchgen.spread import Night, summed
from batchgen.standin import StandIn
from batchgen.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from batchgen.conditions import Conditions, Wishes
    from batchgen.depot import Seen
    from batchgen.job import Job
    from batchgen.records import Outcome, Task
    from batchgen.spread import Rehearsed
    from batchgen.store import Pictures

    T = TypeVar("T")

_SPREAD = 20_000
"""Requests that all nights after the first may take together."""
_LEAST = 2
"""Of those nights, where they must be whole however long they are."""
_TELL_EVERY = 500
_LIMITED = frozenset({ErrorClass.RATE, ErrorClass.DAILY_QUOTA})


def rehearse(
    job: Job,
    wishes: Wishes,
    *,
    nights: int,
    progress: Callable[[float], None] | None = None,
    wall: Callable[[], float] = time.time,
) -> Rehearsed:
    """
    Rehearse a job so many times; no key is needed. The same again gives the same, but for daily quotas.

    :param progress: told now and then which share of the work is done.
    :param wall: seconds since 1970: when the night begins.
    :raises InputError: the job or its manifest cannot be run, or nobody can be as the wishes are.
    :raises StorageError: there is no room for a copy of the ledger.
    """
    job = jobs.checked(job)
    with (
        depot.seen(jobs.place(job), new=True) as seen,
        tempfile.TemporaryDirectory(prefix="batchgen-") as scratch,
        _explained(scratch),
    ):
        stage = _Stage(job, wishes, seen, Path(scratch), begin=wall())
        return stage.play(nights, progress or (lambda _: None))


@contextmanager
def _explained(scratch: str) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise StorageError(
            f"{scratch}: {cause.strerror}; make room there, or name another folder in TMPDIR"
        ) from cause
    except StorageError as cause:
        if scratch not in str(cause):
            raise
        raise StorageError(f"{cause}, or name another folder in TMPDIR") from cause


@contextmanager
def _named(directory: Path, scratch: Path) -> Iterator[None]:
    """Say what is wrong with the copy of a ledger of the ledger itself."""
    try:
        yield
    except DamagedError as cause:
        raise DamagedError(str(cause).replace(str(scratch), str(directory))) from cause


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """A fifth of a night's work would be looking for cycles, of which it makes few."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _inline(call: Callable[[], T], /) -> T:
    """Run a blocking call where it stands: virtual time knows no threads."""
    return call()


class _Stage:
    """A job, what its directory knows, and what the endpoint is taken to be like."""

    def __init__(self, job: Job, wishes: Wishes, seen: Seen, scratch: Path, *, begin: float) -> None:
        self._begin = begin
        self._scratch = scratch
        self._endpoint = plan.checked(job, None)
        directory = seen.directory
        only = None if job.only is None else manifests.read_ids(job.only)
        self._ledger = scratch / LEDGER
        _copy(directory / LEDGER, self._ledger)
        with (
            _named(directory, scratch),
            closing(self._open(self._ledger)) as ledger,
            closing(Reader(self._ledger)) as reader,
        ):
            reader.check()
            plan.check_not_mixed(jobs.place(job), self._endpoint, reader)
            self._manifest = plan.read_manifest(job, self._endpoint, scratch / MANIFEST, References())
            self._recover(ledger, reader, seen.pictures)
            runner.take_up_again(job, self._manifest, ledger, reader, only)
            self._job = msgspec.structs.replace(job, again=False, retry_failed=False)
            self.rows = plan.left(self._job, self._endpoint, self._manifest, reader, only).tasks
            self._only = only
            self._spent = reader.totals().counted_usd
            space = plan.space_for(self._endpoint, self._manifest, reader, scratch)
            self._picture = int(space.picture)
            self._space = disk.Space(
                directory=scratch,
                picture=space.picture,
                reserve=0,
                look=lambda _: disk.Free(bytes=None, files=None),
            )
            models = {model for batch in self._manifest.batches() for model in set(batch.models)}
            known = (providers.model_of(self._endpoint.provider, model) for model in models)
            self._priced = all(model.price is not None for model in known)
            simulated = self._endpoint.provider.simulated and job.simulator
            self._conditions: Conditions = conditions.expected(
                wishes,
                reader.attempted(self._endpoint.provider.name, most=RECENT),
                models,
                settings=plan.settings(job) if simulated else None,
                timeout=job.timeout,
            )

    @staticmethod
    def _open(path: Path) -> Ledger:
        return Ledger(path, blocking=_inline, durable=False)

    def _recover(self, ledger: Ledger, reader: Reader, store: Pictures) -> None:
        """Take over, on the copy, what a dead run left, as the next run would."""
        now = int(self._begin * 1e6)
        ledger.recover(now=now)
        ledger.adopt(recovery.recognised(reader, store), now=now)

    def play(self, nights: int, progress: Callable[[float], None]) -> Rehearsed:
        """One whole night, then the others, and what they come to."""
        work = _Work(progress, self.rows + min(_SPREAD, (nights - 1) * self.rows))
        whole = [self._night(0, self._only, work)]
        first = whole[0]
        each = _SPREAD // max(1, nights - 1)
        comparable = first.stopped is None or first.stopped.reason == "budget"
        if first.requests <= each or self._manifest.levels > 1 or not comparable:
            more = min(nights - 1, max(_LEAST, _SPREAD // max(1, first.requests)))
            work.total = work.done + more * first.requests
            whole += [self._night(seed, self._only, work) for seed in range(1, 1 + more)]
            return self._told(whole, (), 0)
        ids, sample = self._sampled(each)
        work.total = work.done + (nights - 1) * sample
        parts = [self._night(seed, ids, work) for seed in range(1, nights)]
        return self._told(whole, parts, sample)

    def _told(self, whole: Sequence[Night], parts: Sequence[Night], sample: int) -> Rehearsed:
        left = None if self._job.budget is None else float(Decimal(str(self._job.budget)) - self._spent)
        return summed(
            self._job,
            self._conditions,
            whole,
            parts,
            directory=jobs.place(self._job),
            rows=self.rows,
            sample=sample,
            priced=self._priced,
            affordable=left,
        )

    def _sampled(self, count: int) -> tuple[frozenset[str], int]:
        """The ids of about so many tasks that are to be bought, evenly taken, and how many tasks that is."""
        step, at, tasks = self.rows / count, 0, 0
        ids: set[str] = set()
        with closing(Reader(self._ledger)) as reader:
            for batch, chosen in selected(self._job, self._manifest, reader, self._only):
                for index, state, _ in chosen:
                    if fate(self._job, state) is Fate.BUY:
                        if at % step < 1:
                            ids.add(batch.ids[index])
                        tasks += batch.ids[index] in ids
                        at += 1
        return frozenset(ids), tasks

    def _night(self, seed: int, only: frozenset[str] | None, work: _Work) -> Night:
        path = self._scratch / f"night-{seed}.db"
        shutil.copyfile(self._ledger, path)
        tally = _Tally(work)
        try:
            with closing(self._open(path)) as ledger, closing(Reader(path)) as reader:
                purchase = self._purchase(seed, only, ledger, reader, tally)
                with _collecting_seldom():
                    anyio.run(
                        tally.timed, purchase.carry_out, backend_options={"loop_factory": VirtualTimeLoop}
                    )
        finally:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        return Night(
            seconds=tally.seconds,
            requests=purchase.counts.requests,
            limited=tally.limited,
            retries=tally.retries,
            succeeded=purchase.counts.succeeded,
            failed=purchase.counts.failed + purchase.feed.orphaned,
            cost_usd=purchase.counts.run_usd,
            busy=tally.busy,
            stopped=purchase.stop,
        )

    def _purchase(
        self, seed: int, only: frozenset[str] | None, ledger: Ledger, reader: Reader, tally: _Tally
    ) -> Purchase:
        job, known = self._job, self._conditions
        settings = msgspec.structs.replace(known.settings, seed=known.settings.seed + seed)
        endpoint = Endpoint(settings, clock=anyio.current_time)

        def wall() -> float:
            return self._begin + anyio.current_time()

        stand_in = StandIn(
            endpoint,
            providers.models_of(self._endpoint.provider),
            provider=self._endpoint.provider,
            tokens=known.tokens,
            timeout=job.timeout,
            picture=self._picture,
            wall=wall,
            seed=seed,
            ended=tally.ended,
        )
        return Purchase(
            job,
            self._endpoint,
            manifest=self._manifest,
            ledger=ledger,
            reader=reader,
            store=Store(self._scratch),
            disk=disk.Disk(self._space, blocking=_inline),
            crew=stand_in,
            check=lambda: None,
            spent=self._spent,
            only=only,
            finished=Finished(),
            on_progress=None,
            on_event=lambda _: None,
            signals=False,
            rng=random.Random(seed),
            wall=wall,
            blocking=_inline,
        )


class _Work:
    """How much of all nights is done, in requests."""

    def __init__(self, progress: Callable[[float], None], total: int) -> None:
        self.total = total
        self.done = 0
        self._progress = progress

    def step(self) -> None:
        self.done += 1
        if self.done % _TELL_EVERY == 0:
            self._progress(min(1.0, self.done / max(1, self.total)))


class _Tally:
    """What the attempts of one night come to."""

    def __init__(self, work: _Work) -> None:
        self.seconds = self.busy = 0.0
        self.limited = self.retries = 0
        self._again: set[str] = set()
        """Keys of tasks whose last answer was a failure."""
        self._work = work

    async def timed(self, night: Callable[[], Awaitable[None]]) -> None:
        """Carry out a night that begins at zero."""
        await night()
        self.seconds = anyio.current_time()

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Count an attempt."""
        self.busy += outcome.latency
        self._work.step()
        if task.key in self._again:
            self._again.discard(task.key)
            self.retries += 1
        if outcome.kind in _LIMITED:
            self.limited += 1
        elif outcome.kind is not None:
            self._again.add(task.key)


def _copy(source: Path, target: Path) -> None:
    """
    Take a copy of the ledger, as it stands, without touching it.

    :raises DamagedError: it is gone, and what it told of is not.
    """
    recovery.check_not_lost(source)
    if not source.is_file():
        return
    if is_held(source.parent):
        with closing(Reader(source)) as reader:
            reader.copy(target)
        return
    # To open it would fold the log of a dead run into it.
    for suffix in ("", "-wal"):
        path = source.with_name(source.name + suffix)
        if path.is_file():
            shutil.copyfile(path, target.with_name(target.name + suffix))
