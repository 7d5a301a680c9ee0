"""
Where did the last run leave off, and is all as it left it?

A bookmark is put when a run ends in order, and taken out by whoever opens the ledger for writing next. As
long as no other hand was on the ledger it says that this is whole, and which stretches of the manifest have
nothing left to buy: the next run need look through neither. Nothing but time hangs on it; without one all is
looked through.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import msgspec

from batchgen.errors import StorageError
from batchgen.job import LEDGER
from batchgen.manifest import Finished  # noqa: TC001  msgspec reads the annotation at run time
from batchgen.records import Value
from batchgen.store import write_whole

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from batchgen.manifest import Manifest

logger = logging.getLogger("batchgen")

_NAME = ".bookmark"


class _Mark(Value, frozen=True, kw_only=True):
    ledger: tuple[int, ...]
    """What the file system said of it."""
    rows: str
    """Hash of the rows that `finished` is about."""
    finished: Finished


class Bookmark:
    """That of one run directory, for as long as somebody who owns it writes there."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._ledger = directory / LEDGER
        self._found: _Mark | None = None
        self._next: tuple[str, Finished] | None = None

    def __enter__(self) -> Self:
        """Take it out, before the ledger is opened."""
        try:
            said, _, told = self._path.read_bytes().partition(b"\n")
            self._path.unlink()
            found = msgspec.json.decode(told, type=_Mark)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self
        if said == _sealed(told) and found.ledger == self._seen():
            self._found = found
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the next one, once the ledger is closed; none where anything went wrong."""
        seen = self._seen()
        if kind is not None or self._next is None or seen is None:
            return
        rows, finished = self._next
        told = msgspec.json.encode(_Mark(ledger=seen, rows=rows, finished=finished))
        try:
            write_whole(self._path, _sealed(told) + b"\n" + told)
        except StorageError as cause:
            logger.info("the next run will look through all that is done: %s", cause)

    @property
    def holds(self) -> bool:
        """Whether nobody has touched the ledger since a run closed it."""
        return self._found is not None

    def finished(self, manifest: Manifest) -> Finished | None:
        """What is finished of a manifest, if it is known."""
        found = self._found
        return found.finished if found is not None and found.rows == manifest.rows_hash else None

    def put(self, manifest: Manifest, finished: Finished) -> None:
        """Say what is finished of a manifest when the run has ended."""
        if manifest.rows_hash is not None:
            self._next = manifest.rows_hash, finished

    def _seen(self) -> tuple[int, ...] | None:
        """What changes whenever anybody writes the ledger; None where it is not all in one file."""
        log = self._ledger.with_name(f"{self._ledger.name}-wal")
        try:
            if log.is_file() and log.stat().st_size:
                return None
            found = self._ledger.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _sealed(told: bytes) -> bytes:
    return sha256(told).hexdigest().encode()
