"""Whole nights in virtual time: the real runner, ledger, store and simulator, with nothing to wait for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pyarrow.parquet as pq
import trio.testing

from batchgen import disk, runner
from batchgen import job as jobs
from batchgen.clock import VirtualTimeLoop
from batchgen.simulator import Endpoint, Settings
from batchgen.simulator.transport import SimulatorTransport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.progress import Progress
    from batchgen.runner import Summary

T = TypeVar("T")


async def inline(call: Callable[[], T], /) -> T:
    """Run a blocking call where it stands: virtual time knows no threads."""
    return call()


class Nights:
    """One run directory and one simulated endpoint, for any number of runs; time goes on from run to run."""

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        *,
        backend: str = "asyncio",
        endpoint: type[Endpoint] = Endpoint,
    ) -> None:
        self.manifest = folder / "prompts.csv"
        self.directory = folder / "run"
        self.backend = backend
        self.endpoint = endpoint(settings or Settings(paint=False), clock=self.clock)
        self._began = self._now = 0.0

    def clock(self) -> float:
        """Seconds since the first run began; each run's own loop counts from zero."""
        self._now = max(self._now, self._began + anyio.current_time())
        return self._now

    def write(self, text: str) -> None:
        """Put a manifest in place."""
        self.manifest.write_text(text, encoding="utf-8")

    def rows(self, count: int) -> None:
        """Put a manifest of so many plain rows in place."""
        self.write("id,prompt\n" + "".join(f"row-{n},a picture of number {n}\n" for n in range(count)))

    def run(
        self,
        *,
        seed: int = 0,
        on_progress: Callable[[Progress], None] | None = None,
        on_look: Callable[[int, int], None] | None = None,
        signals: bool = False,
        free: Callable[[Path], disk.Free] = lambda _: disk.Free(bytes=None, files=None),
        **values: object,
    ) -> Summary:
        """Carry out one run to its end, in no time."""
        job = jobs.resolve(
            str(self.manifest), {"provider": "simulator", "output": str(self.directory), **values}
        )
        self._began = self._now
        around = replace(self.surroundings(seed), free=free)
        return runner.run(
            job,
            environment={},
            on_progress=on_progress,
            on_look=on_look,
            signals=signals,
            surroundings=around,
        )

    def surroundings(self, seed: int) -> runner.Surroundings:
        """What a run takes from outside: virtual time, seeded dice, no threads, no network."""
        options: dict[str, Any] = (
            {"loop_factory": VirtualTimeLoop}
            if self.backend == "asyncio"
            else {"clock": trio.testing.MockClock(autojump_threshold=0)}
        )
        return runner.Surroundings(
            backend=self.backend,
            backend_options=options,
            blocking=inline,
            rng=random.Random(seed),
            wall=lambda: 1_800_000_000.0 + self.clock(),
            transport=SimulatorTransport(self.endpoint, offload=inline),
        )

    def table(self) -> list[dict[str, Any]]:
        """The results as they stand."""
        with pq.ParquetFile(self.directory / jobs.TABLE) as file:
            found: list[dict[str, Any]] = file.read(use_threads=False).to_pylist()
        return found
