"""
What would a run do, what would it cost, and when would it be done?

All of it is found out without a key and without a request, and held against budget, deadline and disk.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from contextlib import ExitStack, closing, nullcontext, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import depot, plan, providers, recovery
from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen.bookmark import Bookmark
from batchgen.deadline import Bottleneck, Load, Pace, faster, lasts
from batchgen.errors import InputError
from batchgen.forecast import Seen, cents, foretold
from batchgen.job import LEDGER, MANIFEST
from batchgen.ledger import Reader
from batchgen.records import ZERO, Expect, Limit, Value
from batchgen.references import References
from batchgen.selection import left_alone
from batchgen.survey import Standing, lengths, needs, survey, tokens

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from batchgen.forecast import Band
    from batchgen.job import Endpoint, Job
    from batchgen.manifest import Manifest
    from batchgen.survey import Survey

_UNSURE = 0.4
"""How far a latency may be from the usual one, as a share, where none was observed."""
_Z = 1.96


class Cost(Value, frozen=True, kw_only=True):
    """What all that is to be bought costs; about 95 of 100 times between low and high."""

    low_usd: Decimal
    likely_usd: Decimal
    high_usd: Decimal
    observed: int
    """Answers of this run directory that it is told by; 0 where it is told by prices alone."""
    answers_per_row: Decimal
    """So many answers are paid for on the way of one row, refusals and damaged pictures included."""


class Tokens(Value, frozen=True, kw_only=True):
    """Tokens of all that is to be bought, in and out; about 95 of 100 times between low and high."""

    low: int
    likely: int
    high: int


class Duration(Value, frozen=True, kw_only=True):
    """How long it takes."""

    seconds: float
    seconds_low: float
    seconds_high: float
    done_at: str
    """ISO 8601, with the offset of this machine."""
    latency_s: float
    """Of one request."""
    observed: int
    """Rows of this run directory that the latency is told by; 0 where it is the models' usual one."""
    requests: int
    """That will be sent, about."""
    bottleneck: Bottleneck
    limit_rpm: float | None
    """Requests a minute that it is reckoned with: declared, or found out by runs here; None where neither."""


class BudgetCheck(Value, frozen=True, kw_only=True):
    """Whether the budget is enough for all that is to be bought."""

    budget_usd: Decimal
    counted_usd: Decimal
    """What counts against it already: all that was ever billed in this run directory, or may have been."""
    enough: bool
    tasks: int
    """About so many of those that are to be bought."""
    needed_usd: Decimal
    """A budget that is enough."""


class DeadlineCheck(Value, frozen=True, kw_only=True):
    """Whether it will be done in time, and what would make it so; null where a limit is not in the way."""

    deadline: str
    """ISO 8601."""
    met: bool
    possible: bool
    """Whether it is met, or would be with the following."""
    concurrency: int | None
    starts: int | None
    """A limit of requests a minute: of `--rpm` or `--ipm`, whichever is lower."""
    tpm: int | None


class Room(Value, frozen=True, kw_only=True):
    """Whether the disk has room for it."""

    needed_bytes: int
    """Pictures, ledger and table."""
    free_bytes: int | None
    """None where the file system does not say."""
    shortage: str | None
    """What there is too little room for, as the run would say it."""


class Preview(Value, frozen=True, kw_only=True):
    """What a run would do."""

    manifest: str
    directory: str
    simulated: bool
    """Whether no money would be spent."""
    rows: int
    tasks: int
    """Rows, as often as each has variants. Those the job is about add up from the next nine."""
    done: int
    new: int
    """Never asked for, or without an answer so far."""
    changed: int
    """Asked for before under the same id, in other words, of another model, or continuing another picture."""
    again: int
    """Done, and bought anew with `--again`."""
    retried: int
    """Failed for good, and taken up once more."""
    uncertain_again: int
    """Sent without an answer, maybe billed, and asked for once more."""
    uncertain_left: int
    """The same, left alone: `--retry-failed` takes them up."""
    failed: int
    """Failed for good and left alone: `--retry-failed` takes them up."""
    waiting: int
    """They continue a row without a picture, which the job is not about."""
    buy: int
    """Tasks that would be bought."""
    for_words: int
    """Those of them for which words are enough."""
    cost: Cost | None
    """None where a model has no price."""
    tokens: Tokens
    unpriced: tuple[str, ...]
    """Models of which tasks would be bought and that have no price."""
    time: Duration
    budget: BudgetCheck | None
    deadline: DeadlineCheck | None
    disk: Room
    exit_status: int
    """0 where it can be done as asked, 1 where budget, deadline or disk say no."""


