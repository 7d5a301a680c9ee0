"""
What does a picture cost in CPU where a cluster makes the attempts: in the driver, and in a worker?

    python -m bench.cluster

Needs the extra `ray`. A cluster of two nodes on this machine buys pictures of 1 MB from an endpoint on
loopback, 32 at a time; so does one process alone. Each is done with 100 rows and with 600, and what the 500
more took is told, so that no start is in it; in turn three times, of which the least counts. CPU is the
kernel's count of each process, its own and the system's; memory is the peak of one (VmHWM). Linux only.

Bound: the driver takes no more than half of what one process takes that does all itself.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchgen import job as jobs
from batchgen import runner
from bench.nodes import Nodes
from bench.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FEW, MANY, AT_ONCE, SIDE, ROUNDS = 100, 600, 32, 590, 3
NAMES = ("one process alone", "the driver", "a worker")
BOUND = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY = 0.05
"""Seconds between two looks at the workers, which end with their run."""


class Spent(NamedTuple):
    """What a process, or several, took."""

    cpu: float
    """Seconds."""
    peak: float
    """MB, of the largest."""


class Workers:
    """What the workers of a cluster take, looked at from outside."""

    def __init__(self) -> None:
        self._seen: dict[int, Spent] = {}

    def look(self) -> None:
        """Note what those that live have taken so far."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if b"Outpost" in (process / "cmdline").read_bytes():
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    taken = (int(fields[11]) + int(fields[12])) / _TICKS
                    self._seen[int(process.name)] = Spent(taken, _peak(process))

    def total(self) -> Spent:
        """All that were seen."""
        seen = [*self._seen.values()]
        return Spent(sum(each.cpu for each in seen), max((each.peak for each in seen), default=0.0))

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Look again and again."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_EVERY):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _peak(process: Path) -> float:
    status = (process / "status").read_text()
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    if line is None:
        raise ProcessLookupError(f"{process} has ended")
    return int(line.split()[1]) / 1024


def _child(url: str, rows: int, address: str | None) -> None:
    """One run; what it took goes to standard output."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{row},picture {row}\n" for row in range(rows)))
        given = {
            "base_url": url,
            "provider": "core-today",
            "concurrency": AT_ONCE,
            "output": f"{folder}/run",
            "ray": address,
        }
        summary = runner.run(jobs.resolve(str(manifest), given), environment={"BATCHGEN_API_KEY": "any"})
    if summary.bought != rows:
        raise SystemExit(f"only {summary.bought} of {rows} were bought: {summary.failures}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(Spent(used.ru_utime + used.ru_stime, _peak(Path("/proc/self")))))


def _took(url: str, rows: int, address: str | None) -> tuple[Spent, Spent]:
    """What the process that runs it took, and its workers elsewhere."""
    command = [sys.executable, "-m", "bench.cluster", url, str(rows), *([address] if address else [])]
    workers = Workers()
    with workers.looked_at():
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Spent(*json.loads(out.splitlines()[-1])), workers.total()


def _least(several: Iterable[Spent]) -> Spent:
    """Without what others have added to it."""
    return Spent(*map(min, zip(*several, strict=True)))


def _more(few: Spent, many: Spent) -> float:
    """Milliseconds of CPU that one more picture takes."""
    return (many.cpu - few.cpu) / (MANY - FEW) * 1000


def main() -> int:
    """Measure, print the figures, return 1 where the bound is broken."""
    with serving(width=SIDE, height=SIDE) as url, Nodes.up(2) as nodes:
        taken = [
            [_took(url, rows, None)[0], *_took(url, rows, nodes.address)]
            for _ in range(ROUNDS)
            for rows in (FEW, MANY)
        ]
    few, many = ([_least(each) for each in zip(*taken[at::2], strict=True)] for at in (0, 1))
    one, driver, worker = map(_more, few, many)
    for name, took, each in zip(NAMES, many, (one, driver, worker), strict=True):
        print(f"{name:<18}{each:5.1f} ms CPU a picture ({each / one:.2f}), {took.peak:4.0f} MB at most")
    print(f"a core of a driver feeds {1000 / driver:.0f} pictures a second, {60_000 / driver:,.0f} a minute")
    print(f"a core of workers makes {1000 / worker:.0f} a second, {60_000 / worker:,.0f} a minute")
    return int(driver > BOUND * one)


if __name__ == "__main__":
    if sys.argv[1:]:
        _child(sys.argv[1], int(sys.argv[2]), sys.argv[3] if sys.argv[3:] else None)
    else:
        sys.exit(main())
