"""
Does a run cost the same memory for a thousand rows and for a million, and does it start at once?

    python -m bench.rows [--trio]

Each run is a process of its own: `runner.run` on the simulator, without latency, for the first 1,000 tasks
of a manifest. Its peak memory over a manifest of 1,000,000 rows may be 60 MB above that over 1,000 rows:
for CSV with ids and without, with one prompt for all rows, for Parquet, for a second run in the same
directory, and for those in which 999,000 tasks are done. Times are told as multiples of what pyarrow needs to
read id and prompt from the same file; a run that goes on where another has ended in order may take six times
as long until its first request, whichever rows are missing, and a plan of it eight times. After a kill all of
the ledger is looked through, which is told and not bounded. Linux only: the peak is VmHWM of
/proc/self/status.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen import outlook, plan, results, runner
from batchgen.bookmark import Bookmark
from batchgen.ledger import Ledger, Reader
from batchgen.records import Image
from batchgen.references import References
from batchgen.simulator import Endpoint, Settings
from batchgen.simulator.transport import SimulatorTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEW, MANY, BOUGHT = 1_000, 1_000_000, 1_000
BOUND_MB = 60
BOUND_FIRST = 6
"""Times what pyarrow needs to read id and prompt, until a resumed run has sent its first request."""
BOUND_PLAN = 8
"""The same, until it is told what such a run would do."""
BOUND_STATUS = 0.2
"""Seconds; the whole process, its start included."""
_PLAN = "plan"
"""In the place of a backend: nothing is run."""
KINDS = ("csv", "csv-without-ids", "csv-one-prompt", "csv-one-prompt-without-ids", "parquet")
_PART = 50_000
_SETTINGS = Settings(latency=0.0, paint=False)


# In the child


def _carry_out(source: str, directory: str, limit: str, backend: str) -> None:
    """One run; its figures go to standard output as JSON."""
    began = time.monotonic()
    first: list[float] = []

    def clock() -> float:
        """What the simulator asks for the time of each request."""
        if not first:
            first.append(time.monotonic() - began)
        return time.monotonic()

    given: dict[str, object] = {"provider": "simulator", "output": directory, "limit": int(limit) or None}
    if backend == _PLAN:
        found = outlook.preview(jobs.resolve(source, given))
        print(json.dumps({"whole": time.monotonic() - began, "buy": found.buy}))
        return
    around = runner.Surroundings(
        backend=backend, transport=SimulatorTransport(Endpoint(_SETTINGS, clock=clock))
    )
    summary = runner.run(jobs.resolve(source, given), environment={}, surroundings=around)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    figures = {
        "first": first[0] if first else None,
        "whole": time.monotonic() - began,
        "peak": peak / 1024,
        "bought": summary.bought,
        "rows": sum(summary.tasks.values()),
    }
    print(json.dumps(figures))


# In the parent


class Bench:
    """Manifests and run directories in one folder, and what was measured in them."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder = folder
        self.backend = backend
        self.broken: list[str] = []

    def manifest(self, kind: str, rows: int) -> Path:
        """A manifest of so many rows."""
        path = self.folder / f"{kind}-{rows}.{'parquet' if kind == 'parquet' else 'csv'}"
        names = ["prompt", "tag"] if "without-ids" in kind else ["id", "prompt", "tag"]
        schema = pa.schema([(name, pa.string()) for name in names])
        writer = pq.ParquetWriter if kind == "parquet" else pa.csv.CSVWriter
        with writer(path, schema) as file:
            for start in range(0, rows, _PART):
                numbers = range(start, min(rows, start + _PART))
                cells = {
                    "id": [f"row-{number}" for number in numbers],
                    "prompt": [
                        f"A studio photo of item {0 if 'one-prompt' in kind else number} in soft light"
                        for number in numbers
                    ],
                    "tag": [f"t{number % 9}" for number in numbers],
                }
                file.write_table(pa.table({name: cells[name] for name in names}, schema))
        return path

    def run(
        self, source: Path, name: str, limit: int = BOUGHT, *, backend: str | None = None
    ) -> dict[str, Any]:
        """Carry out one run, or a plan of it, in a process of its own."""
        command = [sys.executable, "-m", "bench.rows", "--child", str(source), str(self.folder / name)]
        answer = subprocess.run(
            [*command, str(limit), backend or self.backend], check=True, stdout=subprocess.PIPE
        )
        figures: dict[str, Any] = json.loads(answer.stdout)
        return figures

    def compare(
        self,
        told: str,
        few: dict[str, Any],
        many: dict[str, Any],
        read: float,
        *,
        bound: float = float("inf"),
    ) -> None:
        """Print what a million rows cost beside a thousand; `bound` is on the first request, in `read`s."""
        more = many["peak"] - few["peak"]
        first = "nothing to send" if many["first"] is None else f"{many['first'] / read:5.1f} x"
        print(
            f"{told:32} {few['peak']:6.0f} MB {many['peak']:6.0f} MB {more:+6.0f} MB"
            f"   first request {first:>15}   whole run {many['whole'] / read:6.1f} x",
            flush=True,
        )
        if abs(more) > BOUND_MB or many["rows"] != MANY:
            self.broken.append(told)
        if many["first"] is not None and many["first"] > bound * read:
            self.broken.append(f"{told}: first request after more than {bound} x")


