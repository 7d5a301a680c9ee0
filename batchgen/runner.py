"""
How does one run go, from top to bottom?

`run` tells the story: own the directory, read the manifest, open the ledger, buy what is missing, write the
table, look at the pictures where that is asked for, sum up. `Purchase` is its middle part, the only one that
is async.
"""

from __future__ import annotations

import logging
import math
import os
import random
import shlex
import signal
import socket
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from batchgen import depot as depots
from batchgen import disk, events, plan, quality, recovery, results
from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen.bookmark import Bookmark
from batchgen.crew import Workers
from batchgen.errors import BatchgenError, InputError, StorageError
from batchgen.job import JOB, LEDGER, MANIFEST, TABLE
from batchgen.ledger import Ledger, Reader
from batchgen.lock import RunLock
from batchgen.progress import SIGNALS, Stop
from batchgen.purchase import Purchase
from batchgen.records import Limit, Value
from batchgen.redaction import Redactor
from batchgen.references import References
from batchgen.selection import left_alone, selected, wanted_again
from batchgen.store import write_whole
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from batchgen.crew import Crew
    from batchgen.depot import Depot
    from batchgen.job import Endpoint, Job
    from batchgen.ledger import Totals
    from batchgen.manifest import Manifest
    from batchgen.progress import Progress
    from batchgen.records import Image
    from batchgen.results import Tally
    from batchgen.simulator.transport import SimulatorTransport
    from batchgen.store import Pictures
    from batchgen.worker import Blocking

logger = logging.getLogger("batchgen")

_THREADS = min(4, max(2, os.cpu_count() or 1))
"""For decoding and disk, which leave Python to others; each holds a picture and a half in memory."""
_SENDING = 16
"""The same where pictures go over a network, for which most of them wait."""


