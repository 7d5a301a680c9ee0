"""
Who makes the attempts of a run on many machines?

Actors of a Ray cluster, one on each of its CPUs. Pacing, budget, ledger, retries and the table stay with the
driver: to an actor it gives one attempt at a time, and what comes back is an outcome without bytes. The
pictures go from the actor to the run directory, which all nodes share, or into its bucket.

Each attempt may be billed, so Ray repeats none: neither calls nor actors come back by themselves. An attempt
whose actor is lost is uncertain, unless its picture is there already. The ledger has it as
submitted before an actor hears of it.

Nothing here goes over Ray but plain data in calls: what an actor's constructor is given, Ray would keep with
the cluster, and the key is among it. Ray runs on asyncio alone, and so does this module.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import secrets
import signal
import socket
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from batchgen import providers
from batchgen.address import is_url
from batchgen.disk import PATIENCE
from batchgen.errors import InputError, StorageError
from batchgen.objects import Objects
from batchgen.outpost import MARK, Orders, Outpost, Presence
from batchgen.records import ErrorClass, Failure, Outcome
from batchgen.store import write_whole
from batchgen.version import __version__
from batchgen.worker import failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from batchgen.crew import Workers
    from batchgen.records import Image, Task
    from batchgen.store import Pictures
    from batchgen.worker import Attempting

logger = logging.getLogger("batchgen")

_OBJECTS = 80 * 2**20
"""Bytes of Ray's object store on a cluster of this machine alone: outcomes are small, it takes no less."""
_CONNECT = 5.0
"""Seconds for a cluster's head to take a connection."""
_GATHERING = 60.0
"""Seconds for the actors to start; who comes later is taken in later."""
_PAUSE = 60.0
"""Seconds until an actor that did not start is asked for again."""
_ABSENCE = 5.0
"""Seconds for which an attempt waits while there is no actor; then its task goes back, to be tried later."""
_GRACE = 60.0
"""Seconds that an answer may be late, beyond all that an attempt may take."""
_FAREWELL = 10.0
"""Seconds for Ray to end what it began."""
_HEAD_GONE = 3600
"""Seconds for which the driver goes on without the cluster's head; Ray would end it after one minute."""


_PRESENCE = msgspec.msgpack.Decoder(Presence)
_OUTCOME = msgspec.msgpack.Decoder(Outcome)


@contextmanager
def joined(
    address: str, directory: Path, pictures: Pictures
) -> Iterator[Callable[[Workers, Callable[[str, str], Image | None]], Cluster]]:
    """
    Be the driver of a Ray cluster; what is given makes a crew of it.

    :param address: as `ray.init` takes it; `local` is a cluster of this machine alone.
    :param directory: the run directory, whose owner the caller is.
    :param pictures: where those of the run go.
    :raises InputError: there is no such cluster, or no Ray.
    """
    root, mark = directory.absolute(), secrets.token_hex()
    with _connected(address) as ray, _marked(root, pictures, mark.encode()):
        yield partial(Cluster, ray, root=root, mark=mark)


@contextmanager
def _marked(root: Path, pictures: Pictures, mark: bytes) -> Iterator[None]:
    """Put up the mark by which outposts see that what they write to is the driver's."""
    if isinstance(pictures, Objects):
        pictures.bucket.put(MARK, mark)
        try:
            yield
        finally:
            with suppress(StorageError):  # it is in nobody's way, and whatever else fails is told
                # Who has taken over this place has put up another one.
                if pictures.bucket.get(MARK) == mark:
                    pictures.bucket.remove([MARK])
        return
    write_whole(root / MARK, mark)
    try:
        yield
    finally:
        (root / MARK).unlink(missing_ok=True)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    ray = _imported()
    local = {"object_store_memory": _OBJECTS, "include_dashboard": False} if address == "local" else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address != "local":
            _check_there(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ray.exceptions.RayError) as cause:
        why = getattr(cause, "strerror", None) or " ".join(str(cause).split()).partition(". ")[0]
        raise InputError(
            f"--ray {address}: no cluster to join: {why}; `ray start --head` begins one, `ray status` on one"
            " of its nodes tells of it"
        ) from cause
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # Ray has one of its own
    try:
        yield ray
    finally:
        leaving = _aside(ray.shutdown)
        leaving.join(_FAREWELL)
        if leaving.is_alive():
            atexit.unregister(ray.shutdown)


