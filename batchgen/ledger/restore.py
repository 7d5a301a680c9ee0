"""
How is a lost ledger made anew?

From the last table: it holds every task of the manifest with its status, picture and sums. What it does not
hold is gone: single requests (their sums stand for them), rows deleted from the manifest, and whatever was
asked for after the table was written.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from batchgen.errors import StorageError
from batchgen.ledger.schema import QUALITIES, connect, transaction
from batchgen.ledger.writer import claim, note_looks
from batchgen.records import ErrorClass, Look, Status, UsageQuality, Value
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchgen.ledger.reader import Result

_BESIDE = ("", "-wal", "-shm")
_TOKENS = ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens")
_AS_TOLD = (
    *_TOKENS, "status", "attempts", "cost", "wasted", "billed", "credits", "text", "reasoning",
    "tool_calls", "finish_reason", "error_class", "error_message", "request_id", "started_at",
    "finished_at", "latency",
)  # fmt: skip


class Told(Value, frozen=True, kw_only=True):
    """A row of a table, as far as the ledger had it."""

    key: str
    id: str
    stem: str
    """Of its picture, or a guess at what the row asked for."""
    result: Result
    look: Look | None = None
    """Of its picture, if that was looked at."""


def restore(
    path: Path, rows: Callable[[], Iterable[Told]], *, provider: str, simulated: bool, now: int
) -> Path | None:
    """
    Make a ledger of what a table tells, put it at `path`, and return where the damaged one is kept.

    :param rows: called twice; those that were never asked for are left out.
    :raises StorageError: it cannot be written; the damaged one is where it was, or aside already.
    """
    try:
        return _restore(path, rows, provider=provider, simulated=simulated, now=now)
    except (OSError, sqlite3.Error) as cause:
        raise StorageError(f"{path}: {cause}; make room or make it writable, then repair again") from cause


def _restore(
    path: Path, rows: Callable[[], Iterable[Told]], *, provider: str, simulated: bool, now: int
) -> Path | None:
    fresh = path.with_name(f"{path.name}.restored")
    _remove(fresh)
    with closing(connect(fresh, make=True)) as connection, transaction(connection):
        connection.execute(
            "INSERT INTO runs (started_at, ended_at, ended, pid, host, version, provider, simulated, tasks)"
            " VALUES (?, ?, 'restored from results.parquet', ?, ?, ?, ?, ?, 0)",
            (now, now, os.getpid(), os.uname().nodename, __version__, provider, simulated),
        )
        # Those with a picture first: the name of its file is certain.
        for certain in (True, False):
            for row in rows():
                if bool(row.result.images) is certain:
                    _insert(connection, row)
    kept = _set_aside(path, now)
    fresh.rename(path)
    return kept


def _remove(path: Path) -> None:
    for end in _BESIDE:
        path.with_name(path.name + end).unlink(missing_ok=True)


def _set_aside(path: Path, now: int) -> Path | None:
    when = datetime.fromtimestamp(now // 1_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = path.with_name(f"{path.name}.damaged-{when}")
    # The log last: a ledger without it would pass for whole, a log without its ledger does not.
    for end in ("", "-wal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(kept.with_name(kept.name + end))
    _remove(path)
    return kept if kept.exists() else None


def _insert(connection: sqlite3.Connection, row: Told) -> None:
    result = row.result
    if not (result.attempts or result.cost or result.images or result.total_tokens):
        return
    claim(connection, key=row.key, row_id=row.id, stem=row.stem, model=result.model, provider=result.provider)
    uncertain = result.error_class == ErrorClass.UNCERTAIN
    values = {name: getattr(result, name) for name in _AS_TOLD}
    values |= {
        "key": row.key,
        "uncertain": int(uncertain),
        "quality": QUALITIES.index(UsageQuality(result.quality)),
        "images": msgspec.json.encode(result.images).decode()
        if result.images or result.status == Status.SUCCEEDED
        else None,
    }
    columns = ", ".join(f"{name} = :{name}" for name in values if name != "key")
    connection.execute(f"UPDATE tasks SET {columns} WHERE key = :key", values)  # noqa: S608
    if row.look is not None:
        note_looks(connection, {result.images[-1].sha256: row.look})
    for attempt in _attempts(row):
        names = list(attempt)
        connection.execute(
            f"INSERT INTO attempts ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})",  # noqa: S608
            attempt,
        )


def _attempts(row: Told) -> Iterator[dict[str, object]]:
    """One request in place of all that failed, and one for the picture: their sums are those of the task."""
    result = row.result
    good = result.status == Status.SUCCEEDED
    tokens = {name: getattr(result, name) for name in _TOKENS}
    about = {
        "key": row.key,
        "run": 1,
        "started_at": result.started_at or 0,
        "submitted_at": result.started_at or 0,
        "settled_at": result.finished_at or 0,
        "error_message": "restored from results.parquet",
    }
    if not good or result.wasted:
        spent = {"billed": result.billed, **tokens} if not good else {}
        failed = result.error_class or ErrorClass.TRANSIENT
        yield {**about, **spent, "error_class": failed, "cost": result.wasted if good else result.cost}
    if good:
        cost = None if result.cost is None else result.cost - (result.wasted or 0)
        yield {**about, **tokens, "cost": cost, "billed": result.billed, "request_id": result.request_id}
