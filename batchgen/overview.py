"""
What is a run like at this moment: how far, how fast, at what cost, until when?

`look` reads the ledger at one moment, in a time that does not depend on the rows; all else is arithmetic.
"""

from __future__ import annotations

import shlex
from contextlib import closing
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from batchgen import retyping
from batchgen.errors import InputError
from batchgen.layout import JOB, LEDGER
from batchgen.ledger import LATEST, Failed, Moment, Onlooker, Run, Totals
from batchgen.records import ZERO, ErrorClass, Limit, Status, Usage, Value
from batchgen.retry import RULES, Action

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WINDOW = 300_000_000
"""Microseconds that count as now, where it is asked how fast a run is."""
_SLOW = frozenset({ErrorClass.RATE, ErrorClass.DAILY_QUOTA})
_TRIED_AGAIN = frozenset(kind for kind, rule in RULES.items() if rule.action is Action.RETRY)


class Phase(StrEnum):
    """What a run directory is in."""

    BUSY = "busy"
    """No run is open and something is at work: it reads the manifest, writes the table, or repairs."""
    RUNNING = "running"
    ENDED = "ended"
    KILLED = "killed"
    """It did not end and holds no lock any more."""
    ELSEWHERE = "elsewhere"
    """It did not end, on another machine, whose locks cannot be seen from here: at work, or killed."""


class Overview(Value, frozen=True, kw_only=True):
    """A run directory at one moment; the names are those of `status --json`."""

    directory: str
    phase: Phase
    simulated: bool
    rows: int | None
    """Tasks of the manifest; None before the first run has read it."""
    tasks: Mapping[str, int]
    """Tasks the ledger knows, by status."""
    in_words: int
    """Succeeded ones that have no picture: they were done in words."""
    done: int
    """Tasks that succeeded."""
    failed: int
    """Tasks that ended without success."""
    left: int | None
    """Tasks the run is about and that are neither; None where it is about chosen rows (`--only`)."""
    in_flight: int
    """Requests on their way; in a run that was killed those whose answer is lost."""
    rate_now: float | None
    """Tasks a minute that succeeded in the last five minutes of this run; None unless it is at work."""
    rate_run: float | None
    """The same over the whole run; None before anything succeeded."""
    eta_s: float | None
    """Seconds until nothing is left, at the rate of now; None where that cannot be told."""
    ends_at: int | None
    """The same as a time, in UTC microseconds."""
    requests: int
    """Requests ever sent from this directory."""
    rate_limited: int
    """Requests of this run that were answered 429."""
    retried: int
    """
    Requests of this run that failed in a way that is tried again, 429 aside; where it hedges, also those that
    were not waited for.
    """
    hedge: bool
    """Whether what is late is asked for once more (`--hedge`)."""
    late: int
    """Good answers of this run that came after another request for their row had brought one (`--hedge`)."""
    late_usd: Decimal
    """What those cost: a part of `wasted_usd`."""
    prompt_tokens: int
    text_tokens: int
    """All output that is no picture, reasoning included."""
    image_tokens: int
    total_tokens: int
    cost_usd: Decimal
    """Ever spent in this directory."""
    wasted_usd: Decimal
    """The part of it that bought no picture."""
    run_usd: Decimal
    """Spent by this run."""
    budget_usd: Decimal | None
    counted_usd: Decimal
    """What counts against a budget: all that was ever billed here, and `uncertain_usd`."""
    reserved_usd: Decimal
    """What is in flight may cost so much at most."""
    uncertain: int
    """Requests that may have been billed, without an answer that says so."""
    uncertain_usd: Decimal
    """What they may have cost."""
    unpriced: int
    """Requests with tokens whose model has no known price."""
    failures: tuple[Failed, ...]
    """Unsuccessful tasks by error class, each with an example."""
    run: Run | None
    """The newest run: when it began and ended (UTC microseconds), why, as which process."""
    rate_limit: Limit
    """Requests a minute that the endpoint takes, as the newest run found out; empty where it is declared."""
    next: str | None
    """What to type next; None where nothing is known to be better than the same command."""


_NOTHING = Moment(
    totals=Totals(
        tasks={},
        in_words=0,
        requests=0,
        usage=Usage(),
        cost_usd=ZERO,
        wasted_usd=ZERO,
        uncertain=0,
        uncertain_usd=ZERO,
        counted_usd=ZERO,
        unpriced=0,
    ),
    failures=(),
    run=None,
    answered={},
    run_usd=ZERO,
    late_usd=ZERO,
    open=0,
    reserved_usd=ZERO,
    latest=(),
    limit=Limit(),
)
"""What a directory is like in which the first run reads its manifest."""


class Told(Value, frozen=True, kw_only=True):
    """What the run was told, as far as it matters here."""

    budget: float | None = None
    limit: int | None = None
    only: str | None = None
    hedge: bool = False


