"""
What does the table of prompts ask for, and is all of it usable?

`read` goes through a CSV, TSV, JSONL or Parquet table once, checks all of it before anything is sent, and
leaves a snapshot that a run works from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from batchgen.errors import InputError
from batchgen.manifest import tables
from batchgen.manifest.ancestry import Ancestry
from batchgen.manifest.asked import shape, unfit
from batchgen.manifest.finished import Finished
from batchgen.manifest.origin import is_current, origin, stamp
from batchgen.manifest.problems import Problems
from batchgen.manifest.reading import Reading
from batchgen.manifest.rows import Rows
from batchgen.manifest.snapshot import Batch, Draft, Manifest
from batchgen.manifest.structure import PARSERS, stated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchgen.records import Reference

__all__ = [
    "PARSERS",
    "Ancestry",
    "Batch",
    "Finished",
    "Manifest",
    "Reading",
    "names",
    "read",
    "read_ids",
    "shape",
    "stated",
    "unfit",
]


def read(
    source: str,
    reading: Reading,
    *,
    snapshot: Path,
    look: Callable[[str], Reference],
    stdin: BinaryIO | None = None,
) -> Manifest:
    """
    Check a manifest and put its snapshot at `snapshot`.

    `source` is a path, or '-' for a CSV on `stdin`; `look` finds out what is in a file that rows bring along,
    or raises an `InputError` that says why it cannot go. Raises `InputError` if the source cannot be opened,
    `ManifestError` with all that is wrong in it, `StorageError` if the snapshot cannot be written. After an
    error nothing is left behind; what was at `snapshot` before stays as it was. That is used again where it
    was made from the same bytes by the same reading, and no row brings files along.
    """
    seen, made_from = stamp(source), origin(source, reading)
    if made_from is not None and is_current(snapshot, made_from):
        return Manifest(snapshot)
    problems = Problems("standard input" if source == "-" else source)
    with tables.opened(source, stdin, problems) as table:
        rows = Rows(table.schema, reading, problems, look)
        problems.stop()
        identified, chained = rows.id_column is not None, rows.parent_column is not None
        with Draft(snapshot, rows.schema, identified=identified, chained=chained) as draft:
            for batch in table.batches:
                for part in rows.normalise(batch):
                    draft.add(part)
            # A table that was written to meanwhile is none that could be known again.
            same = not problems and (origin(source, reading), stamp(source)) == (made_from, seen)
            draft.close(made_from if same else None)
            if not draft.rows and not problems:
                problems.add("the table has no rows")
            if rows.parent_column is not None:
                draft.check_parents(rows.parent_column, problems)
            if rows.id_column is not None:
                draft.check_ids(rows.id_column, _other_ids(table.schema.names), problems)
            problems.stop()
            draft.publish()
    return Manifest(snapshot)


def names(source: str) -> tuple[str, ...]:
    """The names of a manifest's columns; `ManifestError` or `InputError` if it cannot be read."""
    problems = Problems(source)
    with tables.opened(source, None, problems) as table:
        problems.stop()
        return tuple(table.schema.names)


def _other_ids(names: list[str]) -> str:
    """What may be taken for the ids where they repeat: a former table has a row for each variant."""
    if "task_key" not in names:
        return ""
    return "; this looks like a table of results, whose keys are: --column id=task_key"


def read_ids(path: str) -> frozenset[str]:
    """The ids a file names: its `id` column (or `custom_id`, or the only one); in a .txt file, one a line."""
    if Path(path).suffix.lower() == ".txt":
        found: Iterable[str | None] = (line.rstrip("\r\n") for line in tables.read_lines(path))
    else:
        found = (cell for batch in tables.read_ids(path, Problems(path)) for cell in batch.to_pylist())
    ids = frozenset(cell for cell in found if cell is not None and cell.strip())
    if not ids:
        raise InputError(f"{path}: there is no id in it")
    return ids
