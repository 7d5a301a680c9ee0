"""What was asked for on the way to a task that continues another?"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.manifest.snapshot import told

if TYPE_CHECKING:
    from pathlib import Path

_COLUMNS: Final = ["prompt", "parent", "parent_key", "parent_variants"]
_KEPT: Final = 8
"""Row groups of a snapshot, of 8 MB at most."""


class Ancestry:
    """The rows of one snapshot by their number, some of its row groups at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts: list[int] = []
        self._groups: OrderedDict[int, pa.RecordBatch] = OrderedDict()

    def of(self, row: int, key: str) -> list[tuple[str, str]]:
        """
        Key and prompt of a task and of all that it continues, the first one first.

        :param row: its row, counted from 0.
        :raises StorageError: the snapshot cannot be read.
        """
        found: list[tuple[str, str]] = []
        at: int | None = row
        while at is not None:
            group, place = self._find(at)
            prompt, at, stem, variants = (group.column(name)[place].as_py() for name in _COLUMNS)
            found.append((key, prompt))
            if at is not None:
                key = f"{stem}-{min(int(key.rpartition('-')[2]), variants)}"
        return found[::-1]

    def _find(self, row: int) -> tuple[pa.RecordBatch, int]:
        if not self._starts:
            with told(self._path), pq.ParquetFile(self._path) as file:
                counts = (file.metadata.row_group(index).num_rows for index in range(file.num_row_groups))
                self._starts = [*accumulate(counts, initial=0)]
        index = bisect_right(self._starts, row) - 1
        if index not in self._groups:
            with told(self._path), pq.ParquetFile(self._path, pre_buffer=False) as file:
                group = file.read_row_group(index, _COLUMNS, use_threads=False)
                (self._groups[index],) = group.select(_COLUMNS).combine_chunks().to_batches()
            while len(self._groups) > _KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(index)
        return self._groups[index], row - self._starts[index]
