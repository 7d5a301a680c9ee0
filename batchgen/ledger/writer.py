"""How does an attempt get into the ledger, durably and in the right order?"""

from __future__ import annotations

import os
import socket
import sqlite3
import unicodedata
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.to_thread
import msgspec

from batchgen.errors import StorageError
from batchgen.ledger import sums
from batchgen.ledger.ballast import Ballast
from batchgen.ledger.schema import QUALITIES, connect, is_full, nano, storage_error, transaction
from batchgen.records import ErrorClass, Expect, Outcome, Status, UsageQuality, Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path

    from batchgen.ledger.reader import Unanswered
    from batchgen.records import Image, Limit, Look


T = TypeVar("T")


_PUT_BACK = """
UPDATE tasks SET status = ifnull(:status, status), error_message = ifnull(:message, error_message),
  finished_at = :now, uncertain = CASE WHEN :status IS NULL THEN uncertain ELSE 0 END,
  images = CASE WHEN :status IS NULL THEN (SELECT json_group_array(json(value))
    FROM json_each(images) WHERE json_extract(value, '$.file_name') <> :file) END
WHERE key = :key
"""
_RECOUNT = """
UPDATE tasks SET (prompt_tokens, text_tokens, image_tokens, total_tokens, cost, billed, wasted) =
  (SELECT ifnull(sum(prompt_tokens), 0), ifnull(sum(text_tokens), 0), ifnull(sum(image_tokens), 0),
    ifnull(sum(total_tokens), 0), sum(cost), sum(billed),
    sum(CASE WHEN error_class IS NOT NULL THEN cost WHEN cost IS NOT NULL THEN 0 END)
   FROM attempts WHERE attempts.key = tasks.key)
"""


_NOTE_LIMIT = "INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?)"
# What an attempt adds to its task, and what the task is from then on.
_SUMMED = """
attempts = attempts + :counts,
prompt_tokens = prompt_tokens + :prompt, text_tokens = text_tokens + :text_tokens,
image_tokens = image_tokens + :image, total_tokens = total_tokens + :total,
quality = max(quality, :quality),
cost = coalesce(cost + :cost, cost, :cost), wasted = coalesce(wasted + :wasted, wasted, :wasted),
billed = coalesce(billed + :billed, billed, :billed),
credits = coalesce(credits + :credits, credits, :credits)"""
_TOLD = """
status = :status, uncertain = uncertain + :uncertain,
images = :images, text = :text, reasoning = :reasoning, tool_calls = :tool_calls,
finish_reason = :finish_reason, error_class = :error_class,
error_message = :error_message, request_id = :request_id,
started_at = ifnull(started_at, :started_at), finished_at = :now, latency = :latency"""
_COUNT_UNANSWERED = """
UPDATE tasks SET attempts = attempts + (SELECT count(*) FROM attempts
  WHERE attempts.key = tasks.key AND settled_at IS NULL AND submitted_at IS NOT NULL)
WHERE key IN (SELECT key FROM attempts WHERE settled_at IS NULL AND submitted_at IS NOT NULL)
"""
_CALL_UNCERTAIN = """
UPDATE tasks SET error_class = 'uncertain', uncertain = uncertain + 1,
  error_message = 'the run ended before the answer was recorded; the request may have been billed'
WHERE status = 'pending'
  AND key IN (SELECT key FROM attempts WHERE settled_at IS NULL AND submitted_at IS NOT NULL)
"""


class _Ticket(Generic[T]):
    """An operation waiting for its commit, and what came of it."""

    __slots__ = ("_operation", "_values", "error")

    def __init__(self, operation: Callable[[sqlite3.Connection], T]) -> None:
        self._operation = operation
        self._values: list[T] = []
        self.error: StorageError | None = None

    def work(self, connection: sqlite3.Connection) -> None:
        """Do it, as a part of the transaction."""
        self._values = [self._operation(connection)]

    @property
    def done(self) -> bool:
        """Whether its transaction has ended, one way or the other."""
        return bool(self._values) or self.error is not None

    def anew(self) -> _Ticket[T]:
        """The same operation, for another transaction."""
        return _Ticket(self._operation)

    def value(self) -> T:
        """What the operation returned; its error if the transaction failed."""
        if self.error is not None:
            raise self.error
        return self._values[0]


