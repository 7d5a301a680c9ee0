"""Where do answers lie in memory, and how many bytes of them at once?"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 2**20
_UNKNOWN = 16 * _MIB
"""Bytes claimed for the first answer of unknown length; later ones are taken to be as long as the last."""
_SPARE = 32 * _MIB
"""Bytes kept for later answers: new memory costs a page fault every 4 KiB, a millisecond a picture."""


class Buffers:
    """
    How many bytes of answers may be held at once, by all clients of a run together.

    First come, first served. What is larger than the whole `capacity` (bytes) waits until it is alone.
    """

    def __init__(self, capacity: int = 128 * _MIB) -> None:
        self._capacity = capacity
        self._held = 0
        self.usual = _UNKNOWN
        """Bytes to claim for an answer of unknown length."""
        self._spare: list[bytearray] = []
        self._queue: deque[tuple[int, anyio.Event]] = deque()

    @property
    def held(self) -> int:
        """Bytes claimed at the moment."""
        return self._held

    @contextmanager
    def claim(self) -> Iterator[Claim]:
        """A claim of nothing, to be filled; given back at the end."""
        claim = Claim(self)
        try:
            yield claim
        finally:
            claim.resize(0)

    def memory(self, length: int) -> bytearray:
        """So many bytes of whatever was in them."""
        try:
            memory = self._spare.pop()
        except IndexError:
            return bytearray(length)
        del memory[length:]
        memory.extend(bytes(length - len(memory)))
        return memory

    def recycle(self, memory: bytearray) -> None:
        """Use memory again, or free it at once; nobody may look at it any more. Any thread may call this."""
        if sum(map(len, self._spare)) + len(memory) <= _SPARE:
            self._spare.append(memory)
        else:
            memory.clear()

    def at_once(self, size: int) -> bool:
        """Count `size` bytes if they are free and nobody waits for any; whether they were."""
        free = not self._queue and self._fits(size)
        self._held += size * free
        return free

    async def take(self, size: int) -> None:
        """Wait for `size` bytes and count them; `Claim` gives them back."""
        if self.at_once(size):
            return
        turn = (size, anyio.Event())
        self._queue.append(turn)
        try:
            await turn[1].wait()
        except anyio.get_cancelled_exc_class():
            if turn[1].is_set():
                self.add(-size)
            else:
                self._queue.remove(turn)
                self.add(0)
            raise

    def add(self, size: int) -> None:
        """Count `size` bytes more, or fewer, without waiting, and let in who fits."""
        self._held += size
        while self._queue and self._fits(self._queue[0][0]):
            granted, event = self._queue.popleft()
            self._held += granted
            event.set()

    def _fits(self, size: int) -> bool:
        return self._held == 0 or self._held + size <= self._capacity


class Claim:
    """The bytes one answer holds of `Buffers`."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.size = 0

    async def take(self, size: int) -> None:
        """Wait until `size` bytes are free. Whoever waits holds nothing, so nobody waits for each other."""
        self.resize(0)
        await self._buffers.take(size)
        self.size = size

    def at_once(self, size: int) -> bool:
        """Do the same if there is nothing to wait for; whether there was not."""
        self.resize(0)
        taken = self._buffers.at_once(size)
        self.size = size * taken
        return taken

    def resize(self, size: int) -> None:
        """Hold `size` bytes from now on, without waiting: the bytes are there already."""
        size, self.size = size - self.size, size
        self._buffers.add(size)