def _aside(call: Callable[[], object]) -> threading.Thread:
    """Do what may take for ever in a thread that the end of the program does not wait for."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def _imported() -> Any:  # noqa: ANN401  without the extra, nothing is known of it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_HEAD_GONE))
    try:
        import ray  # noqa: PLC0415
    except ImportError as cause:
        raise InputError(
            "--ray: Ray is not installed; `pip install 'batchgen[ray]'` here and on every node"
        ) from cause
    # It prints on standard output what becomes of nodes, also where it is to be silent.
    ray._private.worker._worker_logs_enabled = False  # noqa: SLF001
    return ray


def _check_there(address: str) -> None:
    """
    Knock at a cluster's door: Ray itself would wait for minutes, and fill the terminal.

    :raises InputError: it is no address.
    :raises OSError: nobody is there.
    """
    if "://" in address:
        raise InputError(
            f"--ray {address}: a client of Ray's cannot drive a run; start it on one of the cluster's nodes,"
            " with --ray auto"
        )
    from ray._private.services import canonicalize_bootstrap_address  # noqa: PLC0415

    try:
        host, _, port = canonicalize_bootstrap_address(address).rpartition(":")
    except ValueError as cause:
        raise InputError(f"--ray {address}: it is auto, HOST:PORT or local") from cause
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()


class _Link:
    """An actor, as the driver sees it."""

    __slots__ = ("actor", "busy", "host")

    def __init__(self, actor: Any, host: str) -> None:  # noqa: ANN401
        self.actor = actor
        self.host = host
        self.busy = 0


class Cluster:
    """Makes attempts on the nodes of a Ray cluster: the driver's side. See `crew.Crew`."""

    def __init__(
        self,
        ray: Any,  # noqa: ANN401
        workers: Workers,
        found: Callable[[str, str], Image | None],
        *,
        root: Path,
        mark: str,
    ) -> None:
        """
        Gather what actors are told.

        :param ray: the module, connected.
        :param workers: who would make the attempts here.
        :param found: the picture that a lost actor has left, by key and stem of its task; blocks.
        """
        self._ray = ray
        self._workers = workers
        self._found = found
        store = workers.store
        orders = Orders(
            job=workers.job,
            endpoint=workers.endpoint,
            root=str(root),
            mark=mark,
            address=store.bucket.address if isinstance(store, Objects) else None,
        )
        self._orders = msgspec.msgpack.encode(orders)
        self._model = providers.models_of(workers.endpoint.provider)
        self._late = 2 * workers.job.timeout + PATIENCE + _GRACE  # a link may take as long again
        self._actors: Any = None
        self._links: list[_Link] = []
        self._coming: dict[asyncio.Future[bytes], Any] = {}
        """Actors that have not answered yet, by what they will answer."""
        self._change = anyio.Event()
        self._unfit = ""
        self._at_work = False

    @asynccontextmanager
    async def hired(self, hands: int) -> AsyncIterator[Sequence[Attempting]]:
        """
        See `Crew.hired`. Any hand gives its attempts to the actor that has the fewest.

        :raises InputError: an actor cannot do what it is to do, or none has come.
        """
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        self._actors = self._ray.remote(Outpost).options(
            num_cpus=1,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=hands + 1,
            scheduling_strategy="SPREAD",
        )
        try:
            for _ in range(min(hands, max(1, cpus))):
                self._engage()
            await self._gathered()
            self._at_work = True
            yield [self] * hands
        finally:
            self._at_work = False
            # Nobody else is on the event loop any more, and the table must not be written beside them.
            self._kill(*self._coming.values(), *(link.actor for link in self._links)).join(_FAREWELL)
            for answer in [*self._coming]:
                answer.cancel()

    def _kill(self, *actors: Any) -> threading.Thread:  # noqa: ANN401
        """End these at once; without the cluster's head that takes for ever, so nobody has to wait for it."""
        return _aside(lambda: [self._ray.kill(actor) for actor in actors])

    def _engage(self) -> None:
        actor = self._actors.remote()
        answer = asyncio.wrap_future(actor.begin.remote(__version__, self._orders).future())
        self._coming[answer] = actor
        answer.add_done_callback(self._take_in)

    def _take_in(self, answer: asyncio.Future[bytes]) -> None:
        """An actor has answered, or will never."""
        actor = self._coming.pop(answer)
        if answer.cancelled():
            return
        try:
            presence = _PRESENCE.decode(answer.result())
        except self._ray.exceptions.RayError as cause:
            (*_, last) = str(cause).strip().splitlines()
            self._refuse(
                f"a worker did not start: {last}; batchgen[ray] {__version__} is needed on every node"
            )
            if self._at_work:
                asyncio.get_running_loop().call_later(_PAUSE, self._engage)
        else:
            if presence.unfit:
                self._kill(actor)
                self._refuse(f"{presence.host}: {presence.unfit}")
            else:
                self._links.append(_Link(actor, presence.host))
        self._change.set()
        self._change = anyio.Event()

    def _refuse(self, why: str) -> None:
        self._unfit = self._unfit or why
        if self._at_work:
            logger.warning("%s; the run goes on with %d workers", why, len(self._links))

    async def _gathered(self) -> None:
        """Wait for the actors, not for ever."""
        with anyio.move_on_after(_GATHERING):
            while self._coming and not self._unfit:
                await self._change.wait()
        if self._unfit:
            raise InputError(f"--ray: {self._unfit}")
        if not self._links:
            raise InputError(
                f"--ray: no CPU of the cluster was free within {_GATHERING:.0f} s; `ray status` tells who has"
                " them"
            )
        if self._coming:
            logger.warning(
                "%d workers are there, %d still wait for a CPU", len(self._links), len(self._coming)
            )

    async def attempt(
        self, task: Task, stem: Callable[[], Awaitable[str | None]], *, sending: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """See `Worker.attempt`; `sending` is awaited here, before an actor hears of it."""
        began, started_at = anyio.current_time(), int(self._workers.wall() * 1e6)
        with anyio.move_on_after(_ABSENCE):
            while not self._links:
                await self._change.wait()
        if self._links:
            await sending()
        # One request at a time is in flight for a task here, so that its file is this one's.
        name = await stem() if self._links else None
        if name is not None:
            outcome = await self._made(task, name)
        else:
            outcome = self._failed(task, ErrorClass.UNREACHABLE, "no worker of the cluster is there")
        if outcome.started_at:
            return outcome
        return msgspec.structs.replace(outcome, started_at=started_at, latency=anyio.current_time() - began)

    async def _made(self, task: Task, stem: str) -> Outcome:
        link = min(self._links, key=lambda link: link.busy)
        link.busy += 1
        try:
            with anyio.fail_after(self._late):
                answer = await link.actor.attempt.remote(msgspec.msgpack.encode(_portable(task)), stem)
        except self._ray.exceptions.RayTaskError as cause:
            raise cause.cause from None  # as if it had been raised here
        except (TimeoutError, self._ray.exceptions.RayError):
            self._lose(link)
        else:
            return _OUTCOME.decode(answer)
        finally:
            link.busy -= 1
        picture = await self._workers.blocking(lambda: self._found(task.key, stem))
        if picture is not None:  # it was paid for, nobody knows with what
            return Outcome(images=(picture,))
        told = f"the worker on {link.host} was lost with this request in flight; it may have been billed"
        return self._failed(task, ErrorClass.UNCERTAIN, told)

    def _lose(self, link: _Link) -> None:
        if link not in self._links:
            return
        self._links.remove(link)
        self._kill(link.actor)  # it may have been cut off alone, and must not write any more
        logger.warning("a worker on %s is lost, with %d requests in flight", link.host, link.busy)
        self._engage()

    def _failed(self, task: Task, kind: ErrorClass, message: str) -> Outcome:
        return failed(Failure(kind=kind, message=message), self._model(task.model))


def _portable(task: Task) -> Task:
    """The task with its pictures as they are found from any folder."""
    if not task.references:
        return task
    references = tuple(
        each
        if is_url(each.source)
        else msgspec.structs.replace(each, source=str(Path(each.source).absolute()))
        for each in task.references
    )
    return msgspec.structs.replace(task, references=references)
