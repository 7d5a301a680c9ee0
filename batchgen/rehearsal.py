"""
How would the night go?

The real run, in virtual time, against the simulated endpoint: the same purchase, pool, gate, budget and
rules, the same manifest with the fates that its ledger tells, and a ledger of its own, on a copy. Only
`StandIn` is in the place of the workers, so nothing is sent and nothing is painted; the run directory is only
read.

One whole night tells the middle. The spread comes from more nights with other dice: whole ones where that is
little work, else nights of an even sample of the rows. What a night comes to is a sum over its rows, so the
spread of a sample of n rows of N grows with the square root of N / n.
"""

from __future__ import annotations

import gc
import math
import random
import shutil
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec

from batchgen import conditions, disk, plan, providers, recovery, runner
from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen.clock import VirtualTimeLoop
from batchgen.conditions import RECENT, Assumption
from batchgen.errors import DamagedError, StorageError
from batchgen.job import LEDGER, MANIFEST
from batchgen.ledger import Ledger, Reader
from batchgen.lock import is_held
from batchgen.purchase import Purchase, Stop
from batchgen.records import ErrorClass, Value
from batchgen.references import References
from batchgen.selection import Fate, fate, selected
from batchgen.simulator import Endpoint
from batchgen.standin import StandIn
from batchgen.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from batchgen.conditions import Conditions, Wishes
    from batchgen.job import Job
    from batchgen.records import Model, Outcome, Task
    from batchgen.simulator import Settings

    T = TypeVar("T")

_SPREAD = 20_000
"""Requests that all nights after the first may take together."""
_LEAST = 2
"""Of those nights, where they must be whole however long they are."""
_TELL_EVERY = 500
_MANY, _BUSY, _SPARE = 10, 0.95, 1.1
"""Rows a worker from which the end of a night, where some have nothing to do, does not matter; the share of
workers at work that is all of them; how many more than the mean must be in flight for a quota to be used."""
_LIMITED = frozenset({ErrorClass.RATE, ErrorClass.DAILY_QUOTA})


class Night(Value, frozen=True, kw_only=True):
    """What one rehearsed night came to."""

    seconds: float
    requests: int
    limited: int
    """Requests that were answered 429."""
    retries: int
    """Requests after a failure of the same row that was no 429."""
    succeeded: int
    failed: int
    """Rows that failed for good."""
    cost_usd: Decimal
    busy: float
    """Seconds of all requests together."""
    stopped: Stop | None


class Range(Value, frozen=True, kw_only=True):
    """A number over the nights: of a hundred such nights, 5, 50 and 95 come to no more."""

    p5: float
    p50: float
    p95: float


class Money(Value, frozen=True, kw_only=True):
    """The same in USD."""

    p5: Decimal
    p50: Decimal
    p95: Decimal


class Bottleneck(StrEnum):
    """What keeps a night from being faster."""

    CONCURRENCY = "concurrency"
    QUOTA = "quota"


class Rehearsed(Value, frozen=True, kw_only=True):
    """What the nights came to."""

    manifest: str
    directory: str
    rows: int
    """Tasks that are to be bought."""
    nights: int
    whole: int
    """Of those, the ones of all rows; the others were of `sample`."""
    sample: int
    concurrency: int
    seconds: Range
    requests: Range
    limited: Range
    retries: Range
    succeeded: Range
    failed: Range
    cost_usd: Money
    in_flight: float
    """Requests at once, in the mean."""
    latency: float
    """Seconds of a request, in the mean."""
    stopped: tuple[tuple[str, int], ...]
    """Why whole nights ended before their rows did: reason, and how many."""
    stop: Stop | None
    """One of those."""
    quota: float | None
    """Requests a minute, the lower of the endpoint's and our own limit."""
    bottleneck: Bottleneck | None
    """None where too few rows, or something else, decides."""
    fitting: int | None
    """The concurrency with which the quota is used up and none of it waits, where that is another one."""
    slower: float | None
    """Requests a minute of our own with which next to none would be answered 429, where many are."""
    priced: bool
    """Whether the models have a price."""
    assumptions: tuple[Assumption, ...]


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
    with tempfile.TemporaryDirectory(prefix="batchgen-") as scratch, _explained(scratch):
        stage = _Stage(job, wishes, Path(scratch), begin=wall())
        return stage.play(nights, progress or (lambda _: None))


