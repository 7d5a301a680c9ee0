"""
Does a run cost the same memory for a thousand rows and for a million, and does it start at once?

    python -m bench.rows [--trio]

Each run is a process of its own: `runner.run` on the simulator, without latency, for the first 1,000 tasks
of a manifest. Its peak memory over a manifest of 1,000,000 rows may be 60 MB above that over 1,000 rows:
for CSV with ids and without, with one prompt for all rows, for Parquet, for a second run in the same
directory, and for those in which 999,000 tasks are done. Times are told as multiples of what pyarrow needs to
read id and prompt from the same file; a run that goes on where another has ended in order may take six times
as long until its first request, whichever rows are missing. Linux only: the peak is VmHWM of
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
from batchgen import results, runner, selection
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

    def run(self, source: Path, name: str, limit: int = BOUGHT) -> dict[str, Any]:
        """Carry out one run in a process of its own."""
        command = [sys.executable, "-m", "bench.rows", "--child", str(source), str(self.folder / name)]
        answer = subprocess.run([*command, str(limit), self.backend], check=True, stdout=subprocess.PIPE)
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
    reading = manifests.Reading(model="gemini-3.1-flash-image-preview")
    table = manifests.read(str(source), reading, snapshot=directory / jobs.MANIFEST, look=References().look)
    _fill(directory, table, rows - BOUGHT)
    return source, directory


def _forget(directory: Path, missing: int, rows: int, *, scattered: bool) -> None:
    """Put so many tasks back to pending, the last ones or some anywhere, and end a run that buys nothing."""
    if not missing:
        return
    step = rows // missing if scattered else 1
    names = [(f"row-{rows - 1 - step * number}",) for number in range(missing)]
    path = directory / jobs.LEDGER
    with Bookmark(directory) as bookmark, closing(Ledger(path)) as ledger:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TEMP TABLE chosen (id TEXT PRIMARY KEY)")
            connection.executemany("INSERT INTO chosen VALUES (?)", names)
            connection.execute("UPDATE tasks SET status = 'pending' WHERE id IN (SELECT id FROM chosen)")
        with closing(Reader(path)) as reader:
            table = manifests.Manifest(directory / jobs.MANIFEST)
            bookmark.put(table, selection.finished(table, reader))
        ledger.recover(now=3)


def _resumes(bench: Bench) -> None:
    """What is left of a nearly finished run, its status, and its table."""
    few_source, few = _nearly_done(bench, 2 * FEW)
    source, many = _nearly_done(bench, MANY)
    commands = [[sys.executable, "-m", "batchgen", "status", str(directory)] for directory in (few, many)]
    seconds = [
        _took(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
        for command in commands
    ]
    print(f"status over 999,000 tasks: {seconds[1] / seconds[0]:.2f} x that over 1,000 ({seconds[0]:.2f} s)")
    read = _read(source)
    steps = {
        # Nothing says that the ledger was closed in order: all of it is looked through.
        "after a kill": (0, float("inf")),
        "then at the end": (BOUGHT, BOUND_FIRST),
        "then anywhere": (BOUGHT, BOUND_FIRST),
    }
    for told, (missing, bound) in steps.items():
        for directory, total in ((few, 2 * FEW), (many, MANY)):
            _forget(directory, missing, total, scattered=told.endswith("anywhere"))
        before, after = bench.run(few_source, few.name, 0), bench.run(source, many.name, 0)
        bench.compare(f"999,000 done, {told}", before, after, read, bound=bound)
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
