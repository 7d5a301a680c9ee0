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

_PIECE = 1 << 20
_PIECES = 8
"""Of a mebibyte each: the log of a hundred attempts, each committed alone, has 4; then it starts anew."""


class Ballast:
    """Space held in `path`. What a crash leaves of it is taken over by the next run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = 0

    def hold(self) -> None:
        """Take the space; `StorageError` when there is none."""
        # Written, not merely allocated: not every file system knows how to promise space.
        try:
            with self._path.open("wb") as file:
                for _ in range(_PIECES):
                    file.write(bytes(_PIECE))
                file.flush()
                os.fsync(file.fileno())
        except OSError as cause:
            self.release()
            raise StorageError(
                f"{self._path}: {cause.strerror}; make room or make it writable, then run the same command"
                " again"
            ) from cause
        self._left = _PIECES

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
