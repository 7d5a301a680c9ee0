"""
How much memory does a run take at most, with 64 answers of 20 MB on their way at once?

    python -m bench.memory [--trio]

Each run is a process of its own: `runner.run` with 64 workers over a loopback endpoint, with the full check.
The picture is a PNG of 15 MB, of 12 megapixels. Peak memory is VmHWM of the whole process, from its start to
its end; Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import job as jobs
from batchgen import runner
from bench.servers import serving

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

BOUND_MB, ROWS, WORKERS = 600, 128, 64


def endpoint(*, chunked: bool = False) -> AbstractContextManager[str]:
    """The endpoint whose picture has 15 MB, 20 MB as it travels."""
    return serving(width=4096, height=2890, bits=2, chunked=chunked)


def _child(url: str, backend: str) -> None:
    """One run; its peak goes to standard output, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{row},picture {row}\n" for row in range(ROWS)))
        given = {
            "base_url": url,
            "provider": "core-today",
            "concurrency": WORKERS,
            "output": f"{folder}/run",
        }
        summary = runner.run(
            jobs.resolve(str(manifest), given),
            environment={"BATCHGEN_API_KEY": "any"},
            surroundings=runner.Surroundings(backend=backend),
        )
    if summary.bought != ROWS:
        raise SystemExit(f"only {summary.bought} of {ROWS} were bought: {summary.failures}")
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")))


def main() -> int:
    """Measure, print the figures, return 1 where a bound is broken."""
    backend = "trio" if "--trio" in sys.argv else "asyncio"
    broken = False
    for chunked in (False, True):
        with endpoint(chunked=chunked) as url:
            command = [sys.executable, "-m", "bench.memory", "child", url, backend]
            peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        kind = "chunked" if chunked else "Content-Length"
        print(f"{WORKERS} in flight, {kind:<15}{peak:4.0f} MB (bound {BOUND_MB}, {backend})")
        broken = broken or peak > BOUND_MB
    return int(broken)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