class Summary(Value, frozen=True, kw_only=True):
    """What a run came to."""

    directory: str
    table: str
    simulated: bool
    tasks: Mapping[str, int]
    """Rows of the table by status."""
    for_words: int
    """Rows for which words are enough."""
    in_words: int
    """Rows that succeeded with words alone, without a picture."""
    wrong_size: int
    """Rows whose picture is not of the size that was asked for."""
    blank: int
    """Rows whose picture is of one colour, as far as they were looked at."""
    near_duplicates: int
    """Rows whose picture looks like one of a row before them, as far as they were looked at."""
    unreadable: int
    """Pictures that were to be looked at, and are gone or changed."""
    not_looked_at: int
    """Pictures that were to be looked at when the run was stopped."""
    bought: int
    """Rows this run brought to their picture, or to their words."""
    requests: int
    """Requests this run sent."""
    hedges: int
    """Those of them that asked once more while another one was in flight, and late (`--hedge`)."""
    hedges_won: int
    """Those of them that came first."""
    hedges_usd: Decimal
    """What the losers of those races count for, whichever of two each was; a part of `counted_usd`."""
    prompt_tokens: int
    text_tokens: int
    image_tokens: int
    total_tokens: int
    cost_usd: Decimal
    """Of the rows in the table."""
    wasted_usd: Decimal
    """The part of it that bought no picture."""
    run_usd: Decimal
    """Spent by this run."""
    spent_usd: Decimal
    """Ever spent in this run directory, rows deleted since included."""
    uncertain: int
    """Requests ever sent whose answer never came."""
    uncertain_usd: Decimal
    """What they may have cost."""
    counted_usd: Decimal
    """What counts against a budget: all that was ever billed here, and `uncertain_usd`."""
    budget_usd: Decimal | None
    left: int
    """Tasks this run was about and left undone."""
    waiting: int
    """Tasks this run was about that continue one without a picture, about which it was not."""
    left_usd: Decimal | None
    """About what `left` would cost; None when a model has no price."""
    failed: int
    """Tasks this run was about that have failed for good."""
    budget_needed: int | None
    """USD; a budget with room for those, where one stopped the run."""
    unpriced: int
    """Rows with tokens whose model has no price: their cost is not in the sums."""
    failures: tuple[tuple[str, int, str], ...]
    """Unsuccessful rows: class, how many, one message."""
    rate_limit: Limit
    """Requests a minute that the endpoint takes, as was found out where none is declared."""
    elapsed_s: float
    stopped: Stop | None
    exit_status: int


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a run takes from outside, where that is not the machine itself: how it is rehearsed and tested."""

    backend: str = "asyncio"
    backend_options: dict[str, Any] | None = None
    blocking: Blocking | None = None
    """Runs blocking calls; threads unless given."""
    wall: Callable[[], float] = time.time
    """Seconds since 1970."""
    rng: random.Random = field(default_factory=random.Random)
    transport: SimulatorTransport | None = None
    """Replaces the network."""
    free: Callable[[Path], disk.Free] = disk.free
    """What is free on the disk."""


def run(
    job: Job,
    *,
    environment: Mapping[str, str] = os.environ,
    on_progress: Callable[[Progress], None] | None = None,
    on_look: Callable[[int, int], None] | None = None,
    signals: bool = False,
    command: str | None = None,
    surroundings: Surroundings | None = None,
) -> Summary:
    """
    Carry out a job, or go on with it, and return what it came to.

    :param environment: where the API key is looked up.
    :param on_progress: called with every settled attempt and once a second, on the event loop: be quick.
    :param on_look: called with how many of how many pictures were looked at, after the buying.
    :param signals: whether SIGINT, SIGTERM and SIGHUP drain the run (main thread only).
    :param command: what a person types to go on with this run; for whoever looks at the run directory.
    :param surroundings: time, randomness, threads and network other than the machine's own.
    :raises InputError: the job or its manifest cannot be run; nothing was sent.
    :raises LockedError: another run owns the run directory.
    :raises StorageError: a picture, the ledger or the table could not be written.
    """
    _check_no_loop()
    job = jobs.checked(job)
    began = time.monotonic()
    endpoint = plan.checked(job, environment)
    around = surroundings or Surroundings()
    around = replace(around, transport=around.transport or plan.transport(job, endpoint))
    only = None if job.only is None else manifests.read_ids(job.only)
    directory = jobs.directory(job)
    depots.made(directory)
    with (
        RunLock(directory),
        depots.opened(directory, jobs.address(job)) as depot,
        Bookmark(directory) as bookmark,
        _log_of(job, endpoint) as log,
        _joined(job, endpoint, directory, depot.pictures) as enlisted,
    ):
        path = directory / LEDGER
        recovery.check_not_lost(path)
        with (
            closing(Ledger(path, blocking=around.blocking, shipped=depot.shipped)) as ledger,
            closing(Reader(path)) as reader,
        ):
            ground = _ground(
                job, endpoint, around, depot=depot, ledger=ledger, reader=reader, only=only, bookmark=bookmark
            )
            totals = _taken_up(ground, command=command)
            tell = log(f"{depot.name}#{ledger.run}")
            purchase = _purchase(
                ground, totals, enlisted=enlisted, on_progress=on_progress, on_event=tell, signals=signals
            )
            tell(_started(job, endpoint, ground.manifest))
            with _end_told(tell), depot.copied():
                summary = _concluded(ground, purchase, signals=signals, on_look=on_look, began=began)
            bookmark.put(ground.manifest)
            tell(_over(summary))
            return summary


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """What a run stands on: all that was read and found good before anything is written or sent."""

    job: Job
    endpoint: Endpoint
    around: Surroundings
    directory: Path
    depot: Depot
    ledger: Ledger
    reader: Reader
    references: References
    manifest: Manifest
    only: frozenset[str] | None
    finished: manifests.Finished
    space: disk.Space


def _ground(
    job: Job,
    endpoint: Endpoint,
    around: Surroundings,
    *,
    depot: Depot,
    ledger: Ledger,
    reader: Reader,
    only: frozenset[str] | None,
    bookmark: Bookmark,
) -> _Ground:
    """Read the manifest, and see that the job can be carried out here."""
    directory, references = jobs.directory(job), References(fetch=depot.fetch)
    with bookmark.looked_through():
        plan.check_not_mixed(depot.name, endpoint, reader)
        manifest = plan.read_manifest(job, endpoint, directory / MANIFEST, references)
        plan.check_only(job, manifest, only)
        finished = left_alone(job, manifest, reader, bookmark.finished(manifest))
    space = plan.space_for(endpoint, manifest, reader, directory, shipped=depot.shipped, look=around.free)
    plan.check_room(job, endpoint, manifest, reader, only, finished=finished, space=space)
    return _Ground(
        job=job,
        endpoint=endpoint,
        around=around,
        directory=directory,
        depot=depot,
        ledger=ledger,
        reader=reader,
        references=references,
        manifest=manifest,
        only=only,
        finished=finished,
        space=space,
    )


def _taken_up(ground: _Ground, *, command: str | None) -> Totals:
    """Begin this run in the ledger, and take over what others left there; what was spent so far."""
    job, depot, ledger, reader = ground.job, ground.depot, ground.ledger, ground.reader
    store = depot.pictures
    # Before the ledger forgets whose they are: a kill between would leave them for good.
    store.sweep(reader.unfinished())
    _begin(job, ground.endpoint, ground.manifest, ledger, ground.directory, command=command)
    for name in (MANIFEST, JOB):
        depot.keep(name)
    recovery.adopt(ledger, reader, store, now=_now())
    totals = reader.totals()
    _tell_of_gone(recovery.gone(totals, store), depot.name)
    take_up_again(job, ground.manifest, ledger, reader, ground.only)
    _warn_of_unpriced(job, totals)
    return totals


def _purchase(
    ground: _Ground,
    totals: Totals,
    *,
    enlisted: Callable[[Workers, Callable[[str, str], Image | None]], Crew],
    on_progress: Callable[[Progress], None] | None,
    on_event: Callable[[events.Event], None],
    signals: bool,
) -> Purchase:
    job, endpoint, around, depot = ground.job, ground.endpoint, ground.around, ground.depot
    blocking = around.blocking or _in_threads(_SENDING if depot.shipped else _THREADS)
    room = disk.Disk(ground.space, blocking=blocking)
    workers = Workers(
        job=job,
        endpoint=endpoint,
        references=ground.references,
        store=depot.pictures,
        disk=room,
        transport=around.transport,
        wall=around.wall,
        blocking=blocking,
    )
    left_by = partial(recovery.left_by, ground.directory / LEDGER, depot.pictures)
    return Purchase(
        job,
        endpoint,
        manifest=ground.manifest,
        ledger=ground.ledger,
        reader=ground.reader,
        store=depot.pictures,
        disk=room,
        crew=enlisted(workers, left_by),
        check=depot.check,
        spent=totals.counted_usd,
        only=ground.only,
        finished=ground.finished,
        on_progress=on_progress,
        on_event=on_event,
        signals=signals,
        rng=around.rng,
        wall=around.wall,
        blocking=blocking,
    )


def _concluded(
    ground: _Ground,
    purchase: Purchase,
    *,
    signals: bool,
    on_look: Callable[[int, int], None] | None,
    began: float,
) -> Summary:
    """Buy, write the table, look at the pictures where that is asked for, and sum up."""
    job, seen = ground.job, None
    with _handlers_kept(signals=signals) as before:
        tally = _carry_out(ground, purchase)
        if job.quality:
            seen = _look(ground, purchase, before=before, on_look=on_look)
            tally = _written(ground) if seen.looked_at else tally
    stopped = purchase.stop is not None
    left = (
        plan.left(job, ground.endpoint, ground.manifest, ground.reader, ground.only)
        if stopped
        else plan.Left()
    )
    return _summary(job, purchase, tally, ground.reader, left, seen=seen, elapsed=time.monotonic() - began)


@contextmanager
def _joined(
    job: Job, endpoint: Endpoint, directory: Path, pictures: Pictures
) -> Iterator[Callable[[Workers, Callable[[str, str], Image | None]], Crew]]:
    """What makes a crew of these workers: themselves, or their like on the nodes of a cluster."""
    if job.ray is None:
        yield lambda workers, _: workers
        return
    if job.hedge:
        raise InputError(
            "--hedge: with --ray a late request cannot be asked for once more; leave out one of both"
        )
    if endpoint.provider.simulated:
        raise InputError(
            "--ray: the simulator answers in this process alone; serve it on a port, and name that with"
            " --provider core-today --base-url http://…"
        )
    from batchgen import cluster  # noqa: PLC0415  an extra, and it takes its time

    with cluster.joined(job.ray, directory, pictures) as enlisted:
        yield enlisted


def _check_no_loop() -> None:
    try:
        anyio.get_current_task()
    except anyio.NoEventLoopError:
        return
    raise InputError(
        "run() has an event loop of its own; inside one: `await anyio.to_thread.run_sync(batchgen.run, job)`"
    )


def _in_threads(count: int) -> Blocking:
    return partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(count))


def _begin(
    job: Job, endpoint: Endpoint, manifest: Manifest, ledger: Ledger, directory: Path, *, command: str | None
) -> None:
    ledger.begin(
        now=_now(),
        provider=endpoint.provider.name,
        simulated=endpoint.provider.simulated,
        tasks=manifest.tasks,
        version=__version__,
        in_flight=job.concurrency,
        command=command,
    )
    write_whole(directory / JOB, msgspec.json.format(msgspec.json.encode(msgspec.structs.asdict(job))))


def _check_apart(log: Path, job: Job) -> None:
    """
    See that lines are not added to what the run reads and writes.

    :raises InputError: they would be.
    """
    directory = jobs.directory(job).resolve()
    ours = {directory / name for name in (LEDGER, MANIFEST, JOB, TABLE)}
    read = {Path(name).resolve() for name in (job.manifest, job.only) if name not in {None, "-"}}
    if log.resolve() in ours | read:
        raise InputError(f"--log-file: {log}: the run needs this file itself; name another")


def _log_of(
    job: Job, endpoint: Endpoint
) -> AbstractContextManager[Callable[[str], Callable[[events.Event], None]]]:
    path = None if job.log_file is None else Path(job.log_file)
    if path is not None:
        _check_apart(path, job)
    key = "" if endpoint.provider.simulated else endpoint.key or ""
    return events.logged(path, wall=time.time, redact=Redactor([key]))


def _started(job: Job, endpoint: Endpoint, manifest: Manifest) -> events.RunStarted:
    return events.RunStarted(
        directory=jobs.place(job),
        manifest=job.manifest,
        rows=manifest.tasks,
        provider=endpoint.provider.name,
        model=endpoint.model.id,
        simulated=endpoint.provider.simulated,
        concurrency=job.concurrency,
        budget_usd=None if job.budget is None else Decimal(str(job.budget)),
        pid=os.getpid(),
        host=socket.gethostname(),
        version=__version__,
    )


def _over(summary: Summary) -> events.RunEnded:
    told: dict[str, object] = msgspec.to_builtins(msgspec.structs.asdict(summary), builtin_types=(Decimal,))
    reason = summary.stopped.reason if summary.stopped is not None else "done"
    return events.RunEnded(reason=reason, exit_status=summary.exit_status, summary=told)


@contextmanager
def _end_told(tell: Callable[[events.Event], None]) -> Iterator[None]:
    """Whatever ends a run is in its log file."""
    try:
        yield
    except BaseException as cause:
        status = cause.exit_status if isinstance(cause, BatchgenError) else None
        reason = str(cause) if status is not None else type(cause).__name__
        tell(events.RunEnded(reason=reason, exit_status=status, summary=None))
        raise


def _put_down(ground: _Ground, ended: str) -> Tally | StorageError:
    """End the run in the ledger and write the table, as far as the disk lets; else what it said first."""
    failure = None
    try:
        ground.ledger.end(now=_now(), reason=ended)
    except StorageError as cause:
        failure = cause
    try:
        tally = _written(ground)
    except StorageError as cause:
        return failure or cause
    return failure or tally


def _written(ground: _Ground) -> Tally:
    """Write the table, and put it where it is looked for."""
    tally = results.write(ground.manifest, ground.reader, ground.directory / TABLE)
    ground.depot.keep(TABLE)
    return tally


def _tell_of_gone(count: int, place: str) -> None:
    if count:
        logger.error(
            "%d pictures are gone from %s/images; `batchgen verify %s` names them, and with --repair the next"
            " run buys them again",
            count,
            place,
            shlex.quote(place),
        )


def take_up_again(
    job: Job, manifest: Manifest, ledger: Ledger, reader: Reader, only: frozenset[str] | None
) -> None:
    """Once and durably, so that a plain resume of this run goes on with them and with nothing else."""
    if not (job.again or job.retry_failed):
        return
    for batch, chosen in selected(job, manifest, reader, only):
        ledger.take_up_again(batch.keys[index] for index, state, _ in chosen if wanted_again(job, state))


def _warn_of_unpriced(job: Job, totals: Totals) -> None:
    """A budget counts what is known: that some of it is not must be said."""
    if job.budget is not None and totals.unpriced:
        logger.warning(
            "%d requests of earlier runs in this directory have no known cost: the budget cannot count them",
            totals.unpriced,
        )


@contextmanager
def _handlers_kept(*, signals: bool) -> Iterator[Mapping[int, Any]]:
    """Put back the handlers: from the end of a purchase to its table, signals are ignored."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS} if signals else {}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _heard(before: Mapping[int, Any]) -> Iterator[list[int]]:
    """Gather the signals that come, but for those that were ignored before it all."""
    came: list[int] = []
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heeded:
            signal.signal(number, lambda number, _: came.append(number))
        yield came
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)


