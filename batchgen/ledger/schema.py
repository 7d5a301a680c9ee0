"""How does the ledger look on disk, and how is it opened?"""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

from batchgen.errors import DamagedError, InputError, StorageError
from batchgen.ledger import sums
from batchgen.records import ZERO, UsageQuality

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATION_ID = 0x62677231
"""Marks the file as batchgen's ('bgr1'), so that a foreign database is not taken for a ledger."""
VERSION = 4
QUALITIES = tuple(UsageQuality)
"""A usage quality is stored as its place here; -1 where no usage was due."""

_NANO = Decimal("1e-9")
# How pictures look, by their content: once, whichever rows have them. The hash's 64 bits are signed.
_LOOKS = """
CREATE TABLE looks (
  sha256 TEXT PRIMARY KEY, phash INTEGER NOT NULL, blank INTEGER NOT NULL
) WITHOUT ROWID"""
# How many requests a minute an endpoint takes, and the run that found it out, or went by it, last.
_LIMITS = """
CREATE TABLE limits (
  endpoint TEXT NOT NULL, model TEXT NOT NULL, run INTEGER NOT NULL, noted_at INTEGER NOT NULL,
  felt REAL, stated REAL, PRIMARY KEY (endpoint, model)
) WITHOUT ROWID"""
_SCHEMA = f"""
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, started_at INTEGER NOT NULL, ended_at INTEGER, ended TEXT,
  pid INTEGER NOT NULL, host TEXT NOT NULL, version TEXT NOT NULL,
  provider TEXT NOT NULL, simulated INTEGER NOT NULL, tasks INTEGER NOT NULL, command TEXT
);
CREATE TABLE tasks (
  key TEXT PRIMARY KEY, id TEXT NOT NULL, stem TEXT NOT NULL, folded TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL DEFAULT 'pending', model TEXT NOT NULL, provider TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, uncertain INTEGER NOT NULL DEFAULT 0,
  prompt_tokens INTEGER NOT NULL DEFAULT 0, text_tokens INTEGER NOT NULL DEFAULT 0,
  image_tokens INTEGER NOT NULL DEFAULT 0, total_tokens INTEGER NOT NULL DEFAULT 0,
  quality INTEGER NOT NULL DEFAULT -1,
  cost INTEGER, wasted INTEGER, billed INTEGER, credits INTEGER,
  images TEXT, text TEXT, finish_reason TEXT, error_class TEXT, error_message TEXT, request_id TEXT,
  started_at INTEGER, finished_at INTEGER, latency REAL,
  expect TEXT NOT NULL DEFAULT 'image', reasoning TEXT, tool_calls TEXT, parent_sha TEXT
) WITHOUT ROWID;
CREATE INDEX tasks_status ON tasks (status, error_class);
CREATE INDEX tasks_in_words ON tasks (status) WHERE images = '[]';
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, run INTEGER NOT NULL,
  started_at INTEGER NOT NULL, submitted_at INTEGER, settled_at INTEGER,
  reserved INTEGER, error_class TEXT, error_message TEXT, http_status INTEGER, request_id TEXT,
  prompt_tokens INTEGER NOT NULL DEFAULT 0, text_tokens INTEGER NOT NULL DEFAULT 0,
  image_tokens INTEGER NOT NULL DEFAULT 0, total_tokens INTEGER NOT NULL DEFAULT 0, quality INTEGER,
  cost INTEGER, billed INTEGER, latency REAL
);
CREATE INDEX attempts_key ON attempts (key);
CREATE INDEX attempts_open ON attempts (id) WHERE settled_at IS NULL;
{_LOOKS};
{_LIMITS};
{sums.TABLES}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
# What brings a ledger of a version to the next one: nothing in it is rewritten, however large it is.
_MIGRATIONS = {
    1: """
