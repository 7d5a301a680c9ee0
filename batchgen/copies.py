"""
Where is the account of a run when its machine is lost?

In the bucket, a second or so behind: a *generation* is the ledger's file as it was when its log began anew,
`ledger/<generation>/base.db`, and the committed bytes of the log since, `ledger/<generation>/<offset>.wal`.
Put together as `ledger.db` and `ledger.db-wal` they are the ledger. `ledger/HEAD` names the generation that
counts and is written last; what is older is removed then.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Self

import msgspec

from batchgen.errors import DamagedError, StorageError
from batchgen.layout import LEDGER
from batchgen.ledger import Log
from batchgen.records import Value
from batchgen.store import put_in_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.bucket import Bucket, Version
    from batchgen.ledger import Mark

logger = logging.getLogger("batchgen")

FOLDER = "ledger"
HEAD = f"{FOLDER}/HEAD"
EVERY = 1.0
"""Seconds between two looks at the log."""
PATIENCE = 180.0
"""Seconds for which copies may fail until nothing more is bought."""
LARGEST = 64 << 20
"""
Bytes of a log at which it begins anew; that of a larger ledger as large as itself, so that no more than half
of what is copied has been copied before.
"""
_PIECE = 16 << 20
_OURS = re.compile(rf"{FOLDER}/\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}/(?:base\.db|\d{{16}}\.wal)")
"""What copies are made of: the folder may hold other people's objects as well, which are theirs to delete."""
_TRIES = 3


class Head(Value, frozen=True, kw_only=True):
    """Which generation counts, and who made it."""

    generation: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z-]{1,64}\Z")]
    host: str
    pid: int
    at: datetime


def head(bucket: Bucket) -> tuple[Head, Version] | None:
    """
    Which generation counts; None where there is no copy.

    :raises DamagedError: it says nothing.
    """
    found = bucket.look(HEAD)
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[1], type=Head), found[0].version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise DamagedError(
            f"{bucket.address}/{HEAD}: it names no copy of the ledger ({cause}); restore it from a version of"
            " that object, or choose another place with -o"
        ) from cause


def restored(bucket: Bucket, directory: Path) -> str | None:
    """
    Put the ledger together in a directory that has none, from its copy; which generation, None without any.

    :raises DamagedError: a part of the copy is missing.
    :raises StorageError: bucket or disk refuse.
    """
    for attempt in range(_TRIES):
        found = head(bucket)
        if found is None:
            return None
        try:
            _fetched(bucket, found[0].generation, directory)
        except (StorageError, DamagedError):
            # A run at work may have begun another generation meanwhile, and removed this one.
            now = head(bucket)
            if now is None or now[0].generation == found[0].generation or attempt == _TRIES - 1:
                raise
            continue
        return found[0].generation
    return None


def _fetched(bucket: Bucket, generation: str, directory: Path) -> None:
    folder, end = f"{FOLDER}/{generation}", 0
    ledger = directory / LEDGER
    log = ledger.with_name(f"{LEDGER}-wal")
    parts = {path: path.with_name(f".{path.name}.part") for path in (log, ledger)}
    pieces = sorted(found.name for found in bucket.list(folder) if found.name.endswith(".wal"))
    try:
        for path in (*parts.values(), ledger.with_name(f"{LEDGER}-shm")):
            path.unlink(missing_ok=True)
        bucket.fetch(f"{folder}/base.db", parts[ledger])
        parts[log].touch()
        for name in pieces:
            if name != _piece(folder, end):
                raise DamagedError(
                    f"{bucket.address}/{_piece(folder, end)}: a piece of the ledger's copy is missing;"
                    " restore it from a version of that object, or choose another place with -o"
                )
            bucket.fetch(name, parts[log])
            end = parts[log].stat().st_size
        # The file last: without it nothing is there, and this begins again.
        for path, part in parts.items():
            put_in_place(part, path)
    except OSError as cause:
        raise StorageError(f"{directory}: {cause.strerror}; make room or make it writable") from cause
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _named() -> Head:
    now = datetime.now(UTC)
    generation = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    return Head(generation=generation, host=socket.gethostname(), pid=os.getpid(), at=now)


def _piece(folder: str, offset: int) -> str:
    return f"{folder}/{offset:016}.wal"


