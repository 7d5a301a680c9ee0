"""
How does one run go, from top to bottom?

`run` tells the story: own the directory, read the manifest, open the ledger, buy what is missing, write the
table, sum up. `Purchase` is its middle part, the only one that is async.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen import pricing, providers, recovery, results
from batchgen.errors import BatchgenError, InputError
from batchgen.ledger import Ledger, Reader
from batchgen.lock import RunLock
from batchgen.purchase import Purchase, Stop
from batchgen.records import ZERO, Model, Params, Status, Value
from batchgen.selection import gives_up, selected, wanted_again
from batchgen.store import Store, write_whole
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

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
        manifest = _read(job, endpoint, directory / MANIFEST)
        path = directory / LEDGER
        with closing(Ledger(path, blocking=around.blocking)) as ledger, closing(Reader(path)) as reader:
            store = Store(directory)
            reader.check()
            _check_not_mixed(directory, endpoint, reader)
            _begin(job, endpoint, manifest, ledger, store)
            recovery.adopt(ledger, reader, store, now=_now())
            _tell_of_gone(recovery.gone(reader, store), directory)
            _take_up_again(job, manifest, ledger, reader, only)
            purchase = Purchase(
                job,
                endpoint,
                manifest=manifest,
                ledger=ledger,
                reader=reader,
                store=store,
                only=only,
                transport=transport,
                on_progress=on_progress,
                signals=signals,
                rng=around.rng,
                wall=around.wall,
                blocking=around.blocking,
            )
            ended = "interrupted"
            try:
                anyio.run(purchase.carry_out, backend=around.backend, backend_options=around.backend_options)
                ended = purchase.stop.reason if purchase.stop else "done"
            except BatchgenError as cause:
                ended = str(cause)
                raise
            finally:
                # On every way out: what was bought must be found in the table.
                ledger.end(now=_now(), reason=ended)
                tally = results.write(manifest, reader, directory / TABLE)
            return _summary(purchase, tally, reader, directory, elapsed=time.monotonic() - began)


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
    counts: Counter[str] = Counter()
    models: Counter[str] = Counter()
    recovery.check_not_lost(directory / LEDGER)
    reader = Reader(directory / LEDGER) if (directory / LEDGER).is_file() else None
    try:
        if reader is not None:
            reader.check()
            _check_not_mixed(directory, endpoint, reader)
        with tempfile.TemporaryDirectory() as scratch:
            manifest = _read(job, endpoint, Path(scratch) / MANIFEST)
            for batch, chosen in selected(job, manifest, reader, only):
                asked = batch.models
                for index, state in chosen:
                    fate = _fate(job, state)
                    counts[fate] += 1
                    models[asked[index]] += fate == "new"
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
    )


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
    )
    store.sweep(unfinished)
    write_whole(store.root / JOB, msgspec.json.format(msgspec.json.encode(msgspec.structs.asdict(job))))


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


def _summary(purchase: Purchase, tally: Tally, reader: Reader, directory: Path, *, elapsed: float) -> Summary:
    counts, totals, stop = purchase.counts, reader.totals(), purchase.stop
    if stop is not None and stop.reason == "failures" and Status.PENDING not in tally.tasks:
        stop = None  # there was nothing left to stop
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
        unpriced=tally.unpriced,
        failures=tuple(reader.failures()),
        elapsed_s=elapsed,
        stopped=stop,
        exit_status=stop.exit_status if stop is not None else int(unsuccessful > 0),
    )


def _now() -> int:
    return int(time.time() * 1_000_000)
