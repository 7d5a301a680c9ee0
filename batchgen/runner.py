"""
How does one run go, from top to bottom?

`run` tells the story: own the directory, read the manifest, open the ledger, buy what is missing, write the
table, sum up. `Purchase` is its middle part, the only one that is async.
"""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from batchgen import disk, pricing, providers, recovery, results
from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen.budget import Estimate
from batchgen.errors import BatchgenError, InputError, StorageError
from batchgen.ledger import Ledger, Reader
from batchgen.lock import RunLock
from batchgen.purchase import SIGNALS, Purchase, Stop
from batchgen.records import ZERO, Model, Params, Status, Value
from batchgen.selection import gives_up, selected, wanted_again
from batchgen.store import Store, write_whole
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchgen.job import Endpoint, Job
    from batchgen.ledger import State
    from batchgen.manifest import Manifest
    from batchgen.purchase import Progress
    from batchgen.results import Tally
    from batchgen.simulator.transport import SimulatorTransport
    from batchgen.worker import Blocking

logger = logging.getLogger("batchgen")

LEDGER, MANIFEST, TABLE, JOB = "ledger.db", "manifest.parquet", "results.parquet", "job.json"


class Summary(Value, frozen=True, kw_only=True):
    """What a run came to."""

    directory: str
    table: str
    simulated: bool
    tasks: Mapping[str, int]
    """Rows of the table by status."""
    bought: int
    """Pictures this run added."""
    requests: int
    """Requests this run sent."""
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
    left_usd: Decimal | None
    """About what those would cost; None when a model has no price."""
    budget_needed: int | None
    """USD; a budget with room for those, where one stopped the run."""
    unpriced: int
    """Rows with tokens whose model has no price: their cost is not in the sums."""
    failures: tuple[tuple[str, int, str], ...]
    """Unsuccessful rows: class, how many, one message."""
    elapsed_s: float
    stopped: Stop | None
    exit_status: int


class Preview(Value, frozen=True, kw_only=True):
    """What a run would buy."""

    manifest: str
    directory: str
    rows: int
    tasks: int
    done: int
    new: int
    """Tasks that would be bought."""
    left_alone: int
    """Tasks that failed for good; `--retry-failed` takes them up."""
    estimate_usd: Decimal | None
    """At one 1K picture each; None when a model has no price."""
    simulated: bool
    shortage: str | None
    """What the disk has too little room for, as the run would say it."""


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
    signals: bool = False,
    surroundings: Surroundings | None = None,
) -> Summary:
    """
    Carry out a job, or go on with it, and return what it came to.

    :param environment: where the API key is looked up.
    :param on_progress: called with every settled attempt and once a second, on the event loop: be quick.
    :param signals: whether SIGINT, SIGTERM and SIGHUP drain the run (main thread only).
    :param surroundings: time, randomness, threads and network other than the machine's own.
    :raises InputError: the job or its manifest cannot be run; nothing was sent.
    :raises LockedError: another run owns the run directory.
    :raises StorageError: a picture, the ledger or the table could not be written.
    """
    _check_no_loop()
    job = jobs.checked(job)
    began = time.monotonic()
    around = surroundings or Surroundings()
    endpoint = _checked(job, environment)
    transport = around.transport or _transport(job, endpoint)
    only = None if job.only is None else manifests.read_ids(job.only)
    directory = jobs.directory(job)
    _make(directory)
    with RunLock(directory):
        recovery.check_not_lost(directory / LEDGER)
        path = directory / LEDGER
        with closing(Ledger(path, blocking=around.blocking)) as ledger, closing(Reader(path)) as reader:
            reader.check()
            _check_not_mixed(directory, endpoint, reader)
            manifest = _read(job, endpoint, directory / MANIFEST)
            store = Store(directory)
            space = _space(endpoint, manifest, reader, directory, look=around.free)
            _check_room(
                space,
                most=min(manifest.tasks, job.limit or manifest.tasks),
                exact=lambda: _to_buy(job, endpoint, manifest, reader, only),
            )
            _begin(job, endpoint, manifest, ledger, store)
            recovery.adopt(ledger, reader, store, now=_now())
            _tell_of_gone(recovery.gone(reader, store), directory)
            _take_up_again(job, manifest, ledger, reader, only)
            _warn_of_unpriced(job, reader)
            purchase = Purchase(
                job,
                endpoint,
                manifest=manifest,
                ledger=ledger,
                reader=reader,
                store=store,
                space=space,
                only=only,
                transport=transport,
                on_progress=on_progress,
                signals=signals,
                rng=around.rng,
                wall=around.wall,
                blocking=around.blocking,
            )
            with _handlers_kept(signals=signals):
                tally = _carry_out(
                    purchase,
                    around,
                    manifest=manifest,
                    ledger=ledger,
                    reader=reader,
                    table=directory / TABLE,
                )
            left = _left(job, purchase, manifest, reader, only)
            return _summary(job, purchase, tally, reader, left, elapsed=time.monotonic() - began)