def _took(call: Callable[[], object], times: int = 3) -> float:
    """Seconds, the best of some."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def _whole(figures: dict[str, Any]) -> float:
    return float(figures["whole"])


def _read(source: Path) -> float:
    """Seconds in which pyarrow reads the id and the prompt of a table, or what there is of them."""
    if source.suffix == ".parquet":
        return _took(lambda: pq.read_table(source, columns=["id", "prompt"]))
    columns = [name for name in source.open().readline().strip().replace('"', "").split(",") if name != "tag"]
    options = pa.csv.ConvertOptions(include_columns=columns)
    return _took(lambda: pa.csv.read_csv(source, convert_options=options))


_TASK = """
INSERT INTO tasks (key, id, stem, folded, status, model, provider, attempts,
  prompt_tokens, text_tokens, image_tokens, total_tokens, quality, cost, wasted, credits,
  images, finish_reason, request_id, started_at, finished_at, latency)
VALUES (?1, ?2, ?2, ?2, 'succeeded', 'gemini-3.1-flash-image-preview', 'simulator', 1,
  12, 240, 1120, 1372, 1, 67926000, 0, 67926,
  ?3, 'stop', 'req-' || ?2, 1800000000000000, 1800000012000000, 12.0)
"""
_ATTEMPT = """
INSERT INTO attempts (key, run, started_at, submitted_at, settled_at, reserved, request_id,
  prompt_tokens, text_tokens, image_tokens, total_tokens, quality, cost, latency)
VALUES (?1, 1, 1800000000000000, 1800000000000001, 1800000012000000, 100000000, 'req-' || ?2,
  12, 240, 1120, 1372, 1, 67926000, 12.0)