ALTER TABLE tasks ADD COLUMN expect TEXT NOT NULL DEFAULT 'image';
ALTER TABLE tasks ADD COLUMN reasoning TEXT;
ALTER TABLE tasks ADD COLUMN tool_calls TEXT;
ALTER TABLE tasks ADD COLUMN parent_sha TEXT;
CREATE INDEX tasks_in_words ON tasks (status) WHERE images = '[]';
PRAGMA user_version = 2;
""",
    2: f"""
{_LOOKS};
ALTER TABLE runs ADD COLUMN command TEXT;
{sums.TABLES}
{"; ".join(sums.RENEW)};
PRAGMA user_version = 3;
""",
    3: f"""
{_LIMITS};
PRAGMA user_version = 4;
""",
}
# How a ledger that may only be read passes for one of this version: temporary names go before its own.
_SEEN_AS = {
    1: "CREATE TEMP VIEW tasks AS SELECT *, 'image' AS expect, NULL AS reasoning, NULL AS tool_calls,"
    " NULL AS parent_sha FROM main.tasks;",
    2: "CREATE TEMP VIEW looks AS SELECT NULL AS sha256, NULL AS phash, NULL AS blank WHERE FALSE;"  # noqa: S608
    f"CREATE TEMP VIEW runs AS SELECT *, NULL AS command FROM main.runs;{sums.VIEWS}",
    3: "CREATE TEMP VIEW limits AS SELECT NULL AS endpoint, NULL AS model, NULL AS run, NULL AS felt,"
    " NULL AS stated WHERE FALSE;",
}
_REMEDIES = {
    "SQLITE_FULL": "free some space",
    "SQLITE_READONLY": "make the run directory writable",
    "SQLITE_READONLY_DIRECTORY": "make the run directory writable",
    "SQLITE_CANTOPEN": "make the run directory readable and writable",
    "SQLITE_CORRUPT": "the file is damaged; `batchgen verify` says more",
    "SQLITE_BUSY": "another program holds it open for writing",
}


def nano(amount: Decimal | None) -> int | None:
    """Money as the ledger holds it."""
    return None if amount is None else int((amount / _NANO).to_integral_value())


def usd(amount: int | None) -> Decimal:
    """Money out of the ledger; nothing where nothing is known."""
    return ZERO if amount is None else amount * _NANO


def connect(path: Path, *, make: bool = False, durable: bool = True) -> sqlite3.Connection:
    """
    Open the ledger.

    :param make: whether a new one is made where there is none, and one of an earlier version brought to this
        one. Else it is only read, and an earlier version shows nothing where it has nothing.
    :param durable: whether what is committed outlives a crash of the machine.
    :raises InputError: the file is another program's or a newer batchgen's.
    :raises DamagedError: it was a ledger, or there is nothing in it.
    :raises StorageError: it cannot be read or written.
    """
    if not make and path.stat().st_size == 0:
        raise DamagedError(f"{path}: the ledger is empty; {_restore(path)}")
    try:
        connection = sqlite3.connect(
            _address(path, still=not make),
            uri=True,
            timeout=30,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        if make and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            _carry_out(connection, _SCHEMA)
        version = _version(path, connection)
        for former in range(version, VERSION) if make else ():
            _carry_out(connection, _MIGRATIONS[former])
        for former in () if make else range(version, VERSION):
            for statement in _statements(_SEEN_AS[former]):
                connection.execute(statement)
    except sqlite3.Error as cause:
        raise unreadable(path, cause) from cause
    return connection


def _address(path: Path, *, still: bool) -> str:
    """
    A ledger as SQLite is told of it.

    Reading takes files beside it, which a folder that is closed for writing has only while a run is at work.
    Where there are none the ledger is as its last writer left it, and needs none.
    https://www.sqlite.org/wal.html#read_only_databases

    :param still: whether it is only read.
    """
    closed = still and not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}{'?immutable=1' if closed else ''}"


def _carry_out(connection: sqlite3.Connection, script: str) -> None:
    with transaction(connection):
        for statement in _statements(script):
            connection.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """One by one: what runs a whole script commits first, and a trigger has semicolons in it."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version(path: Path, connection: sqlite3.Connection) -> int:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        msg = f"{path}: this SQLite file is not a batchgen ledger; choose another run directory with -o"
        raise InputError(msg)
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        msg = f"{path}: written by a newer batchgen (format {version}, not {VERSION}); upgrade batchgen"
        raise InputError(msg)
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def is_full(cause: sqlite3.Error) -> bool:
    """Whether more room may cure it: a used-up quota is none of SQLite's words."""
    name = getattr(cause, "sqlite_errorname", "")
    return name in {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}


def unreadable(path: Path, cause: sqlite3.Error) -> DamagedError | StorageError:
    """What a person can do about a ledger that cannot be read."""
    name = getattr(cause, "sqlite_errorname", "") or ""
    if name == "SQLITE_NOTADB" or name.startswith("SQLITE_CORRUPT"):
        return damaged(path, str(cause))
    return storage_error(path, cause)


def damaged(path: Path, what: str) -> DamagedError:
    """What a person can do about a ledger that is one no more."""
    return DamagedError(f"{path}: the ledger is damaged ({what}); {_restore(path)}")


def _restore(path: Path) -> str:
    return (
        "restore it from a copy, or make it anew from the last table with"
        f" `batchgen verify {shlex.quote(str(path.parent))} --repair`, which keeps the old file"
    )


def storage_error(path: Path, cause: sqlite3.Error) -> StorageError:
    """What a person can do about an SQLite error."""
    name = getattr(cause, "sqlite_errorname", "") or ""
    remedy = next((what for code, what in _REMEDIES.items() if name.startswith(code)), "check the disk")
    return StorageError(f"{path}: {cause}: {remedy}, then run the same command again")
