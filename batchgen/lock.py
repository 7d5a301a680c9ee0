"""
Who owns this run directory?

The lock is the kernel's (`flock(2)`), on a file that is never deleted: it ends with the process, however that
dies, so there is no stale lock to judge. What the file says is for the message alone. POSIX only.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Self

import msgspec

from batchgen.errors import LockedError, StorageError
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class _Owner(Value, frozen=True, kw_only=True):
    pid: Annotated[int, msgspec.Meta(gt=0)]
    # The pattern keeps what a stranger wrote there from speaking to the terminal.
    host: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]{1,255}\Z")]
    started: Annotated[datetime, msgspec.Meta(tz=True)]

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started:%Y-%m-%d %H:%M:%S %Z}"


def is_held(run_directory: Path) -> bool:
    """Whether a run is at work in the directory; looking keeps none from starting but for an instant."""
    path = run_directory / "lock"
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; make it readable") from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


class RunLock:
    """
    Exclusive ownership of a run directory, for as long as the `with` block or the process lasts.

    `LockedError` when another run has it, also another one in this process; `StorageError` when the directory
    cannot be locked at all. A forked child would keep the lock alive: start children with exec or spawn.
    """

    def __init__(self, run_directory: Path, *, now: Callable[[], float] = time.time) -> None:
        self.run_directory = run_directory
        self._now = now
        self._file = -1

    def __enter__(self) -> Self:
        path = self.run_directory / "lock"
        try:
            self._file = self._acquire(path)
        except OSError as error:
            raise StorageError(
                f"{path}: {error.strerror}; the run directory must exist, be writable and lie on a file "
                "system that can lock (a local disk can)"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the lock to a child that was forked all the same.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)

    def _acquire(self, path: Path) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockedError(self._refusal(os.pread(file, 4096, 0))) from error
            started = datetime.fromtimestamp(self._now(), UTC)
            owner = _Owner(pid=os.getpid(), host=os.uname().nodename, started=started)
            os.ftruncate(file, 0)
            os.write(file, msgspec.json.encode(owner))
        except (LockedError, OSError):
            os.close(file)
            raise
        return file

    def _refusal(self, note: bytes) -> str:
        try:
            owner = str(msgspec.json.decode(note, type=_Owner))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            owner = "its lock file does not say which"
        return (
            f"{self.run_directory}: another run is at work here ({owner}); wait for its end or stop it, then "
            "run the same command again."
            f" `batchgen status {shlex.quote(str(self.run_directory))}` works meanwhile"
        )