def preview(job: Job) -> Preview:
    """
    Read everything a run would read, send nothing, and say what it would buy; no key is needed.

    :raises InputError: the job or its manifest cannot be run.
    """
    job = jobs.checked(job)
    endpoint = _checked(job, None)
    only = None if job.only is None else manifests.read_ids(job.only)
    directory = jobs.directory(job)
    _transport(job, endpoint)  # says what is wrong with the simulator's settings
    recovery.check_not_lost(directory / LEDGER)
    reader = Reader(directory / LEDGER) if (directory / LEDGER).is_file() else None
    try:
        if reader is not None:
            reader.check()
            _check_not_mixed(directory, endpoint, reader)
        with tempfile.TemporaryDirectory() as scratch:
            manifest = _read(job, endpoint, Path(scratch) / MANIFEST)
            counts, models = _fates(job, manifest, reader, only)
            place = next(folder for folder in (directory, *directory.absolute().parents) if folder.is_dir())
            space = _space(endpoint, manifest, reader, place)
            shortage = _shortage(space, _affordable(job, endpoint, reader, counts["new"]))
    finally:
        if reader is not None:
            reader.close()
    return Preview(
        manifest=job.manifest,
        directory=str(directory),
        rows=manifest.rows,
        tasks=manifest.tasks,
        done=counts[Status.SUCCEEDED],
        new=counts["new"],
        left_alone=counts.total() - counts["new"] - counts[Status.SUCCEEDED],
        estimate_usd=_estimate(endpoint, models),
        simulated=endpoint.provider.simulated,
        shortage=shortage,
    )


def _fates(
    job: Job, manifest: Manifest, reader: Reader | None, only: frozenset[str] | None
) -> tuple[Counter[str], Counter[str]]:
    """How many tasks meet which fate, and how many of each model are to be bought."""
    counts: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for batch, chosen in selected(job, manifest, reader, only):
        asked = batch.models
        for index, state in chosen:
            fate = _fate(job, state)
            counts[fate] += 1
            models[asked[index]] += fate == "new"
    return counts, models


def _fate(job: Job, state: State | None) -> str:
    """What a run would do with a task: buy it, or leave it as it is."""
    if state is None or wanted_again(job, state):
        return "new"
    if state.status is Status.PENDING:
        return Status.UNCERTAIN if gives_up(job, state) else "new"
    return state.status


def _estimate(endpoint: Endpoint, models: Mapping[str, int]) -> Decimal | None:
    """One usual picture for each; None as soon as a model has no price."""
    total = ZERO
    for name, count in models.items():
        each = pricing.usual(providers.find_model(endpoint.provider, name) or Model(id=name))
        if each is None and count:
            return None
        total += (each or ZERO) * count
    return total


def _check_no_loop() -> None:
    try:
        anyio.get_current_task()
    except anyio.NoEventLoopError:
        return
    raise InputError(
        "run() has an event loop of its own; inside one: `await anyio.to_thread.run_sync(batchgen.run, job)`"
    )


def _checked(job: Job, environment: Mapping[str, str] | None) -> Endpoint:
    endpoint = jobs.endpoint(job, environment)
    if job.budget is not None and endpoint.model.price is None:
        raise InputError(
            f"--budget: {endpoint.model.id!r} has no known price, so nothing could keep it; state one in"
            f' a job file: [models."{endpoint.model.id}"] price = {{ input = …, text = …, image = … }}'
        )
    return endpoint


def _transport(job: Job, endpoint: Endpoint) -> SimulatorTransport | None:
    """The simulator in this process, where it is the provider."""
    if not endpoint.provider.simulated:
        return None
    from batchgen import simulator  # noqa: PLC0415  only painted where asked for
    from batchgen.simulator.transport import SimulatorTransport  # noqa: PLC0415

    try:
        settings = msgspec.convert(job.simulator, simulator.Settings)
    except msgspec.ValidationError as cause:
        raise InputError(f"[simulator]: {cause}") from cause
    return SimulatorTransport(simulator.Endpoint(settings, clock=time.monotonic))


