"""How is it told what a run would do?"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from batchgen import disk, outlook, retyping
from batchgen import job as jobs
from batchgen.cli import rehearsing, running
from batchgen.cli.counting import per_minute, span
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.deadline import Bottleneck, parse
from batchgen.errors import InputError
from batchgen.job import OnUncertain
from batchgen.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.conditions import Wishes
    from batchgen.job import Job
    from batchgen.outlook import BudgetCheck, Cost, Duration, Preview

_NO_RUN = ("-n", "--dry-run", "--json", "--rehearse")
_OF_A_PLAN = ("--deadline", "--seeds", "--quota", "--latency", "--fault")
"""With a value each."""
_LETTERS = re.compile(r"-(?=[qv]*n)[nqv]+\Z")
"""Flags of one letter together, `-n` among them."""


def tell(
    source: str,
    given: Mapping[str, object],
    *,
    typed: Sequence[str],
    keys: set[str],
    as_json: bool,
    deadline: str | None = None,
    expected: Wishes | None = None,
    nights: int = 0,
) -> int:
    """
    Say what a run would do; 1 where budget, deadline or disk are in the way, else 0.

    :param typed: the arguments that asked for it.
    :param keys: what is not to be shown.
    :param expected: what a rehearsed night is like; None rehearses none.
    :param nights: so many are rehearsed.
    :raises InputError: the job, its manifest or the deadline cannot be used.
    """
    now = datetime.now().astimezone()
    due = None if deadline is None else parse(deadline, now)
    job = jobs.resolve(source, given)
    running.warn_of_environment(job)
    if expected is not None and job.manifest == "-":
        raise InputError(
            "--rehearse: a rehearsal reads the table again, and standard input is read only once"
        )
    found = outlook.preview(job, deadline=due, now=now)
    played = None if expected is None else rehearsing.play(job, expected, nights=nights)
    command = _command(typed, keys)
    if as_json:
        rehearsal = {} if played is None else {"rehearsal": played}
        say_json({**msgspec.structs.asdict(found), **rehearsal, "next": command})
    else:
        rehearsed = [] if played is None else rehearsing.told(played)
        say("\n".join([*_told(job, found, now), *rehearsed, *_next(found, command)]))
    return found.exit_status


def _command(typed: Sequence[str], keys: set[str]) -> list[str]:
    """The command that does it: what was typed, as a run."""
    rest = [*typed]
    for flag in _OF_A_PLAN:
        rest = retyping.without_flag(rest, flag)
    rest = [
        _LETTERS.sub(lambda flags: flags[0].replace("n", ""), argument)
        for argument in rest
        if argument not in _NO_RUN
    ]
    if "plan" in rest:
        rest[rest.index("plan")] = "run"
    redact = Redactor(keys)
    return [*running.program(), *(redact(argument) for argument in rest)]


def _told(job: Job, found: Preview, now: datetime) -> list[str]:
    what = "tasks" if found.for_words else "pictures"
    lines = [
        f"{line(found.manifest)}: {found.rows:,} rows, {found.tasks:,} {what}; nothing was sent",
        f"  {' · '.join([*_counts(job, found), *_sums(found)])}",
    ]
    if found.buy:
        told = found.tokens
        lines += [
            f"  cost      {_cost(found)}",
            f"  tokens    {told.low:,}–{told.high:,}",
            f"  time      {_time(job, found, now)}",
        ]
    lines += _checks(job, found, now)
    return [*lines, f"  directory {line(found.directory)}"]


def _counts(job: Job, found: Preview) -> list[str]:
    left = "left alone: --retry-failed takes them up"
    skips = job.on_uncertain is OnUncertain.SKIP
    told = {
        "done": found.done,
        "new": found.new,
        "changed": found.changed,
        "done and bought again": found.again,
        "failed, tried again": found.retried,
        "uncertain, asked for once more": found.uncertain_again,
        f"uncertain, {'left alone as --on-uncertain skip says' if skips else left}": found.uncertain_left,
        f"failed, {left}": found.failed,
        "waiting for rows this run is not about": found.waiting,
    }
    always = {"done", "new"}
    return [f"{count:,} {name}" for name, count in told.items() if count or name in always]


def _sums(found: Preview) -> list[str]:
    if not found.buy:
        return ["nothing to buy"]
    cost = [] if found.cost is None else [_band(found.cost)]
    return [*cost, _about(found.time.seconds)]


def _band(cost: Cost) -> str:
    low, high = round(cost.low_usd, 2), round(cost.high_usd, 2)
    return f"${low:,.2f}–{high:,.2f}" if low != high else f"${high:,.2f}"


def _cost(found: Preview) -> str:
    cost, words = found.cost, f" ({found.for_words:,} in words)" if found.for_words else ""
    if cost is None:
        return f"unknown: {', '.join(map(line, found.unpriced))} has no known price"
    by = "by prices alone; answers narrow it"
    if cost.observed:
        by = f"by {cost.observed:,} answers here; {cost.answers_per_row:.2f} of them a row"
    simulated = " (simulated: no money)" if found.simulated else ""
    return f"{_band(cost)} for {found.buy:,} to buy{words}, {by}{simulated}"


def _time(job: Job, found: Preview, now: datetime) -> str:
    time = found.time
    by = f"as {time.observed:,} rows here took" if time.observed else "as is usual for the models"
    bound = _bound(job, time)
    spans = f"{_about(time.seconds_low)} to {_about(time.seconds_high)}"
    return (
        f"about {_about(time.seconds)} ({spans}), done {_when(time.done_at, now)};"
        f" {time.latency_s:.1f} s a request, {by}; the limit is {bound}"
    )


def _about(seconds: float) -> str:
    """Minutes say enough from ten on."""
    return span(seconds if seconds < 600 else round(seconds / 60) * 60).removesuffix(" 0 s")


def _bound(job: Job, time: Duration) -> str:
    bottleneck = time.bottleneck
    if bottleneck is Bottleneck.FOUND:
        return f"the endpoint's own, {per_minute(time.limit_rpm or 0)} as runs here found out"
    if bottleneck is Bottleneck.RATE:
        return _rate(job)
    if bottleneck is Bottleneck.TOKENS:
        return f"--tpm {job.tpm:g}"
    return (
        f"--concurrency {job.concurrency}"
        if bottleneck is Bottleneck.CONCURRENCY
        else "the longest chain of rows"
    )


def _rate(job: Job) -> str:
    """The lower of the two limits of starts, as it is typed."""
    limits = {"--rpm": job.rpm, "--ipm": job.ipm}
    value, name = min((value, name) for name, value in limits.items() if value is not None)
    return f"{name} {value:g}"


def _when(moment: str, now: datetime) -> str:
    # The offset of now is not that of a morning after the clocks were changed.
    at = datetime.fromisoformat(moment).astimezone()
    return f"{at:%H:%M}" if at.date() == now.astimezone().date() else f"{at:%H:%M on %Y-%m-%d}"


def _checks(job: Job, found: Preview, now: datetime) -> list[str]:
    lines = []
    if (budget := found.budget) is not None:
        spent = f"; ${budget.counted_usd:,.2f} of it is used" if budget.counted_usd else ""
        lines.append(f"  budget    ${budget.budget_usd:,.2f}: {_affords(found, budget)}{spent}")
    if found.deadline is not None:
        lines.append(f"  deadline  {_when(found.deadline.deadline, now)}: {_in_time(job, found, now)}")
    room = found.disk
    free = "" if room.free_bytes is None else f", {disk.size(room.free_bytes)} are free"
    lines.append(f"  disk      {disk.size(room.needed_bytes)} needed{free}")
    if room.shortage is not None:
        lines.append(f"  too little room: {line(room.shortage)}")
    return lines


def _affords(found: Preview, budget: BudgetCheck) -> str:
    if budget.enough:
        return "enough"
    enough = f"${budget.needed_usd:,.2f} would do"
    if budget.tasks == found.buy:
        return f"likely enough, but not for certain; {enough}"
    return f"not enough, about {budget.tasks:,} of {found.buy:,}; {enough}"


def _in_time(job: Job, found: Preview, now: datetime) -> str:
    due = found.deadline
    if due is None or due.met:
        return f"met, done about {_when(found.time.done_at, now)}"
    late = f"not met, done about {_when(found.time.done_at, now)}"
    if not due.possible:
        return f"{late}; it cannot be met"
    flags = {"--concurrency": due.concurrency, "--tpm": due.tpm}
    if due.starts is not None:
        flags |= {
            name: due.starts
            for name, value in (("--rpm", job.rpm), ("--ipm", job.ipm))
            if value is not None and value < due.starts
        }
    told = [f"{name} {value}" for name, value in flags.items() if value is not None]
    return f"{late}; {' and '.join(told)} would do"


def _next(found: Preview, command: Sequence[str]) -> list[str]:
    if not found.buy:
        return []
    note = "with the same table on standard input" if found.manifest == "-" else ""
    return [f"next: {retyping.shown(command, note)}"]
