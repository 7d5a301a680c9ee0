"""
How far has the ledger's write-ahead log been committed?

The ledger is its file and, behind it, the log. From the moment at which the log is folded into the file until
that happens again, the file stays as it is and the log only grows: a copy of the file together with the
committed bytes of the log, in as many pieces as one likes, is the ledger, and SQLite takes it for that.
https://www.sqlite.org/walformat.html
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, NamedTuple

from batchgen.errors import StorageError
from batchgen.ledger.schema import VERSION, connect, storage_error

if TYPE_CHECKING:
    from pathlib import Path

_INDEX_HEADER = 48
_LOG_HEADER, _FRAME_HEADER = 32, 24
_TRIES = 100
_BUSY_MS = 2000
"""While this waits for those who read, nothing is committed."""


class Mark(NamedTuple):
    """A point up to which the log is committed."""

    salts: bytes
    """They change whenever the log begins anew."""
    end: int
    """Bytes."""


class Log:
    """The log of a ledger that this process writes and nobody else; the writer must not fold it itself."""

    def __init__(self, path: Path) -> None:
        """:raises StorageError: the ledger cannot be opened."""
        self.ledger = path
        self._log, self._index = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
        self._connection = connect(path)
        self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")

    def close(self) -> None:
        """Let go of the ledger."""
        self._connection.close()

    def fold(self) -> Mark | None:
        """
        Fold the log into the file, begin it anew, and give its beginning.

        None where somebody reads who cannot be waited for. The file stays as it is until the next time.

        :raises StorageError: the disk refuses.
        """
        try:
            # Most of it without keeping anybody from committing.
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                return None
            # What nothing has been written to may yet get other salts.
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as cause:
            raise storage_error(self.ledger, cause) from cause
        return self.mark()._replace(end=0)

    def mark(self) -> Mark:
        """
        Where the log ends at this moment.

        The index beside it says so, twice, the second one first: what is the same in both is whole.
        https://www.sqlite.org/walformat.html#the_wal_index_file_format

        :raises StorageError: the index is gone or means nothing.
        """
        try:
            for _ in range(_TRIES):
                with self._index.open("rb") as file:
                    found = file.read(2 * _INDEX_HEADER)
                first, second = found[:_INDEX_HEADER], found[_INDEX_HEADER:]
                if first == second and len(second) == _INDEX_HEADER and first[12]:
                    return _mark(first)
        except OSError as cause:
            raise StorageError(f"{self._index}: {cause.strerror}; leave it where it is") from cause
        raise StorageError(f"{self._index}: it cannot be understood; is another program writing the ledger?")

    def read(self, since: Mark, most: int) -> bytes | None:
        """
        What has been committed behind a point, so many bytes at most; None where the log has begun anew.

        :raises StorageError: it cannot be read.
        """
        until = self.mark()
        if until.salts != since.salts or until.end < since.end:
            return None
        wanted = min(most, until.end - since.end)
        try:
            if not wanted:
                return b""
            with self._log.open("rb") as file:
                file.seek(since.end)
                found = file.read(wanted)
        except OSError as cause:
            raise StorageError(f"{self._log}: {cause.strerror}; leave it where it is") from cause
        # What was read is what it was only if nothing began anew meanwhile.
        whole = len(found) == wanted and self.mark().salts == since.salts
        return found if whole else None


def _mark(header: bytes) -> Mark:
    """The index is in this machine's order of bytes, but for the salts, which are as the log has them."""
    page = int.from_bytes(header[14:16], sys.byteorder)
    frames = int.from_bytes(header[16:20], sys.byteorder)
    size = 65536 if page == 1 else page
    return Mark(salts=header[32:40], end=_LOG_HEADER + frames * (_FRAME_HEADER + size) if frames else 0)
