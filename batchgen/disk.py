"""
Is there room on the disk, and what becomes of a bought picture while there is none?

`Space` compares what is needed with what is free, before a run and all through it. `Disk` holds back what is
not bought yet, and tries again what could not be written, with its bytes in memory: they are paid for.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import anyio

from batchgen.errors import StorageError
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    T = TypeVar("T")


logger = logging.getLogger("batchgen")

PATIENCE = 60.0
"""Seconds for which a disk that takes nothing is waited for."""
PICTURE = 1_500_000
"""
Bytes of a picture where none has been bought yet. As of 2026-11 a model makes 1K pictures unless asked for
others: 0.4 to 1.2 MB as JPEG, 1.2 to 2.2 MB as PNG.
"""
SIMULATED = 250_000
"""The same for a simulated one."""

_EVERY = 1.0
"""Seconds between two looks at the free space."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
"""Seconds between two tries of one write."""
_TASK = 2_000
"""Bytes a task takes in the ledger; 900 to 1,300 without long answers."""
_ROW = 500
"""Bytes a task takes in the table beside what it has in the manifest; 110 to 300 without long answers."""
_FIXED = 32_000_000
"""Bytes for the ledger's write-ahead log and its ballast, and for what others write between two looks."""
_LOG = 64_000_000
"""Bytes more of a log that copies are made of, at least."""
_FILES = 64
"""Files and folders beside one file a picture."""
_LEARNED_FROM = 100


class Free(Value, frozen=True, kw_only=True):
    """What is free for an ordinary user; None where the file system does not say."""

    bytes: int | None
    files: int | None
    """Inodes."""