def preview(job: Job, *, deadline: datetime | None = None, now: datetime | None = None) -> Preview:
    """
    Read everything a run would read, send nothing, and say what it would do; no key is needed.

    :param deadline: when it must be done; with a time zone.
    :param now: with a time zone; the present unless given.
    :raises InputError: the job or its manifest cannot be run.
    """
    job = jobs.checked(job)
    now = now or datetime.now().astimezone()
    endpoint = plan.checked(job, None)
    only = None if job.only is None else manifests.read_ids(job.only)
    _check_place(jobs.directory(job))
    plan.transport(job, endpoint)  # says what is wrong with the simulator's settings
    with ExitStack() as stack:
        directory = stack.enter_context(depot.seen(jobs.place(job), new=True)).directory
        recovery.check_not_lost(directory / LEDGER)
        bookmark, reader = Bookmark(directory), None
        if (directory / LEDGER).is_file():
            reader = stack.enter_context(closing(Reader(directory / LEDGER)))
        with tempfile.TemporaryDirectory() as scratch, _looked_through(reader, bookmark):
            if reader is not None:
                plan.check_not_mixed(jobs.place(job), endpoint, reader)
            manifest = _manifest(job, endpoint, directory / MANIFEST, Path(scratch))
            plan.check_only(job, manifest, only)
            finished = left_alone(job, manifest, reader, bookmark.finished(manifest))
            found = survey(job, endpoint.provider, manifest, reader, only, finished=finished)
            room = _room(job, endpoint, manifest, reader, found.pictures)
        counted = ZERO if reader is None else reader.totals().counted_usd
        limit = Limit() if reader is None else reader.limit(endpoint.provider.base_url, endpoint.model.id)
    pace = _pace(job, limit.per_minute)
    return _foreseen(
        job, endpoint, manifest, found, pace=pace, counted=counted, room=room, deadline=deadline, now=now
    )


def _looked_through(reader: Reader | None, bookmark: Bookmark) -> AbstractContextManager[None]:
    return nullcontext() if reader is None else bookmark.looked_through()


def _manifest(job: Job, endpoint: Endpoint, last: Path, scratch: Path) -> Manifest:
    """The manifest, by the last run's snapshot: one that begins meanwhile may put another in its place."""
    snapshot = scratch / MANIFEST
    try:
        os.link(
            last, snapshot
        )  # whoever makes another one puts it in its place, and leaves this one as it is
    except OSError:
        with suppress(OSError):  # then it is read as if there was none
            shutil.copyfile(last, snapshot)
    return plan.read_manifest(job, endpoint, snapshot, References())


def _check_place(directory: Path) -> None:
    """
    See that a run directory is one, or can be made.

    :raises InputError: it cannot.
    """
    try:
        place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        refused = "" if place.is_dir() else f"{place} is a file"
        (directory / LEDGER).exists()  # raises where the folder is closed
        if place.is_dir() and place != directory and not os.access(place, os.W_OK):
            refused = f"nothing can be written in {place}"
    except OSError as cause:
        refused = str(cause.strerror)
    if refused:
        raise InputError(f"{directory}: {refused}; choose another run directory with -o")


def _foreseen(
    job: Job,
    endpoint: Endpoint,
    manifest: Manifest,
    found: Survey,
    *,
    pace: Pace,
    counted: Decimal,
    room: Room,
    deadline: datetime | None,
    now: datetime,
) -> Preview:
    wanted, unpriced = needs(found, endpoint.provider)
    ways = {expect: Seen.of(rows) for expect, rows in found.ways.items()}
    band = None if unpriced else foretold(wanted, ways)
    loads = _loads(job, endpoint, found)
    time = _duration(pace, found, loads, now)
    budget = None if band is None else _budget(job, band, counted, found.wanted)
    due = None if deadline is None else _due(pace, loads[1], time, deadline, now)
    refused = [
        budget is not None and not budget.enough,
        due is not None and not due.met,
        room.shortage is not None,
    ]
    return Preview(
        manifest=job.manifest,
        directory=jobs.place(job),
        simulated=endpoint.provider.simulated,
        rows=manifest.rows,
        tasks=manifest.tasks,
        buy=found.wanted,
        for_words=found.wanted - found.pictures,
        cost=None if band is None else _cost(band, found, ways),
        tokens=_tokens(foretold(lengths(found, endpoint.provider), ways)),
        unpriced=tuple(unpriced),
        time=time,
        budget=budget,
        deadline=due,
        disk=room,
        exit_status=int(any(refused)),
        **{standing.value: found.counts[standing] for standing in Standing},
    )


def _cost(band: Band, found: Survey, ways: dict[Expect, Seen]) -> Cost:
    rows = sum(seen.count for seen in ways.values())
    answers = sum((seen.count * seen.mean for seen in ways.values()), ZERO)
    return Cost(
        low_usd=round(band.low, 4),
        likely_usd=round(band.likely, 4),
        high_usd=round(band.high, 4),
        observed=sum(map(len, found.answers.values())),
        answers_per_row=round(answers / rows, 3) if rows else Decimal(1),
    )


