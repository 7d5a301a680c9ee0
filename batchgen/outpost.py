"""
How does a process on another machine make a run's attempts?

An `Outpost` lives on a node of a cluster and is called from there: plain data in, an outcome without bytes
out. The picture goes from it to the run directory or its bucket. It knows nothing of what calls it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchgen.address import Address  # noqa: TC001  msgspec reads the annotations at run time
from batchgen.bucket import Bucket
from batchgen.crew import Workers
from batchgen.disk import Disk, Space
from batchgen.errors import InputError, StorageError
from batchgen.job import Endpoint, Job  # noqa: TC001  msgspec reads the annotations at run time
from batchgen.objects import Objects
from batchgen.records import Task, Value
from batchgen.references import References
from batchgen.store import Store
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from batchgen.store import Pictures
    from batchgen.worker import Worker

    T = TypeVar("T")

MARK = ".shared"
"""A file in the run directory or its bucket, by which an outpost sees that it is the driver's."""
_THREADS = 4
"""For decoding and disk."""
_SENDING = 16
"""The same where pictures go over a network, for which most of them wait."""


class Orders(Value, frozen=True, kw_only=True):
    """What an outpost needs to make attempts."""

    job: Job
    endpoint: Endpoint
    root: str
    """The run directory."""
    mark: str
    """What the driver has written there."""
    address: Address | None = None
    """The bucket in which the pictures are; None where they are in the run directory."""


class Presence(Value, frozen=True, kw_only=True):
    """An outpost's answer to its orders."""

    host: str
    unfit: str = ""
    """Why no attempts can be made there, and what to do about it."""


_ORDERS = msgspec.msgpack.Decoder(Orders)
_TASK = msgspec.msgpack.Decoder(Task)


class Outpost:
    """
    Makes attempts in a process of its own.

    As many at once as are asked for, each with a worker of its own; all share the memory for answers.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor
        self._open = AsyncExitStack()
        self._idle: list[Worker] = []
        self._hire: Callable[[], Awaitable[Worker]]

    async def begin(self, version: str, orders: bytes) -> bytes:
        """Take up work; what comes back is a `Presence`."""
        unfit = f"batchgen {__version__} is installed there and {version} here; have the same everywhere"
        if version == __version__:
            unfit = await self._begun(_ORDERS.decode(orders))
        return msgspec.msgpack.encode(Presence(host=socket.gethostname(), unfit=unfit))

    async def _begun(self, orders: Orders) -> str:
        root = Path(orders.root)
        self._threads = ThreadPoolExecutor(_THREADS if orders.address is None else _SENDING)
        pictures: Pictures
        if orders.address is None:
            pictures, references = Store(root), References()
            unfit = await self._blocking(lambda: _not_shared(root, orders.mark))
        else:
            pictures = objects = Objects(Bucket(orders.address))
            references = References(fetch=objects.fetch)
            unfit = await self._blocking(lambda: _out_of_reach(objects.bucket, orders.mark))
        workers = Workers(
            job=orders.job,
            endpoint=orders.endpoint,
            references=references,
            store=pictures,
            # What is free is the driver's concern; here it is written, and tried again.
            disk=Disk(Space(directory=root, picture=0, reserve=0), blocking=self._blocking),
            transport=None,
            wall=time.time,
            blocking=self._blocking,
        )
        self._hire = await self._open.enter_async_context(workers.hiring())
        return unfit

    async def attempt(self, task: bytes, stem: str) -> bytes:
        """Make an attempt for a `Task`; what comes back is an `Outcome`."""
        worker = self._idle.pop() if self._idle else await self._hire()
        try:
            outcome = await worker.attempt(_TASK.decode(task), _known(stem), sending=_noted)
        finally:
            self._idle.append(worker)
        return msgspec.msgpack.encode(outcome)

    async def _blocking(self, call: Callable[[], T]) -> T:
        # anyio's threads would end with each attempt: here every one is a root task.
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


async def _noted() -> None:
    """The driver has noted that the request is to be sent before it told of it."""


def _not_shared(root: Path, mark: str) -> str:
    try:
        if (root / MARK).read_text("ascii") == mark and os.access(root, os.W_OK | os.X_OK):
            return ""
        told = "is another folder than here, or cannot be written"
    except OSError as cause:
        told = f"cannot be read ({cause.strerror})"
    return f"the run directory {root} {told}; name one with -o that all nodes share under this path"


def _out_of_reach(bucket: Bucket, mark: str) -> str:
    try:
        if bucket.get(MARK) == mark.encode():
            probe = f"{MARK}-{secrets.token_hex(8)}"
            bucket.put(probe, b"")
            bucket.remove([probe])
            return ""
        told = f"{bucket.address} is another place there than here"
    except InputError as cause:
        return f"{cause}; see to that on every node, where Ray is started"
    except StorageError as cause:
        told = str(cause)
    return f"{told}; on every node Ray is to be started with the bucket's key and endpoint in its environment"


def _known(stem: str) -> Callable[[], Awaitable[str]]:
    async def known() -> str:
        return stem

    return known