def look(directory: Path, *, name: str, held: bool, now: int, host: str) -> Overview:
    """
    See what a run is like.

    :param directory: where its ledger is.
    :param name: how the run is called.
    :param held: whether somebody is at work on it.
    :param now: UTC microseconds.
    :param host: the name of this machine.
    :raises InputError: this is no run directory, or what lies in it cannot be read.
    """
    path = directory / LEDGER
    if held and not path.is_file():
        return summed(name, _NOTHING, Told(), held=True, now=now, host=host)
    with closing(Onlooker(path)) as reader:
        moment = reader.moment()
    return summed(name, moment, _told(directory), held=held, now=now, host=host)


def summed(directory: str, moment: Moment, told: Told, *, held: bool, now: int, host: str) -> Overview:
    """
    Make the overview of what the ledger said.

    :param held: whether somebody holds the directory's lock.
    """
    totals, run = moment.totals, moment.run
    done = totals.tasks.get(Status.SUCCEEDED, 0)
    failed = sum(totals.tasks.values()) - done - totals.tasks.get(Status.PENDING, 0)
    phase = _phase(run, held=held, host=host)
    left = _left(run, told, done + failed)
    fast = _rate_now(moment, now) if phase is Phase.RUNNING else None
    overall = _rate_run(moment, now, phase)
    pace = fast or overall
    eta = left * 60 / pace if phase is Phase.RUNNING and left is not None and pace else None
    return Overview(
        directory=directory,
        phase=phase,
        simulated=run is not None and run.simulated,
        rows=None if run is None else run.tasks or None,
        tasks=totals.tasks,
        in_words=totals.in_words,
        done=done,
        failed=failed,
        left=left,
        in_flight=moment.open,
        rate_now=fast,
        rate_run=overall,
        eta_s=eta,
        ends_at=None if eta is None else now + int(eta * 1_000_000),
        requests=totals.requests,
        rate_limited=sum(moment.answered.get(kind, 0) for kind in _SLOW),
        retried=sum(moment.answered.get(kind, 0) for kind in _TRIED_AGAIN),
        hedge=told.hedge,
        late=moment.answered.get(ErrorClass.LATE, 0),
        late_usd=moment.late_usd,
        prompt_tokens=totals.usage.prompt_tokens,
        text_tokens=totals.usage.text_tokens,
        image_tokens=totals.usage.image_tokens,
        total_tokens=totals.usage.total_tokens,
        cost_usd=totals.cost_usd,
        wasted_usd=totals.wasted_usd,
        run_usd=moment.run_usd,
        budget_usd=None if told.budget is None else Decimal(str(told.budget)),
        counted_usd=totals.counted_usd,
        reserved_usd=moment.reserved_usd,
        uncertain=totals.uncertain,
        uncertain_usd=totals.uncertain_usd,
        unpriced=totals.unpriced,
        failures=moment.failures,
        run=run,
        rate_limit=moment.limit,
        next=_next(directory, run, phase, left=left, failed=failed),
    )


def _told(directory: Path) -> Told:
    path = directory / JOB
    try:
        return msgspec.json.decode(path.read_bytes(), type=Told)
    except FileNotFoundError:
        return Told()  # of a ledger that was brought here alone
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as cause:
        raise InputError(f"{path}: {cause}; move it away, the next run writes it anew") from cause


def _phase(run: Run | None, *, held: bool, host: str) -> Phase:
    over = run is None or run.ended_at is not None
    if held:
        return Phase.BUSY if over else Phase.RUNNING
    if over:
        return Phase.ENDED
    return Phase.KILLED if run is not None and run.host == host else Phase.ELSEWHERE


def _left(run: Run | None, told: Told, final: int) -> int | None:
    if run is None or not run.tasks or told.only is not None:
        return None
    return max(0, min(run.tasks, told.limit or run.tasks) - final)


def _rate_now(moment: Moment, now: int) -> float | None:
    if moment.run is None or not moment.latest:
        return None
    since = max(moment.run.started_at, now - _WINDOW)
    if len(moment.latest) >= LATEST:
        # Others began before these: once those have been answered too, none but these are.
        took = [one.settled_at - one.started_at for one in moment.latest if one.settled_at is not None]
        first = min(one.started_at for one in moment.latest)
        since = max(since, first + sum(took) // max(1, len(took)))
    good = sum(one.good and since <= (one.settled_at or 0) for one in moment.latest)
    return _per_minute(good, now - since)


def _rate_run(moment: Moment, now: int, phase: Phase) -> float | None:
    if moment.run is None or phase is Phase.BUSY:
        return None
    until = now
    if phase is not Phase.RUNNING:
        seen = (one.settled_at or one.started_at for one in moment.latest)
        until = moment.run.ended_at or max(seen, default=moment.run.started_at)
    return _per_minute(moment.answered.get("", 0), until - moment.run.started_at) or None


def _per_minute(count: int, span: int) -> float | None:
    """A rate, from microseconds."""
    return count * 60_000_000 / span if span > 0 else None


def _next(directory: str, run: Run | None, phase: Phase, *, left: int | None, failed: int) -> str | None:
    if phase in {Phase.BUSY, Phase.RUNNING} or run is None:
        return None
    if phase is not Phase.ENDED or left or run.ended != "done":
        return run.command
    if not failed:
        return shlex.join([*retyping.program_of(run.command), "report", directory])
    if run.command is None:
        return None
    return retyping.shown_with(run.command, "--retry-failed")