class Orphan(Value, frozen=True, kw_only=True):
    """A task for which nothing can be sent: what it continues has no picture."""

    key: str
    row_id: str
    stem: str
    model: str
    message: str


class Attempt:
    """One request that is about to be made; its number and file name are known once it is submitted."""

    __slots__ = ("key", "submitted_at", "ticket")

    def __init__(self, key: str) -> None:
        self.key = key
        self.submitted_at: int | None = None
        """What is noted with its start, if it is known by then."""
        self.ticket: _Ticket[tuple[int, str]]

    @property
    def id(self) -> int:
        """Its number in the ledger."""
        return self.ticket.value()[0]

    @property
    def stem(self) -> str:
        """The file it may fill, without extension."""
        return self.ticket.value()[1]


async def _in_thread(call: Callable[[], None]) -> None:
    await anyio.to_thread.run_sync(call)


class Ledger:
    """
    The writing side, one a run directory (the caller holds its lock).

    Operations that arrive while a commit is on its way share the next one: whoever comes first after it takes
    along all that wait. A call that has returned is on disk. All raise `StorageError` when the disk refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        blocking: Callable[[Callable[[], None]], Awaitable[None]] | None = None,
        durable: bool = True,
        shipped: bool = False,
    ) -> None:
        """
        Open the ledger, or make it.

        :param blocking: runs blocking calls; threads unless given.
        :param durable: False for a copy that nobody needs after a crash: file names and numbers of attempts
            are then known with the next commit, not with their own `submitted`.
        :param shipped: whether its write-ahead log grows until a `Log` begins it anew, with copies of it.
        """
        self.path = path
        self._blocking = blocking or _in_thread
        self._waiting: list[_Ticket[Any]] = []
        self._turn = anyio.Lock(fast_acquire=True)
        self._durable = durable
        self._connection = connect(path, make=True, durable=durable)
        if shipped:
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._ballast = Ballast(path.with_name(f"{path.name}-ballast"))
        self.run = 0
        """The number of the run that was begun; 0 before that."""
        self._limit: tuple[object, ...] | None = None
        """The last one that was noted."""

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        self._connection.close()
        self._ballast.release()

    def begin(
        self,
        *,
        now: int,
        provider: str,
        simulated: bool,
        tasks: int,
        version: str,
        in_flight: int,
        command: str | None = None,
    ) -> None:
        """
        Open a run, after settling what an earlier one left behind as uncertain or never sent.

        :param in_flight: attempts at once, at most: there is space on the disk for what they come to.
        :param command: what a person types to go on with it.
        """

        def write(connection: sqlite3.Connection) -> None:
            _settle_leftovers(connection, now)
            cursor = connection.execute(
                "INSERT INTO runs (started_at, pid, host, version, provider, simulated, tasks, command)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (now, os.getpid(), socket.gethostname(), version, provider, simulated, tasks, command),
            )
            self.run = cursor.lastrowid or 0

        self._ballast.hold(in_flight)
        self._at_once(write)

    def recover(self, *, now: int) -> None:
        """Settle what a dead run left behind, as `begin` does, without opening a run."""
        self._at_once(lambda connection: _settle_leftovers(connection, now))

    def adopt(self, found: Iterable[tuple[Unanswered, Image]], *, now: int) -> None:
        """
        Give tasks the pictures that a dead run made durable without noting their answers.

        Such an attempt succeeded at a cost nobody knows: what was reserved for it stays in the account.
        """
        values = [
            {
                "now": now,
                "key": task.key,
                "attempt": task.attempt,
                "images": msgspec.json.encode([picture]).decode(),
                "quality": QUALITIES.index(UsageQuality.NONE),
            }
            for task, picture in found
        ]
        if values:
            self._at_once(lambda connection: _adopt(connection, values))

    def end(self, *, now: int, reason: str) -> None:
        """
        Close the run; what is still unsettled was abandoned and is uncertain from now on.

        The ballast is free afterwards, so that the table may have its space.
        """

        def write(connection: sqlite3.Connection) -> None:
            _settle_leftovers(connection, now)
            if self._limit is not None:
                connection.execute(_NOTE_LIMIT, self._limit)
            connection.execute(
                "UPDATE runs SET ended_at = ?, ended = ? WHERE id = ?", (now, reason, self.run)
            )

        try:
            self._at_once(write)
        finally:
            self._ballast.release()

    def take_up_again(self, keys: Iterable[str]) -> None:
        """Put finished tasks back to pending; their pictures and costs stay until something new comes."""
        chosen = [(key,) for key in keys]
        self._at_once(
            lambda connection: connection.executemany(
                "UPDATE tasks SET status = 'pending', uncertain = 0 WHERE key = ?", chosen
            )
        )

    def put_back(self, lost: Iterable[tuple[str, str, bool]], *, now: int) -> None:
        """
        Forget pictures that are no more, and put their tasks back to pending; what they cost stays.

        :param lost: key and file name, and whether that is a draft, whose loss leaves the task as it is.
        """
        values = [
            {
                "key": key,
                "file": file,
                "status": None if draft else Status.PENDING,
                "message": None if draft else f"{file} was lost or altered after it was bought",
                "now": now,
            }
            for key, file, draft in lost
        ]
        self._at_once(lambda connection: connection.executemany(_PUT_BACK, values))

    def looked(self, looks: Mapping[str, Look]) -> None:
        """Note how pictures look, by their content (sha256)."""
        self._at_once(lambda connection: note_looks(connection, looks))

    def recount(self) -> None:
        """Make the sums of all tasks those of their attempts again, and those over all of them theirs."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_RECOUNT)
            for statement in sums.RENEW:
                connection.execute(statement)

        self._at_once(write)

    def note_limit(self, endpoint: str, model: str, limit: Limit, *, now: int) -> None:
        """
        Note how many requests a minute an endpoint takes of a model, in place of what was known.

        It goes to disk with the next commit, at the latest with the end of the run.
        """
        values = self._limit = (endpoint, model, self.run, now, limit.felt, limit.stated)
        self._waiting.append(_Ticket(lambda connection: connection.execute(_NOTE_LIMIT, values)))

    async def give_up(self, key: str) -> None:
        """End a task that was sent more than once without an answer: it is uncertain for good."""
        await self._commit(
            lambda connection: connection.execute(
                "UPDATE tasks SET status = 'uncertain' WHERE key = ?", (key,)
            )
        )

    async def orphan(self, tasks: Sequence[Orphan], *, provider: str, now: int) -> None:
        """End tasks without an attempt: what they continue has no picture."""

        def write(connection: sqlite3.Connection) -> None:
            for task in tasks:
                claim(
                    connection,
                    key=task.key,
                    row_id=task.row_id,
                    stem=task.stem,
                    model=task.model,
                    provider=provider,
                )
                connection.execute(
                    "UPDATE tasks SET status = 'failed', error_class = 'parent_failed', error_message = ?,"
                    " images = NULL, text = NULL, reasoning = NULL, tool_calls = NULL, finish_reason = NULL,"
                    " finished_at = ? WHERE key = ?",
                    (task.message, now, task.key),
                )

        await self._commit(write)

    def start(
        self,
        *,
        key: str,
        row_id: str,
        stem: str,
        model: str,
        provider: str,
        reserved: Decimal | None,
        now: int,
        expect: Expect = Expect.IMAGE,
        parent_sha: str | None = None,
    ) -> Attempt:
        """
        Note the intent to send a request and claim the file name for its task, which is pending from now on.

        It goes to disk with the next commit, at the latest with its own `submitted`: before that nothing has
        left, and a request nobody sent needs no trace.

        :param parent_sha: sha256 of the picture that is continued; here and not with the outcome, so that it
            is known of a picture that outlives a crash, too.
        """

        def write(connection: sqlite3.Connection) -> tuple[int, str]:
            claimed = claim(
                connection,
                key=key,
                row_id=row_id,
                stem=stem,
                model=model,
                provider=provider,
                expect=expect,
                parent_sha=parent_sha,
            )
            cursor = connection.execute(
                "INSERT INTO attempts (key, run, started_at, submitted_at, reserved) VALUES (?, ?, ?, ?, ?)",
                (key, self.run, now, attempt.submitted_at, nano(reserved)),
            )
            return cursor.lastrowid or 0, claimed

        attempt = Attempt(key)
        attempt.ticket = _Ticket(write)
        self._waiting.append(attempt.ticket)
        return attempt

    async def submitted(self, attempt: Attempt, *, now: int) -> None:
        """Note that the request's body is about to leave: from here on it may be billed."""
        self._renew(attempt)
        together = attempt.ticket in self._waiting
        if together:  # no row needs to be changed that is not there yet
            attempt.submitted_at = now

        def write(connection: sqlite3.Connection) -> None:
            if not together:
                connection.execute("UPDATE attempts SET submitted_at = ? WHERE id = ?", (now, attempt.id))

        if not self._durable:  # only a crash would need it before the attempt is settled
            self._waiting += [] if together else [_Ticket(write)]
            return
        try:
            await self._commit(write)
        finally:
            # Cancelled before its turn, or refused by the disk: it is not submitted.
            if attempt.ticket in self._waiting or attempt.ticket.error is not None:
                attempt.submitted_at = None

    async def settle(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        status: Status | None,
        counts: bool,
        in_credits: Decimal | None,
        now: int,
    ) -> None:
        """
        Note what an attempt came to and where its task stands now, in one transaction.

        :param status: `PENDING` while the task will be tried again; None where another attempt has ended the
            task: then only its sums change.
        :param counts: whether it counts towards the task's attempts (an answer 429 does not).
        :param in_credits: the cost in the provider's own unit.
        """
        if status is None and attempt.ticket.error is not None:
            return  # it was never sent, and its task is no longer its own
        self._renew(attempt)
        values = _values(outcome, status=status, counts=counts, in_credits=in_credits, now=now)
        await self._commit(
            lambda connection: _settle(connection, {**values, "attempt": attempt.id, "key": attempt.key})
        )

    def _renew(self, attempt: Attempt) -> None:
        """Take along the start of an attempt that an earlier commit could not put on disk."""
        if attempt.ticket.error is not None:
            attempt.ticket = attempt.ticket.anew()
            self._waiting.append(attempt.ticket)

    async def _commit(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        ticket = _Ticket(operation)
        self._waiting.append(ticket)
        try:
            async with self._turn:
                if not ticket.done:
                    batch, self._waiting = self._waiting, []
                    with anyio.CancelScope(shield=True):  # what others wait for is in it
                        await self._blocking(lambda: self._apply(batch))
        finally:
            if ticket in self._waiting:  # cancelled before its turn: it never happened
                self._waiting.remove(ticket)
        return ticket.value()

    def _at_once(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        ticket = _Ticket(operation)
        self._apply([ticket])
        return ticket.value()

    def _apply(self, batch: Sequence[_Ticket[Any]]) -> None:
        """All or nothing: one transaction for the whole batch."""
        error: StorageError | None = None
        try:
            self._transact(batch)
        except sqlite3.Error as cause:
            error = storage_error(self.path, cause)
        except StorageError as cause:  # of an earlier commit, on which one of these depends
            error = cause
        for ticket in batch:
            ticket.error = error

    def _transact(self, batch: Sequence[_Ticket[Any]]) -> None:
        while True:
            try:
                with transaction(self._connection):
                    for ticket in batch:
                        ticket.work(self._connection)
            except sqlite3.Error as cause:
                if not (is_full(cause) and self._ballast.give()):
                    raise
            else:
                return


def claim(
    connection: sqlite3.Connection,
    *,
    key: str,
    row_id: str,
    stem: str,
    model: str,
    provider: str,
    expect: Expect = Expect.IMAGE,
    parent_sha: str | None = None,
) -> str:
    """
    The file name of a task: the one it has, or a free one for good, unique where case folds too.

    It is pending from now on. Attempts without an answer are held against it as long as it is the same
    request: not from before it was final, nor of another parent's picture.
    """
    free, salt = stem, 0
    while not connection.execute(
        "INSERT INTO tasks (key, id, stem, folded, model, provider, expect, parent_sha)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (key, row_id, free, fold(free), model, provider, expect, parent_sha),
    ).rowcount:
        known = connection.execute("SELECT stem FROM tasks WHERE key = ?", (key,)).fetchone()
        if known is not None:
            connection.execute(
                "UPDATE tasks SET id = ?, model = ?, provider = ?, expect = ?,"
                " uncertain = iif(status = 'pending' AND parent_sha IS ?, uncertain, 0), status = 'pending',"
                " parent_sha = ? WHERE key = ?",
                (row_id, model, provider, expect, parent_sha, parent_sha, key),
            )
            return str(known[0])
        free = f"{stem}~{blake2b(f'{key} {salt}'.encode(), digest_size=4).hexdigest()}"
        salt += 1
    return free


def note_looks(connection: sqlite3.Connection, looks: Mapping[str, Look]) -> None:
    """Note how pictures look; once is enough for a content."""
    connection.executemany(
        "INSERT OR IGNORE INTO looks (sha256, phash, blank) VALUES (?, ?, ?)",
        # SQLite's integers are signed.
        ((content, look.phash - (look.phash >> 63 << 64), look.blank) for content, look in looks.items()),
    )


def fold(stem: str) -> str:
    """A file name as a file system may see it that knows no case and no composition."""
    return unicodedata.normalize("NFC", stem.casefold())


def _values(
    outcome: Outcome, *, status: Status | None, counts: bool, in_credits: Decimal | None, now: int
) -> dict[str, object]:
    usage, cost = outcome.usage, nano(outcome.cost_usd)
    failed = outcome.kind is not None
    return {
        "status": status,
        "counts": int(counts),
        "uncertain": int(outcome.kind is ErrorClass.UNCERTAIN),
        "prompt": usage.prompt_tokens,
        "text_tokens": usage.text_tokens,
        "image": usage.image_tokens,
        "total": usage.total_tokens,
        "quality": -1 if failed and not usage.total_tokens else QUALITIES.index(usage.quality),
        "cost": cost,
        "wasted": cost if failed or cost is None else 0,
        "billed": nano(outcome.billed_usd),
        "credits": None if in_credits is None else int(in_credits.scaleb(6).to_integral_value()),
        # An empty list is told from nothing: such a task was done in words.
        "images": None if failed and not outcome.images else msgspec.json.encode(outcome.images).decode(),
        "text": outcome.text or None,
        "reasoning": outcome.reasoning or None,
        "tool_calls": outcome.tool_calls,
        "finish_reason": outcome.finish_reason,
        "error_class": outcome.kind,
        "error_message": outcome.message,
        "request_id": outcome.request_id,
        "http_status": outcome.http_status,
        "started_at": outcome.started_at,
        # Who was cut off because another one was faster has none.
        "latency": outcome.latency if status is not None else outcome.latency or None,
        "now": now,
    }


def _settle(connection: sqlite3.Connection, values: dict[str, object]) -> None:
    connection.execute(
        """
        UPDATE attempts SET settled_at = :now, error_class = :error_class, error_message = :error_message,
          http_status = :http_status, request_id = :request_id, prompt_tokens = :prompt,
          text_tokens = :text_tokens, image_tokens = :image, total_tokens = :total, quality = :quality,
          cost = :cost, billed = :billed, latency = :latency
        WHERE id = :attempt
        """,
        values,
    )
    if values["status"] is None:
        connection.execute(f"UPDATE tasks SET {_SUMMED} WHERE key = :key", values)  # noqa: S608
    else:
        connection.execute(f"UPDATE tasks SET {_SUMMED}, {_TOLD} WHERE key = :key", values)  # noqa: S608


def _adopt(connection: sqlite3.Connection, values: Sequence[dict[str, object]]) -> None:
    connection.executemany(
        "UPDATE attempts SET settled_at = :now, error_class = NULL, quality = :quality,"
        " error_message = 'the run ended before the answer was recorded; its picture was found on disk'"
        " WHERE id = :attempt",
        values,
    )
    connection.executemany(
        "UPDATE tasks SET status = 'succeeded', images = :images, error_class = NULL, error_message = NULL,"
        " text = NULL, reasoning = NULL, tool_calls = NULL,"
        " finish_reason = NULL, request_id = NULL, latency = NULL, finished_at = :now,"
        " uncertain = max(0, uncertain - 1), quality = max(quality, :quality) WHERE key = :key",
        values,
    )


def _settle_leftovers(connection: sqlite3.Connection, now: int) -> None:
    """
    What a dead run left: submitted and unanswered is uncertain; the rest was never sent and is free.

    Two for one task, of which one was to make up for the lateness of the other, are held against it as one:
    it is asked for once more as others are. Against a task that another request has ended, none is.
    """
    connection.execute(_COUNT_UNANSWERED)
    connection.execute(_CALL_UNCERTAIN)
    connection.execute(
        "UPDATE attempts SET settled_at = :now, error_class ="
        " CASE WHEN submitted_at IS NULL THEN 'unreachable'"
        " ELSE 'uncertain' END, error_message = 'the run ended before the answer was recorded'"
        " WHERE settled_at IS NULL",
        {"now": now},
    )