@contextmanager
def _explained(scratch: str) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise StorageError(
            f"{scratch}: {cause.strerror}; make room there, or name another folder in TMPDIR"
        ) from cause


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

    def __init__(self, job: Job, wishes: Wishes, scratch: Path, *, begin: float) -> None:
        self._begin = begin
        self._scratch = scratch
        self._endpoint = plan.checked(job, None)
        directory = jobs.directory(job)
        only = None if job.only is None else manifests.read_ids(job.only)
        self._ledger = scratch / LEDGER
        _copy(directory / LEDGER, self._ledger)
        with (
            _named(directory, scratch),
            closing(self._open(self._ledger)) as ledger,
            closing(Reader(self._ledger)) as reader,
        ):
            reader.check()
            plan.check_not_mixed(directory, self._endpoint, reader)
            self._manifest = plan.read_manifest(job, self._endpoint, scratch / MANIFEST, References())
            self._recover(ledger, reader, Store(directory))
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

    def _recover(self, ledger: Ledger, reader: Reader, store: Store) -> None:
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
            return self._summed(whole, (), 0)
        ids, sample = self._sampled(each)
        work.total = work.done + (nights - 1) * sample
        parts = [self._night(seed, ids, work) for seed in range(1, nights)]
        return self._summed(whole, parts, sample)

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

        def stand_in(models: Callable[[str], Model]) -> StandIn:
            return StandIn(
                endpoint,
                models,
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
            references=References(),
            store=Store(self._scratch),
            space=self._space,
            spent=self._spent,
            only=only,
            transport=None,
            on_progress=None,
            signals=False,
            rng=random.Random(seed),
            wall=wall,
            blocking=_inline,
            stand_in=stand_in,
        )

    def _summed(self, whole: Sequence[Night], parts: Sequence[Night], sample: int) -> Rehearsed:
        def over(each: Callable[[Night], float]) -> Range:
            values = [each(night) for night in whole]
            if parts:
                values = _grown(values[0], [each(night) for night in parts], self.rows / max(1, sample))
            return _ranged(values)

        seconds, busy = (sum(map(of, whole)) for of in (_seconds, _busy))
        requests = sum(night.requests for night in whole)
        stops = [night.stopped for night in whole if night.stopped is not None]
        settings, job = self._conditions.settings, self._job
        limits = [limit for limit in (job.rpm, job.ipm, settings.rpm, settings.ipm) if limit is not None]
        quota = min(limits, default=None)
        in_flight, latency = (busy / over if over else 0.0 for over in (seconds, requests))
        bottleneck, fitting = _held_up(
            job.concurrency, quota, rows=self.rows, in_flight=in_flight, latency=latency
        )
        return Rehearsed(
            manifest=self._job.manifest,
            directory=str(jobs.directory(self._job)),
            rows=self.rows,
            nights=len(whole) + len(parts),
            whole=len(whole),
            sample=sample,
            concurrency=self._job.concurrency,
            seconds=over(_seconds),
            requests=over(lambda night: night.requests),
            limited=over(lambda night: night.limited),
            retries=over(lambda night: night.retries),
            succeeded=over(lambda night: night.succeeded),
            failed=over(lambda night: night.failed),
            cost_usd=self._money(over(lambda night: float(night.cost_usd))),
            in_flight=in_flight,
            latency=latency,
            stopped=tuple(Counter(stop.reason for stop in stops).most_common()),
            stop=stops[0] if stops else None,
            quota=quota,
            bottleneck=bottleneck,
            fitting=fitting,
            slower=_slower(whole, settings),
            priced=self._priced,
            assumptions=self._conditions.assumptions,
        )

    def _money(self, found: Range) -> Money:
        cents = (Decimal(f"{value:.4f}") for value in (found.p5, found.p50, found.p95))
        p5, p50, p95 = cents
        return Money(p5=p5, p50=p50, p95=p95)


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


def _seconds(night: Night) -> float:
    return night.seconds


def _busy(night: Night) -> float:
    return night.busy


def _held_up(
    concurrency: int, quota: float | None, *, rows: int, in_flight: float, latency: float
) -> tuple[Bottleneck | None, int | None]:
    """What the limit of a night is, and the concurrency that a quota needs, by Little's law."""
    if rows < _MANY * concurrency:
        return None, None
    needed = None if quota is None else math.ceil(quota / 60 * latency * _SPARE)
    if in_flight >= _BUSY * concurrency:
        return Bottleneck.CONCURRENCY, needed if needed is not None and needed > concurrency else None
    if quota is None:
        return None, None
    return Bottleneck.QUOTA, needed if needed is not None and needed < concurrency else None


def _slower(whole: Sequence[Night], settings: Settings) -> float | None:
    """Our own limit that keeps below the endpoint's, where one request of a hundred and more passes that."""
    requests, limited = (sum(map(of, whole)) for of in (_requests, _limited))
    ends = [limit for limit in (settings.rpm, settings.ipm) if limit is not None]
    return math.floor(min(ends) * 10) / 10 if ends and limited > requests / 100 else None


def _requests(night: Night) -> int:
    return night.requests


def _limited(night: Night) -> int:
    return night.limited


def _grown(whole: float, parts: Sequence[float], times: float) -> list[float]:
    """A whole night's value as it would come with other dice, from nights of a part of its rows."""
    mean, root = sum(parts) / len(parts), math.sqrt(times)
    return [whole, *(max(0.0, whole + (part - mean) * root) for part in parts)]


def _ranged(values: Sequence[float]) -> Range:
    """Percentiles by the nearest rank."""
    ordered = sorted(values)
    p5, p50, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.05, 0.5, 0.95))
    return Range(p5=p5, p50=p50, p95=p95)


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