def free(directory: Path) -> Free:
    """
    Ask the file system of a directory; quotas are in it where the file system puts them there (XFS, NFS).

    :raises StorageError: it does not answer.
    """
    try:
        found = os.statvfs(directory)
    except OSError as cause:
        raise StorageError(
            f"{directory}: {cause.strerror}; check that the run directory is still there, then run the same"
            " command again"
        ) from cause
    return Free(
        bytes=found.f_bavail * found.f_frsize if found.f_blocks else None,
        files=found.f_favail if found.f_files else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The room a run has and needs."""

    directory: Path
    picture: float
    """Bytes a picture takes, drafts included."""
    reserve: int
    """Bytes that must stay free for ledger and table."""
    look: Callable[[Path], Free] = free
    shipped: bool = False
    """Whether pictures go elsewhere, and the ledger's log is kept until it is as large as the ledger."""

    def needed(self, pictures: int) -> int:
        """Bytes that so many more pictures take, ledger and table included."""
        return int(pictures * self._each) + self.reserve

    @property
    def _each(self) -> float:
        return 2 * _TASK if self.shipped else self.picture + _TASK

    def fitting(self, most: int) -> tuple[int, str | None]:
        """
        How many of so many pictures fit, and what is in the way of the rest.

        :raises StorageError: the file system does not answer.
        """
        found = self.look(self.directory)
        each = self._each
        fit: float = most
        told = None
        if found.bytes is not None and found.bytes < most * each + self.reserve:
            fit = max(0, found.bytes - self.reserve) // each
            what = (
                f"ledger and table of {most:,} pictures need"
                if self.shipped
                else f"{most:,} pictures of about {size(self.picture)}, the ledger and the table need"
            )
            told = f"{what} {size(most * each + self.reserve)}, and {size(found.bytes)} are free"
        if not self.shipped and found.files is not None and found.files < most + _FILES:
            fit = min(fit, max(0, found.files - _FILES))
            told = told or (
                f"{most:,} pictures need as many files, and {found.files:,} more can be made (inodes)"
            )
        return int(fit), told and f"{self.directory}: {told}; make room"


def reserve(*, tasks: int, manifest: int, shipped: bool = False) -> int:
    """
    Bytes to keep free for the ledger at work and a whole new table, of a manifest of so many bytes.

    :param shipped: whether the ledger's log is kept for its copies.
    """
    return _FIXED + (_LOG if shipped else 0) + manifest + tasks * _ROW


def size(count: float) -> str:
    """Bytes as people say them: three digits, decimal units."""
    power = min(4, int(math.log10(max(1.0, count)) // 3))
    scaled = count / 1000**power
    return f"{scaled:,.{1 if power and scaled < 9.95 else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


class Disk:
    """
    The disk under a run, as its workers share it.

    While anything waits to be written or there is too little room, nothing more is bought. That lasts
    `PATIENCE` at most; from then on, or after `give_up`, nothing is waited for.
    """

    def __init__(
        self, space: Space, *, blocking: Callable[[Callable[[], str | None]], Awaitable[str | None]]
    ) -> None:
        """:param blocking: runs a blocking call off the event loop."""
        self._space = space
        self._blocking = blocking
        self._pictures: deque[int] = deque(maxlen=_LEARNED_FROM)
        self._sum = 0
        self._mean = space.picture
        self._looked = -math.inf
        self._turn = anyio.Lock(fast_acquire=True)
        self._unwritten = 0
        self._clear = anyio.Event()
        self._hopeless = anyio.Event()

    def give_up(self) -> None:
        """Wait no longer: whoever waits tries for the last time now."""
        self._hopeless.set()

    def observe(self, picture: int) -> None:
        """Learn how many bytes a picture takes."""
        pictures = self._pictures
        self._sum += picture - (pictures[0] if len(pictures) == _LEARNED_FROM else 0)
        pictures.append(picture)
        self._mean = self._sum / len(pictures)

    async def room(self, in_flight: int) -> str | None:
        """
        Wait until nothing is left to write and what is in flight fits; what is in the way after `PATIENCE`.

        The file system is asked once a second at most.
        """
        if not self._unwritten and anyio.current_time() < self._looked + _EVERY:
            return None
        async with self._turn:
            while self._unwritten:
                await self._clear.wait()
            now = began = anyio.current_time()
            if now < self._looked + _EVERY:
                return None
            while (told := await self._blocking(lambda: self._missing(in_flight))) is not None:
                if self._hopeless.is_set() or now >= began + PATIENCE:
                    return told
                if now == began:
                    self._notice(told)
                with anyio.move_on_after(_EVERY):
                    await self._hopeless.wait()
                now = anyio.current_time()
            if now > began:
                logger.warning("there is room on the disk again; the run goes on")
            self._looked = now
            return None

    def _missing(self, in_flight: int) -> str | None:
        try:
            return replace(self._space, picture=self._mean).fitting(in_flight)[1]
        except StorageError as cause:
            return str(cause)

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """
        Write, and while the disk refuses, again and again: `write` starts anew each time.

        :raises StorageError: what the disk said last, when there is nothing more to wait for.
        """
        try:
            return await write()
        except StorageError as cause:
            first = cause
        until = anyio.current_time() + PATIENCE
        pause = _FIRST_PAUSE
        with self._waiting(first):
            while True:
                with anyio.move_on_after(min(pause, until - anyio.current_time())):
                    await self._hopeless.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
                if anyio.current_time() >= until:
                    self._hopeless.set()
                try:
                    return await write()
                except StorageError:
                    if self._hopeless.is_set():
                        raise

    @contextmanager
    def _waiting(self, cause: StorageError) -> Iterator[None]:
        if not self._unwritten and not self._hopeless.is_set():
            self._notice(str(cause))
        self._unwritten += 1
        try:
            yield
        finally:
            self._unwritten -= 1
            if not self._unwritten:
                self._clear.set()
                self._clear = anyio.Event()
                if not self._hopeless.is_set():
                    logger.warning("the disk has taken what waited for it; the run goes on")

    def _notice(self, told: str) -> None:
        logger.warning(
            "%s. If that is done within %.0f s, this run goes on by itself; nothing new is bought meanwhile",
            told,
            PATIENCE,
        )
