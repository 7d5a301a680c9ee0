"""
What is written to a log file while a run is at work?

One JSON object a line, for cron, dashboards and whoever asks in the morning what happened at three. The
ledger is the truth of a run: what cannot be logged is told once and missed, and buying goes on.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from batchgen.errors import InputError
from batchgen.records import ZERO, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from batchgen.records import Limit, Outcome, Task

logger = logging.getLogger("batchgen")

_WAITING = 20_000
"""Events that wait for the disk at most; more are missed, not kept in memory."""
_AT_ONCE = 512
_PATIENCE = 10.0
"""Seconds for what still waits when the run has ended."""


class RunStarted(Value, frozen=True, kw_only=True, tag_field="event", tag="run_started"):
    """A run has read its manifest and begins to buy."""

    directory: str
    manifest: str
    rows: int
    """Tasks of the manifest."""
    provider: str
    model: str
    """Sent where a row names none."""
    simulated: bool
    concurrency: int
    budget_usd: Decimal | None
    pid: int
    host: str
    version: str


class Attempt(Value, frozen=True, kw_only=True, tag_field="event", tag="attempt"):
    """A request was answered, or will not be; it is in the ledger."""

    row: str
    """The row's id."""
    variant: int
    task_key: str
    attempt: int
    """Which request of this run for this task it is, from 1."""
    hedge: bool
    """Whether it was sent while the one before was in flight, and late."""
    model: str
    error_class: str | None
    """None where it brought what was asked for."""
    message: str | None
    http_status: int | None
    """Of the answer; None where none came."""
    request_id: str | None
    latency_s: float
    prompt_tokens: int
    text_tokens: int
    image_tokens: int
    total_tokens: int
    cost_usd: Decimal | None
    """None where the model has no price or the answer is not known."""
    wasted_usd: Decimal | None
    """The same where it bought no picture, else 0."""


class TaskEnded(Value, frozen=True, kw_only=True, tag_field="event", tag="task"):
    """A task is final."""

    row: str
    variant: int
    task_key: str
    status: str
    """As in the table."""
    file_name: str | None
    """Of its picture, relative to the run directory."""
    error_class: str | None
    message: str | None


class Cooled(Value, frozen=True, kw_only=True, tag_field="event", tag="cooled"):
    """After an answer 429, or one that says nothing is left, nothing is sent for a while."""

    seconds: float


class Parked(Value, frozen=True, kw_only=True, tag_field="event", tag="parked"):
    """The day's quota is used up, and the run waits for its reset."""

    seconds: float


class LimitFound(Value, frozen=True, kw_only=True, tag_field="event", tag="rate_limit"):
    """How many requests a minute the endpoint takes was found out, or has changed by a tenth or more."""

    per_minute: float
    """What the run reckons with: the lower of the two."""
    felt: float | None
    """As answers 429 taught."""
    stated: float | None
    """As the endpoint says itself."""


class Stopped(Value, frozen=True, kw_only=True, tag_field="event", tag="stopped"):
    """Nothing new is begun; what is in flight ends."""

    reason: str
    message: str


class Missed(Value, frozen=True, kw_only=True, tag_field="event", tag="missed"):
    """So many events before this one could not be written."""

    events: int


class RunEnded(Value, frozen=True, kw_only=True, tag_field="event", tag="run_ended"):
    """The run is over."""

    reason: str
    """`done`, why it stopped, or what went wrong."""
    exit_status: int | None
    """None where something went wrong."""
    summary: Mapping[str, object] | None
    """What `run --json` says; None where something went wrong."""


Event = RunStarted | Attempt | TaskEnded | Cooled | Parked | LimitFound | Stopped | Missed | RunEnded
EVENTS: tuple[type[Event], ...] = (
    RunStarted, Attempt, TaskEnded, Cooled, Parked, LimitFound, Stopped, Missed, RunEnded,
)  # fmt: skip


def attempted(task: Task, outcome: Outcome, *, number: int, hedge: bool) -> Attempt:
    """What one request came to."""
    failed = outcome.kind is not None
    cost = outcome.cost_usd
    return Attempt(
        row=task.id,
        variant=task.variant,
        task_key=task.key,
        attempt=number,
        hedge=hedge,
        model=task.model,
        error_class=outcome.kind,
        message=outcome.message,
        http_status=outcome.http_status,
        request_id=outcome.request_id,
        latency_s=round(outcome.latency, 3),
        prompt_tokens=outcome.usage.prompt_tokens,
        text_tokens=outcome.usage.text_tokens,
        image_tokens=outcome.usage.image_tokens,
        total_tokens=outcome.usage.total_tokens,
        cost_usd=cost,
        wasted_usd=cost if failed or cost is None else ZERO,
    )


def ended(task: Task, status: str, outcome: Outcome) -> TaskEnded:
    """What became of a task with its last request."""
    good = outcome.kind is None and outcome.images
    return TaskEnded(
        row=task.id,
        variant=task.variant,
        task_key=task.key,
        status=status,
        file_name=outcome.images[-1].file_name if good else None,
        error_class=outcome.kind,
        message=outcome.message,
    )


def unsent(task: Task, status: str, error_class: str | None, message: str) -> TaskEnded:
    """A task that is final without a request of this run."""
    return TaskEnded(
        row=task.id,
        variant=task.variant,
        task_key=task.key,
        status=status,
        file_name=None,
        error_class=error_class,
        message=message,
    )