def _look(
    ground: _Ground,
    purchase: Purchase,
    *,
    before: Mapping[int, Any],
    on_look: Callable[[int, int], None] | None,
) -> quality.Seen:
    """Look at what nobody has looked at, unless a signal has ended the run already or ends it here."""
    reader = ground.reader
    if purchase.stop is not None and purchase.stop.by_signal:
        return quality.Seen(looked_at=0, unreadable=0, left=reader.count_unseen())
    with _heard(before) as came:
        seen = quality.look_at_all(
            reader, ground.ledger, ground.depot.pictures, on_look=on_look, stopped=lambda: bool(came)
        )
    if came and seen.left and purchase.stop is None:
        purchase.stop = Stop.of_signal(came[0], "the pictures that are left were not looked at")
    return seen


def _carry_out(ground: _Ground, purchase: Purchase) -> Tally:
    around = ground.around
    ended, failure = "interrupted", None
    try:
        anyio.run(purchase.carry_out, backend=around.backend, backend_options=around.backend_options)
        ended = purchase.stop.reason if purchase.stop else "done"
    except BatchgenError as cause:
        ended, failure = str(cause), cause
    finally:
        # On every way out: what was bought must be found in the table.
        tally = _put_down(ground, ended)
    if failure is not None:
        raise failure
    if isinstance(tally, StorageError):
        raise tally
    return tally


