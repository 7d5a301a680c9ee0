"""
Where does the ledger write when the disk is full?

Into room it has kept for itself: a file beside it that shrinks when a commit finds no space. So what was
bought is in the account even where the pictures themselves have to wait.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from batchgen.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 256 * 1024
_FEWEST = 3
_ATTEMPTS = 4
"""To the piece: each takes 40 kB of the write-ahead log if it is committed alone."""


class Ballast:
    """Space held in `path`. What a crash leaves of it is taken over by the next run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = 0

    def hold(self, in_flight: int) -> None:
        """Take the space that so many attempts need to be settled; `StorageError` when there is none."""
        pieces, piece = _FEWEST + in_flight // _ATTEMPTS, bytes(_PIECE)
        # Written, not merely allocated: not every file system knows how to promise space.
        try:
            with self._path.open("wb") as file:
                for _ in range(pieces):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except OSError as cause:
            self.release()
            raise StorageError(
                f"{self._path}: {cause.strerror}; make room or make it writable, then run the same command"
                " again"
            ) from cause
        self._left = pieces

    def give(self) -> bool:
        """Free a piece, a small one, lest others take what the ledger needs; False when none is left."""
        if not self._left:
            return False
        self._left -= 1
        try:
            os.truncate(self._path, self._left * _PIECE)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Free all of it."""
        self._left = 0
        with suppress(OSError):  # it is in nobody's way, and the next run takes it over
            self._path.unlink(missing_ok=True)