def found(limit: Limit) -> LimitFound:
    """What was found out of a limit that nobody declared."""
    return LimitFound(per_minute=limit.per_minute or 0.0, felt=limit.felt, stated=limit.stated)


def unheard(_: Event) -> None:
    """Take an event where there is no log file."""


def _check_is_a_log(path: Path) -> None:
    """
    See that nothing else is there: lines added to a table of prompts would be bought.

    :raises InputError: it is.
    """
    with suppress(PermissionError):  # it may be written and not read
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                first = file.read(1)
            if first != b"{":
                raise InputError(
                    f"--log-file: {path}: this is something else, to which lines would be added; name another"
                )


class Log:
    """
    A file that events are appended to, by a thread of its own.

    Opened anew where it has been moved away (logrotate). A line that a crash has torn is ended first. Whoever
    hands over an event never waits.
    """

    def __init__(self, path: Path, *, wall: Callable[[], float], redact: Callable[[str], str]) -> None:
        """
        Open the file; it is made where there is none.

        :param wall: seconds since 1970.
        :param redact: takes keys out of a text.
        :raises InputError: it cannot be written, or is something else.
        """
        self._path = path
        self._wall = wall
        self._redact = redact
        self._queue: SimpleQueue[tuple[float, str, Event] | None] = SimpleQueue()
        self._refused = self._lost = self._admitted = 0
        """Events without room to wait, those that could not be written, and how many the file tells of."""
        self._told = False
        self._torn = False
        self._identity = (0, 0)
        self._file = -1
        try:
            _check_is_a_log(path)
            self._open()
        except OSError as cause:
            raise InputError(
                f"--log-file: {path}: {cause.strerror}; it names a file in a folder that can be written"
            ) from cause
        self._thread = threading.Thread(target=self._carry_out, name="log file", daemon=True)
        self._thread.start()

    def put(self, run: str, event: Event) -> None:
        """Hand over an event of a run, to be written as soon as can be."""
        if self._queue.qsize() >= _WAITING:
            self._refused += 1
        else:
            self._queue.put((self._wall(), run, event))

    def close(self) -> None:
        """Write what waits, for some seconds at most."""
        self._queue.put(None)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._tell("it takes nothing any more")
            return  # and is left with its file: the thread may still be writing
        self._close()

    def _carry_out(self) -> None:
        over = False
        while not over:
            taken = [self._queue.get()]
            while len(taken) < _AT_ONCE and not self._queue.empty():
                taken.append(self._queue.get())
            over = None in taken
            entries = [entry for entry in taken if entry is not None]
            if entries:
                self._write(entries)

    def _write(self, entries: list[tuple[float, str, Event]]) -> None:
        missed = self._refused + self._lost - self._admitted
        if missed:
            at, run, _ = entries[0]
            entries = [(at, run, Missed(events=missed)), *entries]
        data = b"".join(self._line(*entry) for entry in entries)
        try:
            self._follow()
            if self._torn:
                data = b"\n" + data
            while data:
                written = os.write(self._file, data)
                self._torn = data[written - 1 : written] != b"\n"
                data = data[written:]
        except OSError as cause:
            # Of a line that was written in part the rest is missed too.
            self._lost += max(0, data.count(b"\n") - bool(missed))
            self._tell(cause.strerror or str(cause))
        else:
            self._admitted += missed

    def _line(self, at: float, run: str, event: Event) -> bytes:
        time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, object] = msgspec.to_builtins(event, builtin_types=(Decimal,))
        told = {"time": time, "run": run, **fields}
        return msgspec.json.encode(self._plain(told)) + b"\n"

    def _plain(self, value: object) -> object:
        """Decimals in full, texts without keys and such as can be encoded."""
        if isinstance(value, dict):
            return {key: self._plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        if isinstance(value, Decimal):
            return f"{value:f}"
        if isinstance(value, str):
            return self._redact(value).encode(errors="backslashreplace").decode()
        return value

    def _follow(self) -> None:
        """Open the file anew where the name leads to another one by now, or to none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        if self._file < 0 or found is None or (found.st_dev, found.st_ino) != self._identity:
            self._close()
            self._open()

    def _open(self) -> None:
        # Not waiting for the reader of a pipe: there may be none.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        self._file = os.open(self._path, flags, 0o666)
        os.set_blocking(self._file, True)
        found = os.fstat(self._file)
        self._identity = found.st_dev, found.st_ino
        self._torn = stat.S_ISREG(found.st_mode) and found.st_size > 0 and not self._is_whole()

    def _is_whole(self) -> bool:
        try:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        except PermissionError:
            return False  # it may be written and not read

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            with suppress(OSError):  # it says what the last write said
                os.close(file)

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            logger.error("%s: %s; events are missed there, the run goes on", self._path, why)


@contextmanager
def logged(
    path: Path | None, *, wall: Callable[[], float], redact: Callable[[str], str]
) -> Iterator[Callable[[str], Callable[[Event], None]]]:
    """
    Give what makes, of the name of a run, the place for its events.

    :raises InputError: the file cannot be written.
    """
    if path is None:
        yield lambda _: unheard
        return
    log = Log(path, wall=wall, redact=redact)
    try:
        yield lambda run: partial(log.put, run)
    finally:
        log.close()