"""


def _fill(directory: Path, rows: manifests.Manifest, done: int) -> None:
    """Put the first `done` tasks of a manifest into its ledger, as if they had been bought."""
    path = directory / jobs.LEDGER
    with closing(Ledger(path)) as ledger:
        ledger.begin(now=1, provider="simulator", simulated=True, tasks=rows.tasks, version="0", in_flight=8)
        with closing(sqlite3.connect(path)) as connection, connection:
            for part in _bought(rows, done):
                connection.executemany(_TASK, part)
                connection.executemany(_ATTEMPT, [(key, row) for key, row, _ in part])
        ledger.end(now=2, reason="done")


def _bought(rows: manifests.Manifest, done: int) -> Iterator[list[tuple[str, str, str]]]:
    """Key, id and pictures of the first tasks."""
    for batch in rows.batches():
        part = [
            (key, row, msgspec.json.encode([_picture(row)]).decode())
            for key, row in zip(batch.keys[:done], batch.ids[:done], strict=True)
        ]
        done -= len(part)
        yield part


def _picture(row: str) -> Image:
    return Image(
        file_name=f"images/{row}.png",
        sha256="0" * 64,
        mime="image/png",
        width=1024,
        height=1024,
        bytes=1_500_000,
    )


def _nearly_done(bench: Bench, rows: int) -> tuple[Path, Path]:
    """A manifest, and a run directory in which all of its tasks but the last thousand are done."""
    source, directory = bench.manifest("csv", rows), bench.folder / f"nearly-done-{rows}"
    directory.mkdir()
    job = jobs.resolve(str(source), {"provider": "simulator", "output": str(directory)})
    table = plan.read_manifest(job, plan.checked(job, {}), directory / jobs.MANIFEST, References())
    _fill(directory, table, rows - BOUGHT)
    return source, directory


def _forget(directory: Path, names: list[int]) -> None:
    """Put these rows back to pending, and end a run that buys nothing in order."""
    path = directory / jobs.LEDGER
    with Bookmark(directory) as bookmark:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TEMP TABLE chosen (id TEXT PRIMARY KEY)")
            connection.executemany("INSERT INTO chosen VALUES (?)", [(f"row-{number}",) for number in names])
            connection.execute("UPDATE tasks SET status = 'pending' WHERE id IN (SELECT id FROM chosen)")
        bookmark.put(manifests.Manifest(directory / jobs.MANIFEST))


_MISSING: dict[str, Callable[[int], list[int]]] = {
    "at the start": lambda _: [*range(BOUGHT)],
    "at the end": lambda rows: [*range(rows - BOUGHT, rows)],
    "anywhere": lambda rows: [*range(0, rows, rows // BOUGHT)],
}
"""Which rows are missing, of so many."""


def _statuses(bench: Bench, *directories: Path) -> None:
    """What `status` takes over few tasks and over many."""
    few, many = (
        _took(
            lambda path=path: subprocess.run(  # type: ignore[misc]
                [sys.executable, "-m", "batchgen", "status", str(path)], check=True, capture_output=True
            ),
            5,
        )
        for path in directories
    )
    print(f"status over 999,000 tasks: {many / few:.2f} x that over 1,000 ({many:.2f} s)")
    if many > BOUND_STATUS:
        bench.broken.append(f"status: more than {BOUND_STATUS} s")


def _resumes(bench: Bench) -> None:
    """What is left of a nearly finished run, its status, its plan, and its table."""
    few_source, few = _nearly_done(bench, 2 * FEW)
    source, many = _nearly_done(bench, MANY)
    _statuses(bench, few, many)
    read = _read(source)
    for where, missing in [("after a kill", None), *_MISSING.items()]:
        if missing is not None:
            _forget(few, missing(2 * FEW))
            _forget(many, missing(MANY))
            told = min((bench.run(source, many.name, 0, backend=_PLAN) for _ in range(3)), key=_whole)
            print(f"plan, 999,000 done, {where}: {told['whole'] / read:.1f} x")
            if told["whole"] > BOUND_PLAN * read or told["buy"] != BOUGHT:
                bench.broken.append(f"plan, {where}: after more than {BOUND_PLAN} x, or of other rows")
        before, after = bench.run(few_source, few.name, 0), bench.run(source, many.name, 0)
        bound = float("inf") if missing is None else BOUND_FIRST
        bench.compare(f"999,000 done, {where}", before, after, read, bound=bound)
        if after["bought"] != BOUGHT:
            bench.broken.append(f"{after['bought']} pictures bought where {BOUGHT} were missing")
    table = pq.read_table(many / jobs.TABLE)
    plain = _took(lambda: pq.write_table(table, bench.folder / "plain.parquet", compression="zstd"))
    with closing(Reader(many / jobs.LEDGER)) as reader:
        rows = manifests.Manifest(many / jobs.MANIFEST)
        ours = _took(lambda: results.write(rows, reader, bench.folder / "ours.parquet"), 1)
    print(f"table of 1,000,000 bought rows: {ours / plain:.1f} x what pyarrow needs to write the same table")


def main() -> int:
    """Run it, print the figures, return 1 where a bound is broken."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), "trio" if "--trio" in sys.argv else "asyncio")
        for kind in KINDS:
            few, many = bench.manifest(kind, FEW), bench.manifest(kind, MANY)
            read = _read(many)
            for told in (kind, f"{kind}, again"):
                bench.compare(told, bench.run(few, f"{kind}-few"), bench.run(many, f"{kind}-many"), read)
        _resumes(bench)
    for told in bench.broken:
        print(f"bound broken: {told}")
    return int(bool(bench.broken))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _carry_out(*sys.argv[2:])
    else:
        sys.exit(main())
