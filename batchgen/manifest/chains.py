"""
Which row continues which, how far is it from a row that continues none, and what is its key?

Some fifty bytes a row are held while a manifest with a column of parents is checked, and nothing without one.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.rows import DIGEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST: Final = 100
"""Rows that may follow one another: each is asked for with all that was said before it, and waits for it."""
FIELDS: Final = pa.schema(
    [
        ("parent", pa.int64()),
        ("parent_key", pa.string()),
        ("parent_variants", pa.int32()),
        ("parent_place", pa.int64()),
        ("place", pa.int64()),
        ("depth", pa.int32()),
    ]
)
"""
What a snapshot says of a row in a manifest with parents: the parent's row, counted from 0; its key without
the variant; its variants; the places of both rows' first tasks among all; how many rows it continues.
"""
_NONE, _UNSEEN, _AHEAD = -1, -1, -2


class Chains:
    """The parents of a manifest's rows."""

    def __init__(self) -> None:
        self._named = array("q")
        """Hash of the parent's id; 0 where there is none."""
        self._variants = array("i")
        self._digests = bytearray()
        self._parents = array("i")
        self._depths = array("i")
        self._places = array("q")

    def __bool__(self) -> bool:
        return any(self._named)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows, with the id of its parent as text in `parent`."""
        self._named.extend(0 if cell is None else hash(cell) for cell in batch.column("parent").to_pylist())
        self._variants.extend(batch.column("variants").to_pylist())
        self._digests += memoryview(batch.column("digest").buffers()[1])[: DIGEST * batch.num_rows]

    @property
    def levels(self) -> int:
        """How many rows the longest chain has."""
        return max(self._depths, default=0) + 1

    def resolve(self, ids: array[int]) -> None:
        """Find everybody's parent; `ids` holds the hash of every row's id."""
        found = pc.index_in(_arrow(self._named), value_set=_arrow(ids))
        found = pc.if_else(pc.equal(_arrow(self._named), 0), _NONE, pc.fill_null(found, _NONE))
        self._parents.frombytes(memoryview(found.cast(pa.int32()).buffers()[1])[: 4 * len(found)])
        self._depths = array("i", [_UNSEEN]) * len(self._parents)
        for row in range(len(self._parents)):
            if self._depths[row] == _UNSEEN:
                self._climb(row)

    def _climb(self, row: int) -> None:
        """The depth of a row, and of all above it that were not seen yet; a circle counts as ended."""
        path, at = array("i"), row
        while at != _NONE and self._depths[at] == _UNSEEN:
            self._depths[at] = _AHEAD
            path.append(at)
            at = self._parents[at]
        depth = 0 if at == _NONE else max(0, self._depths[at] + 1)
        for below in reversed(path):
            self._depths[below] = depth
            depth += 1

    def unknown(self) -> array[int]:
        """The rows whose parent is no row."""
        return array("I", (row for row, one in enumerate(self._named) if one and self._parents[row] == _NONE))

    def circular(self) -> Iterator[tuple[int, int]]:
        """The rows that continue themselves, and by way of how many rows; 1 where it is the row itself."""
        # Along a chain that ends, every row is one deeper than its parent; a circle has a place where not.
        seams = (
            row
            for row, parent in enumerate(self._parents)
            if parent != _NONE and self._depths[row] != self._depths[parent] + 1
        )
        found = {}
        for seam in seams:
            round_, at = [seam], self._parents[seam]
            while at != seam:
                round_.append(at)
                at = self._parents[at]
            found.update(dict.fromkeys(round_, len(round_)))
        yield from sorted(found.items())

    def deep(self) -> array[int]:
        """The rows with too many before them."""
        return array("I", (row for row, depth in enumerate(self._depths) if depth >= MOST))

    def generations(self) -> Iterator[array[int]]:
        """The rows of each depth, in ascending order."""
        for depth in range(self.levels):
            rows = pc.indices_nonzero(pc.equal(_arrow(self._depths), depth)).cast(pa.uint32())
            yield array("I", memoryview(rows.buffers()[1])[: 4 * len(rows)].tobytes())

    def link(self, row: int, numbers: Sequence[int]) -> bytes:
        """
        Put the parent into the digest of a row that has one, its own digest being done; returns it.

        A contract with ledgers on disk: what a row with a parent sends is told by the BLAKE2b-128 of the
        digest of its own content, the parent's digest and the parent's occurrence in decimal digits.

        :param numbers: the occurrence of each row's content.
        """
        parent = self._parents[row]
        said = b"%b%b%d" % (self.digest(row), self.digest(parent), numbers[parent])
        linked = self._digests[DIGEST * row : DIGEST * (row + 1)] = blake2b(said, digest_size=DIGEST).digest()
        return linked

    def digest(self, row: int) -> bytes:
        """Of what the row sends."""
        return bytes(self._digests[DIGEST * row : DIGEST * (row + 1)])

    def digests(self, start: int, stop: int) -> pa.Array:
        """Those of a stretch of rows."""
        stretch = pa.py_buffer(bytes(self._digests[DIGEST * start : DIGEST * stop]))
        return pa.Array.from_buffers(pa.binary(DIGEST), stop - start, [None, stretch])

    def columns(self, start: int, stop: int, numbers: Sequence[int]) -> list[pa.Array]:
        """What `FIELDS` names, for a stretch of rows."""
        if not self._places:
            self._places = array("q", accumulate(self._variants, initial=0))
        parents = [None if parent == _NONE else parent for parent in self._parents[start:stop]]
        keys = (None if at is None else f"{self.digest(at).hex()}-{numbers[at]}" for at in parents)
        columns = (
            parents,
            keys,
            (None if at is None else self._variants[at] for at in parents),
            (None if at is None else self._places[at] for at in parents),
            self._places[start:stop],
            self._depths[start:stop],
        )
        return [pa.array(cells, field.type) for cells, field in zip(columns, FIELDS, strict=True)]


def _arrow(values: array[int]) -> pa.Array:
    kind = pa.int64() if values.typecode == "q" else pa.int32()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
