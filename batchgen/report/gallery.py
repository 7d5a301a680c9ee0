"""Which rows are in the gallery, and what do all rows add up to?"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from batchgen import results
from batchgen.records import Status, Value
from batchgen.report.rows import Cutter, Maker, pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from batchgen.ledger import Reader
    from batchgen.manifest import Batch, Manifest
    from batchgen.records import Task
    from batchgen.report.rows import Parent, Row
    from batchgen.report.thumbnails import Thumbnails

_THREADS = 4
"""As many as an audit decodes with; each holds one picture."""
_AT_ONCE = 256
"""Rows of one piece of the page."""


_FINE = (Status.SUCCEEDED, Status.PENDING)
"""Neither is a failure."""


class Counts(Value, frozen=True, kw_only=True):
    """All rows of a manifest, added up."""

    statuses: Mapping[str, int]
    models: Mapping[str, int]
    failures: Mapping[str, int]
    """Those that ended without what they asked for, by error class, the most frequent first."""
    wrong_size: int
    blank: int
    near_duplicates: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(self.statuses.values())


class Piece(Value, frozen=True, kw_only=True):
    """Some rows of the gallery."""

    rows: tuple[Row, ...]
    thumbs: Mapping[str, str] = {}
    """Thumbnails in base64, by the hash that they are named by, where they are inside the page."""


class Gallery:
    """The rows of one page, gone through once."""

    def __init__(
        self, directory: Path, folder: Path, thumbnails: Thumbnails, reader: Reader, *, inline: bool
    ) -> None:
        """
        Begin without rows.

        :param directory: of the run.
        :param folder: where the page will be.
        :param inline: whether thumbnails are inside the page.
        """
        self._reader = reader
        self._thumbnails = thumbnails
        self._cut = Cutter()
        self._maker = Maker(directory, folder, reader, self._cut)
        self._inlined: set[str] | None = set() if inline else None
        self._counts = {name: Counter[str]() for name in ("status", "model")}
        self._failures = Counter[str]()
        self._flags = Counter[str]()
        self.columns: list[str] = []
        """The manifest's own, as the results call them."""
        self.shown = 0
        self.pictures = 0
        self.problems = Counter[str]()
        """Pictures by what is wrong with them."""
        self.first: dict[str, str] = {}
        """The file name of the first of each."""

    @property
    def cut(self) -> int:
        """How many texts are not there as a whole."""
        return self._cut.cut

    def counts(self) -> Counts:
        """All that was gone through so far."""
        return Counts(
            statuses={status: count for status in Status if (count := self._counts["status"][status])},
            models=dict(self._counts["model"].most_common()),
            failures=dict(self._failures.most_common()),
            wrong_size=self._flags["size_ok"],
            blank=self._flags["blank"],
            near_duplicates=self._flags["near_duplicate_of"],
        )

    def pieces(
        self, manifest: Manifest, limit: int, on_progress: Callable[[int, int], None] | None
    ) -> Iterator[Piece]:
        """
        Go through all rows and make those that are shown, in the order of the manifest.

        :param limit: rows that are shown at most. A row that failed is shown before one that did not, as long
            as failures do not take more than half of the room.
        """
        room = _Room(limit, manifest.tasks, self._reader)
        gone = 0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnail") as threads:
            for batch, start, lines in results.lines(manifest, self._reader):
                self.columns = lines.schema.names[len(results.SCHEMA) :]
                self._count(lines)
                chosen = room.choose(lines.column("status").to_pylist())
                parents = self._parents(manifest, batch, [start + index for index in chosen])
                for begin in range(0, len(chosen), _AT_ONCE):
                    some = chosen[begin : begin + _AT_ONCE]
                    rows = self._rows(
                        threads,
                        lines.take(some).to_pylist(),
                        [batch.task(start + index) for index in some],
                        [parents.get(start + index) for index in some],
                    )
                    self._note(rows)
                    if on_progress is not None:
                        on_progress(gone + some[-1] + 1, manifest.tasks)
                    yield Piece(rows=rows, thumbs=self._inline(rows))
                gone += lines.num_rows
                if on_progress is not None:
                    on_progress(gone, manifest.tasks)

    def _rows(
        self,
        threads: ThreadPoolExecutor,
        lines: list[dict[str, Any]],
        tasks: list[Task],
        parents: list[Parent | None],
    ) -> tuple[Row, ...]:
        images = [pictures(line)[-1:] for line in lines]
        seen = threads.map(lambda last: self._thumbnails.of(last[0]) if last else None, images)
        references = threads.map(
            lambda task: [self._thumbnails.of_reference(each) for each in task.references], tasks
        )
        together = zip(lines, tasks, parents, seen, references, strict=True)
        return tuple(self._maker.row(*each) for each in together)

    def _count(self, lines: pa.RecordBatch) -> None:
        for name, counts in self._counts.items():
            counts.update(_tally(lines.column(name)))
        fine = pc.is_in(lines.column("status"), pa.array(_FINE, pa.string()))
        self._failures.update(_tally(lines.filter(pc.invert(fine)).column("error_class").drop_null()))
        self._flags["size_ok"] += lines.column("size_ok").false_count
        self._flags["blank"] += lines.column("blank").true_count
        self._flags["near_duplicate_of"] += pc.count(lines.column("near_duplicate_of")).as_py()

    def _parents(self, manifest: Manifest, batch: Batch, places: list[int]) -> dict[int, Parent]:
        if manifest.levels == 1 or not places:
            return {}
        keys = {place: key for place in places if (key := batch.parents[place]) is not None}
        found = self._maker.parents(keys.values())
        return {place: found[key] for place, key in keys.items()}

    def _note(self, rows: tuple[Row, ...]) -> None:
        self.shown += len(rows)
        for row in rows:
            self.pictures += row.thumb is not None
            if row.problem is not None:
                what = row.problem.partition(":")[0]
                self.problems[what] += 1
                self.first.setdefault(what, row.file or row.id)

    def _inline(self, rows: tuple[Row, ...]) -> dict[str, str]:
        if self._inlined is None:
            return {}
        names = {row.thumb for row in rows} | {one.thumb for row in rows for one in row.references}
        new = {name for name in names if name is not None} - self._inlined
        self._inlined |= new
        return {name: b64encode(self._thumbnails.read(name)).decode() for name in sorted(new)}


def _tally(column: pa.Array) -> dict[str, int]:
    return {each["values"]: each["counts"] for each in column.value_counts().to_pylist()}


class _Room:
    """Which rows are shown where there are more than fit."""

    def __init__(self, limit: int, rows: int, reader: Reader) -> None:
        tasks = reader.totals().tasks
        failed = sum(count for status, count in tasks.items() if _failed(status))
        self._failed = min(failed, limit // 2) if rows > limit else limit
        self._others = limit - self._failed if rows > limit else limit

    def choose(self, statuses: list[Any]) -> list[int]:
        chosen = []
        for index, status in enumerate(statuses):
            if _failed(status):
                wanted = self._failed > 0
                self._failed -= wanted
            else:
                wanted = self._others > 0
                self._others -= wanted
            if wanted:
                chosen.append(index)
        return chosen


def _failed(status: str) -> bool:
    return status not in _FINE
