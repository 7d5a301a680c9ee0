"""
Who makes the attempts of a run?

Here it is workers in this process, each with a connection of its own and all with the same memory for
answers; `cluster` has their like on other machines. A purchase knows nothing of them but that each makes one
attempt at a time.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen import providers
from batchgen.buffers import Buffers
from batchgen.client import TLS, Client
from batchgen.dialects import DIALECTS
from batchgen.provenance import Labels
from batchgen.redaction import Redactor
from batchgen.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol

    from batchgen.disk import Disk
    from batchgen.job import Endpoint, Job
    from batchgen.references import References
    from batchgen.simulator.transport import SimulatorTransport
    from batchgen.store import Pictures
    from batchgen.worker import Attempting, Blocking

    class Crew(Protocol):
        """Makes all attempts of a run."""

        def hired(self, hands: int) -> AbstractAsyncContextManager[Sequence[Attempting]]:
            """So many who make attempts, for as long as the context lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Makes attempts in this process."""

    job: Job
    endpoint: Endpoint
    references: References
    """The pictures that the manifest's rows bring along."""
    store: Pictures
    disk: Disk
    transport: SimulatorTransport | None
    """Replaces the network (the simulator's, in the same process)."""
    wall: Callable[[], float]
    """Seconds since 1970."""
    blocking: Blocking

    @asynccontextmanager
    async def hired(self, hands: int) -> AsyncIterator[Sequence[Attempting]]:
        """See `Crew.hired`."""
        async with self.hiring() as hire:
            yield [await hire() for _ in range(hands)]

    @asynccontextmanager
    async def hiring(self) -> AsyncIterator[Callable[[], Awaitable[Worker]]]:
        """What hires one more worker each time it is called; all share their memory for answers."""
        tls, buffers = TLS(), Buffers()
        async with AsyncExitStack() as stack:

            async def hire() -> Worker:
                return self._worker(await stack.enter_async_context(self._client(tls, buffers)))

            yield hire

    def _client(self, tls: TLS, buffers: Buffers) -> Client:
        provider = self.endpoint.provider
        return Client(
            base_url=provider.base_url,
            key=self.endpoint.key,
            key_header=provider.key_header,
            timeout=self.job.timeout,
            buffers=buffers,
            tls=tls,
            transport=self.transport,
        )

    def _worker(self, client: Client) -> Worker:
        provider = self.endpoint.provider
        labels = Labels(provider=provider.name, simulated=provider.simulated, wall=self.wall)
        return Worker(
            client=client,
            dialect=DIALECTS[provider.dialect],
            options=provider.image_options,
            stream=self.job.stream,
            references=self.references,
            store=self.store,
            disk=self.disk,
            models=providers.models_of(provider),
            check=self.job.check,
            labels=labels if self.job.embed else None,
            blocking=self.blocking,
            wall=self.wall,
            redact=Redactor([self.endpoint.key or ""]),
        )