def _summary(
    job: Job,
    purchase: Purchase,
    tally: Tally,
    reader: Reader,
    left: plan.Left,
    *,
    seen: quality.Seen | None,
    elapsed: float,
) -> Summary:
    counts, totals, stop = purchase.counts, reader.totals(), purchase.stop
    place = jobs.place(job)
    if stop is not None and stop.reason == "failures" and not left.tasks:
        stop = None  # there was nothing left to stop
    needed = None
    if stop is not None and stop.reason == "budget":
        needed = math.ceil(totals.counted_usd + left.most_usd)
        stop = msgspec.structs.replace(stop, remedy=f"raise --budget to {needed} and run the same command")
    feed = purchase.feed
    failed, waiting = counts.failed + feed.orphaned + feed.unsuccessful, left.waiting or feed.waiting
    return Summary(
        directory=place,
        table=f"{place}/{TABLE}" if jobs.address(job) else str(jobs.directory(job) / TABLE),
        simulated=purchase.endpoint.provider.simulated,
        tasks=tally.tasks,
        for_words=tally.for_words,
        in_words=tally.in_words,
        wrong_size=tally.wrong_size,
        blank=tally.blank,
        near_duplicates=tally.near_duplicates,
        unreadable=0 if seen is None else seen.unreadable,
        not_looked_at=0 if seen is None else seen.left,
        bought=counts.succeeded,
        requests=counts.requests,
        hedges=counts.hedges,
        hedges_won=counts.hedges_won,
        hedges_usd=counts.hedges_usd,
        prompt_tokens=tally.prompt_tokens,
        text_tokens=tally.text_tokens,
        image_tokens=tally.image_tokens,
        total_tokens=tally.total_tokens,
        cost_usd=tally.cost_usd,
        wasted_usd=tally.wasted_usd,
        run_usd=counts.run_usd,
        spent_usd=totals.cost_usd,
        uncertain=totals.uncertain,
        uncertain_usd=totals.uncertain_usd,
        counted_usd=totals.counted_usd,
        budget_usd=None if job.budget is None else Decimal(str(job.budget)),
        left=left.tasks,
        waiting=waiting,
        left_usd=left.usd,
        failed=failed,
        budget_needed=needed,
        unpriced=tally.unpriced,
        failures=tuple((each.kind, each.count, each.message) for each in reader.failures()),
        rate_limit=purchase.limit,
        elapsed_s=elapsed,
        stopped=stop,
        exit_status=stop.exit_status if stop is not None else int(failed + waiting > 0),
    )


def _now() -> int:
    return int(time.time() * 1_000_000)