class Copies:
    """
    Copies a ledger while it is written, from its first moment in the `with` block to the last one.

    The writer must leave its log to this (`Ledger(…, shipped=True)`). That copies fail does not end a run at
    once: `check` says when it does. Entering and leaving raise `StorageError` where there is no whole copy.
    """

    def __init__(
        self,
        bucket: Bucket,
        ledger: Path,
        *,
        version: Version | None,
        noted: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Begin with none.

        :param version: of the `HEAD` that this one goes on from.
        :param noted: keeps the name of a generation on this disk before it counts.
        """
        self._bucket = bucket
        self._log = Log(ledger)
        self._version = version
        self._noted = noted
        self._clock = clock
        self._generation = ""
        self._next: Head | None = None
        """The one that is to count next, until it does: its `HEAD` may be there without an answer."""
        self._since: Mark | None = None
        self._fold_at = 0
        self._pending: bytes = b""
        """What could not be put, behind `_since`; tried again as it is, so that no two pieces overlap."""
        self._fresh = clock()
        self._failure = ""
        self._taken = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="copies", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._begin()
            if self._since is None:
                raise StorageError(
                    f"{self._log.ledger}: another program reads it and does not end; end that, then run the"
                    " same command again"
                )
        except BaseException:
            self._log.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            if not self._taken:
                self.step()
        except StorageError as cause:
            told = self._taken or (
                f"the ledger's copy lacks what came last; the ledger itself, {self._log.ledger}, has it all:"
                f" run the same command again on this machine. {cause}"
            )
            if kind is None:
                raise StorageError(told) from cause
            logger.error("%s", told)  # noqa: TRY400  a person reads it, and what ended the run is told besides
        finally:
            self._log.close()

    def check(self) -> None:
        """:raises StorageError: there was no copy for too long: nothing more may be bought."""
        if self._taken:
            raise StorageError(self._taken)
        if self._failure and self._clock() - self._fresh > PATIENCE:
            raise StorageError(
                f"no copy of the ledger could be made for {self._clock() - self._fresh:.0f} s, so nothing"
                f" more is bought: {self._failure}"
            )

    def step(self) -> None:
        """
        Copy what has been committed since the last time.

        :raises StorageError: bucket or disk refuse; the next step begins where this one did.
        """
        try:
            self._step()
        except StorageError as cause:
            self._failure = str(cause)
            raise
        self._failure, self._fresh = "", self._clock()

    def _step(self) -> None:
        while True:
            if self._since is None:
                self._begin()
                if self._since is None:
                    return
            data = self._pending or self._log.read(self._since, _PIECE)
            if data is None:  # somebody else has folded it
                self._since = None
                continue
            if not data:
                return
            self._pending = data
            self._bucket.put(_piece(f"{FOLDER}/{self._generation}", self._since.end), data)
            self._since = self._since._replace(end=self._since.end + len(data))
            self._pending = b""
            if self._since.end >= self._fold_at:
                self._begin()

    def _begin(self) -> None:
        """Begin a generation, and leave it to the next time where somebody reads who cannot be waited for."""
        since = self._log.fold()
        if since is None:
            self._fold_at += LARGEST
            return
        self._since, self._pending = None, b""
        if self._next is None:
            self._next = _named()
            self._noted(self._next.generation)
        generation, told = self._next.generation, msgspec.json.encode(self._next)
        self._fold_at = max(LARGEST, self._log.ledger.stat().st_size)
        self._bucket.put(f"{FOLDER}/{generation}/base.db", self._log.ledger)
        version = (
            self._bucket.create(HEAD, told)
            if self._version is None
            else self._bucket.replace(HEAD, told, self._version)
        )
        if version is None:
            place = str(self._bucket.address)
            self._taken = (
                f"{place}/{HEAD}: another machine has gone on with this run; nothing more is bought here. See"
                f" how that one is: `batchgen status {shlex.quote(place)}`"
            )
            raise StorageError(self._taken)
        self._version, self._generation, self._since, self._next = version, generation, since, None
        current = f"{FOLDER}/{generation}/"
        ours = (found.name for found in self._bucket.list(FOLDER) if _OURS.fullmatch(found.name))
        self._bucket.remove([name for name in ours if not name.startswith(current)])

    def _go_on(self) -> None:
        told = False
        while not self._over.wait(EVERY) and not self._taken:
            try:
                self.step()
            except StorageError as cause:
                if not told:
                    logger.warning("%s. The run goes on meanwhile, for %.0f s at most", cause, PATIENCE)
                told = True
            else:
                if told:
                    logger.warning("the ledger's copy is up to date again")
                told = False
