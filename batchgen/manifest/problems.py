"""What is wrong with a manifest, in which of its rows?"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import ManifestError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 20
"""Problems that are told; the others are counted."""


class Problems:
    """
    The first problems of one manifest in row order, and how many there are.

    Rows that cannot be read at all are not part of the batches that are read: `skip` notes their numbers, so
    that the rows behind them keep theirs.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.start = 0
        """Index of the first row of the batch that is looked at, among the rows that were read."""
        self._kept: list[Problem] = []
        self._count = 0
        self._skipped = array("Q")

    def add(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        """Note one problem; `row` is the data row, counted from 1."""
        self._count += 1
        self._kept.append(Problem(message=message, row=row, column=column))
        if len(self._kept) >= 10 * KEPT:
            self._sort()

    def count(self, more: int) -> None:
        """Count problems beyond the first `KEPT` of their kind, if there are any (`more` > 0)."""
        self._count += max(0, more)

    def skip(self, row: int) -> None:
        """Data row `row`, counted from 1, is in no batch; rows are skipped in ascending order."""
        self._skipped.append(row)

    def row(self, index: int) -> int:
        """The data row, counted from 1, of the `index`-th row that was read."""
        number = index + 1
        for skipped in self._skipped:
            if skipped > number:
                break
            number += 1
        return number

    def add_where(
        self, mask: pa.Array, message: str | Callable[[int], str], column: str | None = None
    ) -> None:
        """Note one problem for each true element of `mask`, which lies over the batch at `start`."""
        indices = pc.indices_nonzero(pc.fill_null(mask, False))  # noqa: FBT003  the fill value
        self.count(len(indices) - KEPT)
        for index in indices[:KEPT].to_pylist():
            told = message if isinstance(message, str) else message(index)
            self.add(told, row=self.row(self.start + index), column=column)

    def __bool__(self) -> bool:
        return self._count > 0

    def stop(self) -> None:
        """Raise `ManifestError` if anything is wrong."""
        if self:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise what was found."""
        self._sort()
        raise ManifestError(self.source, self._kept, self._count)

    def _sort(self) -> None:
        self._kept.sort(key=lambda problem: problem.row or 0)
        del self._kept[KEPT:]


def quoted(value: object) -> str:
    """A cell for a message: quoted, at most 40 characters of it."""
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