def _check_not_mixed(directory: Path, endpoint: Endpoint, reader: Reader) -> None:
    """A painted picture must never pass for one that was bought, nor the other way round."""
    last = reader.last_run()
    if last is not None and last.simulated != endpoint.provider.simulated:
        held, wanted = ("simulated", "real") if last.simulated else ("real", "simulated")
        raise InputError(
            f"{directory} holds {held} pictures, and this job makes {wanted} ones;"
            f" choose another run directory: -o {directory}-{wanted}"
        )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise InputError(f"{directory}: {cause.strerror}; choose another run directory with -o") from cause


def _read(job: Job, endpoint: Endpoint, snapshot: Path) -> Manifest:
    provider = endpoint.provider
    # An endpoint of one's own takes any model, unless a budget needs to know each one's price.
    priced = [model for model in provider.models if job.budget is None or model.price is not None]
    names = {name.casefold(): model.id for model in priced for name in (*model.aliases, model.id)}
    reading = manifests.Reading(
        model=endpoint.model.id,
        models=names if provider.models or job.budget is not None else None,
        columns=job.columns,
        unknown="unknown model" if job.budget is None else "--budget: no price is known for the model",
        template=job.template,
        name=job.name,
        system=job.system,
        params=Params(temperature=job.temperature, top_p=job.top_p, max_tokens=job.max_tokens),
        variants=job.variants,
    )
    return manifests.read(job.manifest, reading, snapshot=snapshot, stdin=sys.stdin.buffer)


def _begin(job: Job, endpoint: Endpoint, manifest: Manifest, ledger: Ledger, store: Store) -> None:
    unfinished = ledger.begin(
        now=_now(),
        provider=endpoint.provider.name,
        simulated=endpoint.provider.simulated,
        tasks=manifest.tasks,
        version=__version__,
        in_flight=job.concurrency,
    )
    store.sweep(unfinished)
    write_whole(store.root / JOB, msgspec.json.format(msgspec.json.encode(msgspec.structs.asdict(job))))


def _put_down(
    ledger: Ledger, manifest: Manifest, reader: Reader, table: Path, ended: str
) -> Tally | StorageError:
    """End the run in the ledger and write the table, as far as the disk lets; else what it said first."""
    failure = None
    try:
        ledger.end(now=_now(), reason=ended)
    except StorageError as cause:
        failure = cause
    try:
        tally = results.write(manifest, reader, table)
    except StorageError as cause:
        return failure or cause
    return failure or tally


def _space(
    endpoint: Endpoint,
    manifest: Manifest,
    reader: Reader | None,
    directory: Path,
    *,
    look: Callable[[Path], disk.Free] = disk.free,
) -> disk.Space:
    seen = reader.picture_bytes(most=100) if reader is not None else None
    guess = disk.SIMULATED if endpoint.provider.simulated else disk.PICTURE
    return disk.Space(
        directory=directory,
        picture=seen or guess,
        reserve=disk.reserve(tasks=manifest.tasks, manifest=manifest.path.stat().st_size),
        look=look,
    )


def _check_room(space: disk.Space, *, most: int, exact: Callable[[], int]) -> None:
    """Refuse a run whose pictures cannot all be written; they are counted only where it is tight."""
    if space.fitting(most)[1] is not None:
        shortage = _shortage(space, exact())
        if shortage is not None:
            raise InputError(shortage)


def _shortage(space: disk.Space, pictures: int) -> str | None:
    fit, missing = space.fitting(pictures)
    if missing is None or not pictures:
        return None
    part = f", or buy only a part of the rows with --limit ({fit:,} more fit)" if fit else ""
    return f"{missing}, choose another disk with -o{part}"


def _to_buy(
    job: Job, endpoint: Endpoint, manifest: Manifest, reader: Reader, only: frozenset[str] | None
) -> int:
    """How many pictures a run buys at most."""
    chosen = (state for _, batch in selected(job, manifest, reader, only) for _, state in batch)
    pictures = sum(_fate(job, state) == "new" for state in chosen)
    return _affordable(job, endpoint, reader, pictures)


def _affordable(job: Job, endpoint: Endpoint, reader: Reader | None, pictures: int) -> int:
    """So many of these pictures as the budget allows: it may end a run before the disk does."""
    usual = pricing.usual(endpoint.model)
    if job.budget is None or not usual:
        return pictures
    spent = reader.totals().counted_usd if reader is not None else ZERO
    return min(pictures, max(0, math.ceil((Decimal(str(job.budget)) - spent) / usual)))


