"""
How much memory does a run take at most, with 64 answers of 20 MB, or 96 of 40 MB, on their way at once?

    python -m bench.memory [--trio]

Each run is a process of its own: `runner.run` over a loopback endpoint, with the full check. The picture is a
PNG of 15 MB or of 30 MB, both of 12 megapixels: larger ones would be decoded one at a time. Peak memory is
VmHWM of the whole process, from its start to its end; Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import job as jobs
from batchgen import runner
from bench.servers import serving

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

BOUND_MB, ROWS, WORKERS = 600, 128, 64


@dataclass(frozen=True)
class Case:
    """Pictures of one size, and how many of them are on their way."""

    workers: int
    rows: int
    megabytes: int
    """Of an answer."""
    bits: int
    bound: int
    """MB."""


CASES = (Case(WORKERS, ROWS, 20, 2, BOUND_MB), Case(96, 120, 40, 6, 800))


def endpoint(*, bits: int = 2, chunked: bool = False) -> AbstractContextManager[str]:
    """The endpoint whose picture has 15 MB, 20 MB as it travels; twice as much with 6 bits."""
    return serving(width=4096, height=2890, bits=bits, chunked=chunked)


def _child(url: str, backend: str, workers: int, rows: int) -> None:
    """One run; its peak goes to standard output, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{row},picture {row}\n" for row in range(rows)))
        given = {
            "base_url": url,
            "provider": "core-today",
            "concurrency": workers,
            "output": f"{folder}/run",
        }
        summary = runner.run(
            jobs.resolve(str(manifest), given),
            environment={"BATCHGEN_API_KEY": "any"},
            surroundings=runner.Surroundings(backend=backend),
        )
    if summary.bought != rows:
        raise SystemExit(f"only {summary.bought} of {rows} were bought: {summary.failures}")
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")))


def main() -> int:
    """Measure, print the figures, return 1 where a bound is broken."""
    backend = "trio" if "--trio" in sys.argv else "asyncio"
    broken = False
    for case in CASES:
        for chunked in (False, True):
            with endpoint(bits=case.bits, chunked=chunked) as url:
                child = ["child", url, backend, str(case.workers), str(case.rows)]
                command = [sys.executable, "-m", "bench.memory", *child]
                peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            kind = "chunked" if chunked else "Content-Length"
            print(
                f"{case.workers} in flight, {case.megabytes} MB each, {kind:<15}{peak:4.0f} MB"
                f" (bound {case.bound}, {backend})"
            )
            broken = broken or peak > case.bound
    return int(broken)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        at, loop, *counts = sys.argv[2:]
        _child(at, loop, *map(int, counts))
    else:
        sys.exit(main())