def _tokens(band: Band) -> Tokens:
    return Tokens(low=math.floor(band.low), likely=round(band.likely), high=math.ceil(band.high))


def _room(job: Job, endpoint: Endpoint, manifest: Manifest, reader: Reader | None, pictures: int) -> Room:
    directory = jobs.directory(job)
    place = next(folder for folder in (directory, *directory.absolute().parents) if folder.is_dir())
    space = plan.space_for(endpoint, manifest, reader, place, shipped=jobs.address(job) is not None)
    affordable = plan.affordable(job, endpoint, reader, pictures)
    return Room(
        needed_bytes=space.needed(affordable),
        free_bytes=space.look(place).bytes,
        shortage=plan.shortage(space, affordable),
    )


def _loads(job: Job, endpoint: Endpoint, found: Survey) -> tuple[Load, Load, Load]:
    """What is to be done: if it goes fast, as is likely, and if it goes slowly."""
    requests = busy = flow = doubt = slowest = 0.0
    scale = float(job.simulator.get("latency", 1)) if endpoint.provider.simulated else 1.0
    for kind, lot in found.lots.items():
        model = providers.model_of(endpoint.provider, kind.model)
        tempo = found.tempi.get(kind.model)
        if tempo is None or not tempo.rows:
            each, unsure, sent = model.seconds * scale, _UNSURE, 1.0
            flow += tokens(kind, lot, model)
        else:
            each, sent = tempo.busy_s / tempo.rows, tempo.requests / tempo.rows
            varies = max(0.0, tempo.squares / tempo.rows - each**2)
            unsure = min(_UNSURE, _Z * math.sqrt(varies / tempo.rows) / each) if each else 0.0
            flow += lot.tasks * tempo.tokens / tempo.rows
        requests += lot.tasks * sent
        busy += lot.tasks * each
        doubt += lot.tasks * each * unsure
        slowest = max(slowest, each / sent)
    share = doubt / busy if busy else 0.0
    latency = busy / requests if requests else 0.0
    slow, usual, quick = (
        Load(
            requests=requests,
            busy_s=busy * times,
            tokens=flow,
            latency_s=latency * times,
            chain_s=found.levels * slowest * times,
        )
        for times in (1 + share, 1, 1 - share)
    )
    return quick, usual, slow


def _duration(pace: Pace, found: Survey, loads: tuple[Load, Load, Load], now: datetime) -> Duration:
    quick, usual, slow = loads
    seconds, bottleneck = lasts(usual, pace)
    observed = {kind.model for kind in found.lots} & found.tempi.keys()
    return Duration(
        seconds=round(seconds, 1),
        seconds_low=round(lasts(quick, pace)[0], 1),
        seconds_high=round(lasts(slow, pace)[0], 1),
        done_at=_iso(_after(now, seconds)),
        latency_s=round(usual.latency_s, 2),
        observed=sum(found.tempi[name].rows for name in observed),
        requests=math.ceil(usual.requests),
        bottleneck=bottleneck,
        limit_rpm=pace.starts,
    )


def _after(now: datetime, seconds: float) -> datetime:
    """A moment to come; the last there is, where a rate is so low that no calendar has it."""
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _pace(job: Job, found: float | None) -> Pace:
    """:param found: requests a minute, as runs here have found out; what is declared goes before it."""
    declared = min((limit for limit in (job.rpm, job.ipm) if limit is not None), default=None)
    return Pace(
        concurrency=job.concurrency,
        starts=found if declared is None else declared,
        found=declared is None,
        tokens=job.tpm,
    )


def _due(pace: Pace, load: Load, time: Duration, deadline: datetime, now: datetime) -> DeadlineCheck:
    left = (deadline - now).total_seconds()
    met = time.seconds <= left
    way = None if met else faster(load, pace, left)
    return DeadlineCheck(
        deadline=_iso(deadline),
        met=met,
        possible=met or way is not None,
        concurrency=None if way is None else way.concurrency,
        starts=None if way is None else way.starts,
        tpm=None if way is None else way.tokens,
    )


def _budget(job: Job, band: Band, counted: Decimal, wanted: int) -> BudgetCheck | None:
    if job.budget is None:
        return None
    limit = Decimal(str(job.budget))
    left = max(ZERO, limit - counted)
    enough = not wanted or counted + band.high <= limit
    share = min(Decimal(1), left / band.likely) if band.likely else Decimal(1)
    return BudgetCheck(
        budget_usd=limit,
        counted_usd=counted,
        enough=enough,
        tasks=wanted if enough else min(wanted, int(wanted * share)),
        needed_usd=cents(counted + band.high) if wanted else limit,
    )
