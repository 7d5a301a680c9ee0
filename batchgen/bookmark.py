"""
Where did the last run leave off, and is all as it left it?

A bookmark is put when a run has ended in order and closed the ledger, and taken out by whoever opens that
for writing next. It says that the ledger holds together and which tasks of the manifest are finished; but of
a ledger and a manifest that are exactly so. As soon as the file system says anything else of the one, or the
other has other rows, all is looked at again. What hangs on it is time alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import msgspec

from batchgen.errors import BatchgenError
from batchgen.layout import LEDGER
from batchgen.ledger import Reader
from batchgen.manifest import Finished
from batchgen.records import Value
from batchgen.selection import finished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from batchgen.manifest import Manifest

logger = logging.getLogger("batchgen")

_NAME = ".bookmark"
_WORTH = 16 << 20
"""Bytes; a smaller ledger is looked through in less time than it takes to mark it."""
_FEW = 100_000
"""Tasks that are left; where there are more, they are found anew."""
_TICK = 0.01
"""Seconds; the times of files go on in steps of some milliseconds."""
_TICKS = 5
"""So many are waited for; where the steps are longer there is no bookmark."""


class _Mark(Value, frozen=True, kw_only=True):
    ledger: tuple[int, ...]
    """What the file system said of it."""
    rows: str | None = None
    """Hash of the rows of the manifest's snapshot."""
    statuses: Mapping[str, int] = {}
    """How many of its tasks are finished, by their status."""
    tasks: tuple[int, ...] = ()
    """How many each stretch of it has."""
    left: tuple[int, ...] = ()
    """The places of all others."""


class Bookmark:
    """That of one run directory, for as long as somebody who owns it writes there."""

    def __init__(self, directory: Path) -> None:
        """Look at it; that alone leaves it where it is."""
        self._path = directory / _NAME
        self._ledger = directory / LEDGER
        self._found = self._read()
        self._next: Manifest | None = None

    def __enter__(self) -> Self:
        """Take it out, before the ledger is opened."""
        # One that stays there all the same says nothing once the ledger is another.
        with suppress(OSError):
            self._path.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the next one, once the ledger is closed; none where anything went wrong."""
        if kind is None and self._next is not None:
            self._put(self._next)

    @property
    def holds(self) -> bool:
        """Whether nobody has touched the ledger since a run that had looked it through closed it."""
        return self._found is not None

    @contextmanager
    def looked_through(self) -> Iterator[None]:
        """
        Look at every page of the ledger, unless the bookmark holds, while the body does other things.

        :raises DamagedError: the ledger does not hold together; at the end of the body, whatever that met.
        """
        if self.holds:
            yield
            return
        with closing(Reader(self._ledger)) as reader, ThreadPoolExecutor(1) as thread:
            check = thread.submit(reader.check)
            try:
                yield
            finally:
                check.result()

    def finished(self, manifest: Manifest) -> Finished | None:
        """What is finished of a manifest, if it is known."""
        mark = self._found
        if mark is None or mark.rows is None or mark.rows != manifest.rows_hash:
            return None
        return Finished(mark.statuses, mark.tasks, mark.left)

    def put(self, manifest: Manifest) -> None:
        """Say that a run has looked the ledger through and ended in order."""
        self._next = manifest

    def _read(self) -> _Mark | None:
        try:
            said, _, told = self._path.read_bytes().partition(b"\n")
            mark = msgspec.json.decode(told, type=_Mark)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return mark if said == _sealed(told) and mark.ledger == self._seen() else None

    def _put(self, manifest: Manifest) -> None:
        try:
            seen = self._settled() if self._ledger.stat().st_size >= _WORTH else None
            if seen is None:
                return
            # Whoever writes the ledger meanwhile gives it a later time than the bookmark will have of it.
            told = msgspec.json.encode(self._mark(manifest, seen))
            self._path.write_bytes(_sealed(told) + b"\n" + told)
        except (OSError, BatchgenError) as cause:
            logger.info("no bookmark: %s; the next run looks through the whole ledger", cause)

    def _mark(self, manifest: Manifest, seen: tuple[int, ...]) -> _Mark:
        # By what is in the file now, not by what this run had seen of it.
        with closing(Reader(self._ledger)) as reader:
            known = finished(manifest, reader)
        if known.places is None or len(known.places) > _FEW:
            return _Mark(ledger=seen)
        return _Mark(
            ledger=seen,
            rows=manifest.rows_hash,
            statuses=known.statuses,
            tasks=tuple(known.stretches),
            left=tuple(known.places),
        )

    def _settled(self) -> tuple[int, ...] | None:
        """What the file system says of the ledger, once all that is written later has a later time."""
        for _ in range(_TICKS):
            now, seen = self._now(), self._seen()
            if seen is None:
                break
            if max(seen[-2:]) < now:
                return seen
            time.sleep(_TICK)
        self._path.unlink(missing_ok=True)
        return None

    def _now(self) -> int:
        """The time that a file would have which is written at this moment, in nanoseconds."""
        self._path.write_bytes(b"")
        return self._path.stat().st_mtime_ns

    def _seen(self) -> tuple[int, ...] | None:
        """What changes whenever anybody writes or moves the ledger; None where it is not all in one file."""
        log = self._ledger.with_name(f"{self._ledger.name}-wal")
        try:
            if log.exists() and log.stat().st_size:
                return None
            seen = self._ledger.stat()
        except OSError:
            return None
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _sealed(told: bytes) -> bytes:
    return sha256(told).hexdigest().encode()
