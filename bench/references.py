"""
How often is a picture read that many rows bring along, and what does a run with such rows hold in memory?

    python -m bench.references [--trio]

500 rows share 20 JPEGs of 5 MB, two of them a row: a request has 13 MB. The run is a process of its own, with
16 workers over a loopback endpoint. Opened files are counted by an audit hook; peak memory is VmHWM of the
whole process, from its start to its end; Linux only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from batchgen import job as jobs
from batchgen import runner
from bench.servers import serving

BOUND_MB, ROWS, FILES, WORKERS = 500, 500, 20, 16
_BYTES = 5_000_000


def _child(url: str, backend: str) -> None:
    """One run; its peak in MB and how often the files were opened, at most, go to standard output."""
    opened: Counter[str] = Counter()

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".jpg") and "/shots/" in str(arguments[0]):
            opened[str(arguments[0])] += 1

    with tempfile.TemporaryDirectory() as folder:
        shots = Path(folder) / "shots"
        shots.mkdir()
        for number in range(FILES):
            (shots / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + os.urandom(_BYTES - 3))
        manifest = Path(folder) / "prompts.csv"
        rows = (
            f"r{row},picture {row},shots/{row % FILES}.jpg;shots/{(row + 1) % FILES}.jpg\n"
            for row in range(ROWS)
        )
        manifest.write_text("id,prompt,references\n" + "".join(rows))
        given = {
            "base_url": url,
            "provider": "core-today",
            "concurrency": WORKERS,
            "output": f"{folder}/run",
        }
        sys.addaudithook(hear)
        summary = runner.run(
            jobs.resolve(str(manifest), given),
            environment={"BATCHGEN_API_KEY": "any"},
            surroundings=runner.Surroundings(backend=backend),
        )
    if summary.bought != ROWS or len(opened) != FILES:
        raise SystemExit(f"{summary.bought} of {ROWS} were bought, {len(opened)} files read")
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    print(peak, max(opened.values()))


def main() -> int:
    """Measure, print the figures, return 1 where a bound is broken."""
    backend = "trio" if "--trio" in sys.argv else "asyncio"
    with serving(width=256, height=256) as url:
        command = [sys.executable, "-m", "bench.references", "child", url, backend]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    peak, opened = map(float, told.split())
    print(f"{ROWS} rows, {FILES} files of {_BYTES / 1e6:.0f} MB, {WORKERS} in flight ({backend})")
    print(f"  peak memory        {peak:4.0f} MB (bound {BOUND_MB})")
    print(f"  reads of one file  {opened:4.0f}    (bound 1)")
    return int(peak > BOUND_MB or opened > 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
