"""How is a run told at the terminal, from its first tick to its summary?"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
from tqdm import tqdm

from batchgen import job as jobs
from batchgen import runner
from batchgen.cli.counting import counted, limit_told, looks_told, span
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.errors import StorageError, nearest
from batchgen.records import ErrorClass
from batchgen.retry import RULES
from batchgen.retyping import shown, with_flags, without_flag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from batchgen.job import Job
    from batchgen.progress import Progress
    from batchgen.runner import Summary

_LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
_ONCE = ("--again", "--retry-failed")
"""Flags of which the ledger keeps what is still to be done: a resumed run has them no more."""
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def run(
    source: str,
    given: Mapping[str, object],
    *,
    typed: Sequence[str],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    keys: set[str],
) -> int:
    """
    Carry out a run and tell it; its exit status.

    :param typed: the arguments that asked for it.
    :param keys: what no message may show; the key of this run is added.
    """
    job = jobs.resolve(source, given)
    if job.manifest != "-" and not Path(job.manifest).exists():
        raise jobs.missing(Path(job.manifest))  # before anything is said of keys
    keys.add(jobs.endpoint(job, os.environ).key or "")
    warn_of_environment(job)
    command, note = command_line(job, typed), _note(job, typed)
    watch = None if quiet else (_Bar() if sys.stderr.isatty() else _Lines())
    _log_to(watch or _Lines(), logging.INFO if verbose and not quiet else logging.WARNING)
    try:
        summary = runner.run(
            job,
            on_progress=watch,
            on_look=watch.looked if watch else None,
            signals=True,
            command=shown(command, note),
        )
    except StorageError as cause:
        raise StorageError(f"{cause}\n  {shown(command, note)}") from cause
    finally:
        if watch is not None:
            watch.close()
    resume = _resume(job, summary, command)
    if as_json:
        say_json({**msgspec.structs.asdict(summary), "resume": resume})
    else:
        say("\n".join([*_told(summary), *_next(summary, resume, note)]))
    return summary.exit_status


def program() -> list[str]:
    """How this program was called."""
    name = sys.argv[0]
    if Path(name).name == "__main__.py":
        return [sys.executable, "-m", "batchgen"]
    return [Path(name).name if shutil.which(Path(name).name) == name else name]


def command_line(job: Job, typed: Sequence[str]) -> list[str]:
    """The command that goes on with this run: the one that was typed, without what is done only once."""
    endpoint = jobs.endpoint(job, os.environ)
    key = None if endpoint.provider.simulated else endpoint.key
    rest = [argument for argument in typed if argument not in _ONCE]
    return [*program(), *(argument.replace(key, "[key]") if key else argument for argument in rest)]


def _note(job: Job, typed: Sequence[str]) -> str:
    """What that command cannot say itself."""
    if job.again and "--again" not in typed:
        return "after `again` is out of the job file: what it bought anew would be bought once more"
    return "with the same table on standard input" if job.manifest == "-" else ""


def _resume(job: Job, summary: Summary, command: Sequence[str]) -> list[str] | None:
    """The command for what this run leaves to be done; None when that is nothing."""
    if summary.left or summary.not_looked_at:
        mute = summary.stopped is not None and summary.stopped.reason == ErrorClass.ENDPOINT_INCAPABLE
        known = job.base_url is None and job.dialect is None
        return with_flags(command, "--dialect", "gemini") if mute and known else [*command]
    return with_flags(command, "--retry-failed") if summary.exit_status == 1 and summary.failed else None


def warn_of_environment(job: jobs.Job) -> None:
    """Say what is set and not used."""
    _warn_of_typos()
    _warn_of_second_key(job)


def _warn_of_typos() -> None:
    known = {f"BATCHGEN_{name.upper()}" for name in jobs.Job.__struct_fields__} | {"BATCHGEN_API_KEY"}
    for name in sorted(set(os.environ) - known):
        if name.startswith("BATCHGEN_"):
            sys.stderr.write(f"batchgen: {line(name)} is set and means nothing{nearest(name, known)}\n")


def _warn_of_second_key(job: jobs.Job) -> None:
    if job.key_file is not None and os.environ.get("BATCHGEN_API_KEY", "").strip():
        sys.stderr.write(f"batchgen: the key is the one in {line(job.key_file)}, not in BATCHGEN_API_KEY\n")


class _Bar:
    """A progress bar for a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._looking = False
        self._drawn = 0.0

    def __call__(self, progress: Progress) -> None:
        # A terminal that has gone away must not end a run that is paid for.
        with suppress(OSError, ValueError):
            bar = self._bar = self._bar or _bar(progress.total)
            bar.initial = progress.skipped
            bar.n = progress.skipped + progress.succeeded + progress.failed
            bar.set_postfix_str(_postfix(progress).removeprefix(", "), refresh=False)
            if time.monotonic() - self._drawn >= bar.mininterval:
                self._drawn = time.monotonic()
                bar.refresh()

    def looked(self, done: int, total: int) -> None:
        with suppress(OSError, ValueError):
            if not self._looking:
                self.close()
                self._looking, self._bar = True, _bar(total, "looking ")
            if self._bar is not None:
                self._bar.update(done - self._bar.n)

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            tqdm.write(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar.refresh()
                self._bar.close()


def _bar(total: int, what: str = "") -> tqdm[NoReturn]:
    form = what + _BAR
    return tqdm(total=total, unit="img", bar_format=form, smoothing=0, dynamic_ncols=True, file=sys.stderr)


class _Lines:
    """A plain line now and then, for logs."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY:
            return
        self._last = now
        done = progress.skipped + progress.succeeded + progress.failed
        new = progress.succeeded + progress.failed
        rate = new / (now - self._began)
        left = span((progress.total - done) / rate) if rate else "?"
        self.write(f"{done:,}/{progress.total:,}{_postfix(progress)}, {rate * 60:.1f}/min, {left} left")

    def looked(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= _LINE_EVERY:
            self._last = time.monotonic()
            self.write(f"looked at {done:,}/{total:,}")

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Nothing is held."""


class _Handler(logging.Handler):
    def __init__(self, watch: _Bar | _Lines) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.write(line(self.format(record)))


def _log_to(watch: _Bar | _Lines, level: int) -> None:
    log = logging.getLogger("batchgen")
    log.handlers = [_Handler(watch)]
    log.setLevel(level)
    log.propagate = False


def _postfix(progress: Progress) -> str:
    parts = [f"{progress.failed:,} failed" if progress.failed else "", f"${progress.spent_usd:,.2f}"]
    parts.append(f"{progress.in_flight} in flight")
    parts.append(f"{progress.waiting} waiting to retry" if progress.waiting else "")
    parts.append(f"{progress.hedges} hedged" if progress.hedges else "")
    limit = progress.rate_limit.per_minute
    about = "~" if limit == progress.rate_limit.felt else ""
    parts.append("" if limit is None else f"limit {about}{limit:,.0f}/min")
    parts.append(f"quota: next in {span(progress.cooling)}" if progress.cooling >= 1 else "")
    parts.append(f"stopping: {progress.stopping}" if progress.stopping else "")
    return "".join(f", {part}" for part in parts if part)


def _told(summary: Summary) -> list[str]:
    total, for_words = sum(summary.tasks.values()), summary.for_words > 0
    simulated = "  (simulated: no money was spent)" if summary.simulated else ""
    lines = [
        f"{counted(summary.tasks, total, for_words=for_words, in_words=summary.in_words)};"
        f" {summary.bought:,} bought now with {summary.requests:,} requests in {span(summary.elapsed_s)}",
        f"  cost      {_cost(summary)}{simulated}",
        f"  tokens    {summary.prompt_tokens:,} in, {summary.text_tokens:,} text out,"
        f" {summary.image_tokens:,} image out",
    ]
    if summary.spent_usd != summary.cost_usd or summary.run_usd not in (0, summary.spent_usd):
        lines.append(
            f"  spent     ${summary.run_usd:,.4f} now, ${summary.spent_usd:,.4f} ever in this directory"
        )
    if summary.hedges:
        lines.append(
            f"  hedged    {summary.hedges:,} requests asked again for late ones, {summary.hedges_won:,}"
            f" came first; ${summary.hedges_usd:,.4f} for those that came second"
        )
    if summary.uncertain:
        lines.append(
            f"  uncertain {summary.uncertain:,} requests may have been billed without an answer that says so;"
            f" {_at_most(summary.uncertain_usd)} more"
        )
    if summary.budget_usd is not None and summary.counted_usd > summary.budget_usd:
        lines.append(
            f"  budget    passed: ${summary.counted_usd:,.4f} of ${summary.budget_usd:,.2f};"
            " a picture was billed dearer than any before it, or the budget was lowered"
        )
    if summary.wrong_size:
        are = "picture is" if summary.wrong_size == 1 else "pictures are"
        lines.append(
            f"  sizes     {summary.wrong_size:,} {are} not of the size that was asked for:"
            " `size_ok` in the table tells which"
        )
    lines += limit_told(summary.rate_limit)
    lines += looks_told(summary.blank, summary.near_duplicates)
    if summary.unreadable:
        lines.append(
            f"  unread    {summary.unreadable:,} could not be looked at: gone, or changed since bought"
        )
    if summary.unpriced and summary.cost_usd:
        lines.append(f"  unpriced  {summary.unpriced:,} rows: their model has no known price")
    lines += [f"  pictures  {summary.directory}/images/", f"  table     {summary.table}"]
    for kind, count, example in summary.failures:
        lines += [f"  {count:,} x {kind}: {line(example)}", f"      {RULES[ErrorClass(kind)].remedy}"]
    return lines


def _cost(summary: Summary) -> str:
    if summary.unpriced and not summary.cost_usd:
        return "unknown: the model has no known price"
    wasted = f", ${summary.wasted_usd:,.4f} of it bought no picture" if summary.wasted_usd else ""
    return f"${summary.cost_usd:,.4f}{wasted}"


def _at_most(amount: Decimal) -> str:
    return f"up to ${amount:,.4f}" if amount else "an unknown amount"


def _next(summary: Summary, resume: Sequence[str] | None, note: str) -> list[str]:
    lines: list[str] = []
    stopped = summary.stopped
    if stopped is not None:
        lines.append(f"stopped: {line(stopped.message)}")
    if summary.left:
        about = f", about ${summary.left_usd:,.2f}" if summary.left_usd else ""
        what = "rows" if summary.for_words else "pictures"
        lines.append(f"left: {summary.left:,} of {sum(summary.tasks.values()):,} {what}{about}")
    if summary.not_looked_at:
        lines.append(f"left: {summary.not_looked_at:,} pictures to be looked at")
    if summary.waiting:
        rows = (
            "row waits for the one it continues"
            if summary.waiting == 1
            else "rows wait for those they continue"
        )
        rest = "which this run was not about: --only and --limit must take in both"
        lines.append(f"waiting: {summary.waiting:,} {rows}, {rest}")
    if resume is None:
        return [*lines, f"next: {shlex.join([*program(), 'report', summary.directory])}"]
    lines.append(f"next: {stopped.remedy if stopped is not None else 'take up what failed'}")
    if summary.budget_needed is not None:
        resume = with_flags(without_flag(resume, "--budget"), "--budget", str(summary.budget_needed))
    return [*lines, f"  {shown(resume, note)}"]