def _tell_of_gone(count: int, directory: Path) -> None:
    if count:
        logger.error(
            "%d pictures are gone from %s/images; `batchgen verify %s` names them, and with --repair the next"
            " run buys them again",
            count,
            directory,
            directory,
        )


def _take_up_again(
    job: Job, manifest: Manifest, ledger: Ledger, reader: Reader, only: frozenset[str] | None
) -> None:
    """Once and durably, so that a plain resume of this run goes on with them and with nothing else."""
    if not (job.again or job.retry_failed):
        return
    for batch, chosen in selected(job, manifest, reader, only):
        ledger.take_up_again(batch.keys[index] for index, state in chosen if wanted_again(job, state))


def _warn_of_unpriced(job: Job, reader: Reader) -> None:
    """A budget counts what is known: that some of it is not must be said."""
    unpriced = reader.totals().unpriced
    if job.budget is not None and unpriced:
        logger.warning(
            "%d requests of earlier runs in this directory have no known cost: the budget cannot count them",
            unpriced,
        )


@contextmanager
def _handlers_kept(*, signals: bool) -> Iterator[None]:
    """Put back the handlers: from the end of a purchase to its table, signals are ignored."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS] if signals else []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)


def _carry_out(
    purchase: Purchase,
    around: Surroundings,
    *,
    manifest: Manifest,
    ledger: Ledger,
    reader: Reader,
    table: Path,
) -> Tally:
    ended, failure = "interrupted", None
    try:
        anyio.run(purchase.carry_out, backend=around.backend, backend_options=around.backend_options)
        ended = purchase.stop.reason if purchase.stop else "done"
    except BatchgenError as cause:
        ended, failure = str(cause), cause
    finally:
        # On every way out: what was bought must be found in the table.
        tally = _put_down(ledger, manifest, reader, table, ended)
    if failure is not None:
        raise failure
    if isinstance(tally, StorageError):
        raise tally
    return tally


class _Left(Value, frozen=True, kw_only=True):
    """What a run that was stopped did not come to."""

    tasks: int = 0
    usd: Decimal | None = ZERO
    """About, at what pictures have cost so far."""
    most_usd: Decimal = ZERO
    """Hardly more, at what the dearest have."""


def _left(
    job: Job, purchase: Purchase, manifest: Manifest, reader: Reader, only: frozenset[str] | None
) -> _Left:
    if purchase.stop is None:
        return _Left()
    # What this run was to buy anew is pending until it has been.
    job = msgspec.structs.replace(job, again=False, retry_failed=False)
    counts, models = _fates(job, manifest, reader, only)
    about: Decimal | None = ZERO
    most = ZERO
    for name, count in models.items():
        model = providers.find_model(purchase.endpoint.provider, name) or Model(id=name)
        costs = reader.costs(name, most=Estimate.RECENT)
        each = sum(costs, ZERO) / len(costs) if costs else pricing.usual(model)
        if count and (each is None or about is None):
            about = None
        elif each is not None and about is not None:
            about += each * count
        estimate = Estimate(most=pricing.careful(model) or ZERO)
        for cost in costs:
            estimate.observe(cost)
        most += estimate.likely * count
    return _Left(tasks=counts["new"], usd=None if about is None else round(about, 2), most_usd=most)


def _summary(
    job: Job, purchase: Purchase, tally: Tally, reader: Reader, left: _Left, *, elapsed: float
) -> Summary:
    counts, totals, stop = purchase.counts, reader.totals(), purchase.stop
    directory = jobs.directory(job)
    if stop is not None and stop.reason == "failures" and not left.tasks:
        stop = None  # there was nothing left to stop
    needed = None
    if stop is not None and stop.reason == "budget":
        needed = math.ceil(totals.counted_usd + left.most_usd)
        stop = msgspec.structs.replace(stop, remedy=f"raise --budget to {needed} and run the same command")
    unsuccessful = counts.failed + counts.unsuccessful_before
    return Summary(
        directory=str(directory),
        table=str(directory / TABLE),
        simulated=purchase.endpoint.provider.simulated,
        tasks=tally.tasks,
        bought=counts.succeeded,
        requests=counts.requests,
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
        left_usd=left.usd,
        budget_needed=needed,
        unpriced=tally.unpriced,
        failures=tuple(reader.failures()),
        elapsed_s=elapsed,
        stopped=stop,
        exit_status=stop.exit_status if stop is not None else int(unsuccessful > 0),
    )


def _now() -> int:
    return int(time.time() * 1_000_000)
