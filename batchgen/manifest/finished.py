"""
With which tasks of a snapshot is nothing left to do?

The keys of a snapshot and those of finished tasks are held against each other range by range, whole columns
at a time. A task counts as finished only where its whole key is among those.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.rows import DIGEST, hex_texts, raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Keys: TypeAlias = "Callable[[str, str], Sequence[tuple[str, str]]]"
"""
The keys of finished tasks from one up to below another: each status, and the keys of tasks that have it with
blanks between them.
"""

_AT_ONCE: Final = 1 << 12
"""About so many tasks are compared at a time: what a processor's cache holds."""
_MOST: Final = 1 << 17
"""Tasks of which the digests begin alike; more would be too many at a time."""
_LEADS: Final = 256
_BEHIND: Final = "g"
"""Comes after every key: those begin with a digit or a letter up to f."""


class Finished:
    """The tasks of a snapshot with which nothing is left to do; made without any, it is about none."""

    def __init__(
        self,
        statuses: Mapping[str, int] | None = None,
        tasks: Sequence[int] = (),
        left: Sequence[int] | None = None,
    ) -> None:
        """
        Say what is finished.

        :param statuses: how many finished tasks there are of each status.
        :param tasks: how many tasks each stretch of the snapshot has.
        :param left: the places of all others, counted from 0, ascending; None is all.
        """
        self.statuses: Mapping[str, int] = statuses or {}
        self.stretches = tasks
        self.places = left
        self._starts = [*accumulate(tasks, initial=0)]

    @property
    def tasks(self) -> int:
        """How many there are."""
        return sum(self.statuses.values())

    def start(self, stretch: int) -> int:
        """The place of the first task of a stretch; 0 where nothing is finished."""
        return 0 if self.places is None else self._starts[stretch]

    def is_whole(self, stretch: int) -> bool:
        """Whether all tasks of a stretch are finished."""
        if self.places is None:
            return False
        start, stop = self._starts[stretch : stretch + 2]
        return start < stop and bisect_left(self.places, start) == bisect_left(self.places, stop)

    def left(self, start: int, stop: int) -> pa.Array | None:
        """Which tasks from one place up to below another are not, counted from there; None is all of them."""
        if self.places is None:
            return None
        low, high = bisect_left(self.places, start), bisect_left(self.places, stop)
        if high - low == stop - start:
            return None
        # Arrow's own subtraction would look for a library of dates each time it is given a number.
        return pa.array([place - start for place in self.places[low:high]], pa.int64())


class Known:
    """The tasks of a snapshot while it is found out which of them are finished."""

    COLUMNS: ClassVar = ("digest", "occurrence", "variants")
    """What is to be known of their rows."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._numbers: tuple[list[pa.Array], list[pa.Array]] = ([], [])
        self._tasks: list[int] = []
        """Of each stretch."""

    def add(self, stretch: int, rows: pa.RecordBatch, variants: pa.Array) -> None:
        """Append tasks of a stretch: the row of each, and its variant."""
        self._tasks += [0] * (stretch + 1 - len(self._tasks))
        self._tasks[stretch] += len(variants)
        self._digests += raw(rows.column("digest"))
        for numbers, more in zip(self._numbers, (rows.column("occurrence"), variants), strict=True):
            numbers.append(more)

    def finished(self, keys: Keys) -> Finished:
        """Hold them against the keys of finished tasks."""
        count = sum(self._tasks)
        leads = pa.Array.from_buffers(pa.uint8(), count, [None, pa.py_buffer(self._digests[::DIGEST])])
        alike = Counter({found["values"]: found["counts"] for found in pc.value_counts(leads).to_pylist()})
        if max(alike.values(), default=0) > _MOST:
            return Finished()
        places = pc.array_sort_indices(leads).cast(pa.uint32())
        del leads
        whole = pa.Array.from_buffers(pa.binary(DIGEST), count, [None, pa.py_buffer(self._digests)])
        numbers = [_one(pa.chunked_array(parts, pa.int32())) for parts in self._numbers]
        self._numbers = ([], [])
        left, statuses, start = array("I"), Counter[str](), 0
        for same in _edges(alike):
            part = places.slice(start, sum(alike[lead] for lead in same))
            mine = keys_of(hex_texts(raw(whole.take(part))), *(_taken(those, part) for those in numbers))
            told = keys(f"{same.start:02x}", f"{same.stop:02x}" if same.stop < _LEADS else _BEHIND)
            good = [_listed(texts) for _, texts in told]
            found = pc.index_in(mine, value_set=pa.concat_arrays(good))
            ends = pairwise(accumulate(map(len, good), initial=0))
            for (status, _), (first, end) in zip(told, ends, strict=True):
                those = pc.and_(pc.greater_equal(found, first), pc.less(found, end))
                statuses[status] += those.true_count
            left.extend(part.filter(pc.is_null(found)).to_pylist())
            start += len(part)
        pa.default_memory_pool().release_unused()
        return Finished(+statuses, self._tasks, array("I", sorted(left)))


def _one(numbers: pa.ChunkedArray) -> pa.Array | pa.Scalar:
    """Numbers end to end; one for all of them, where they are the same."""
    least, most = pc.min_max(numbers).values()
    return least if least.equals(most) else numbers.combine_chunks()


def _taken(numbers: pa.Array | pa.Scalar, places: pa.Array) -> pa.Array | pa.Scalar:
    return numbers if isinstance(numbers, pa.Scalar) else numbers.take(places)


def _edges(alike: Counter[int]) -> Iterator[range]:
    """Ranges of first bytes of which about so many tasks begin with one as are compared at a time."""
    start = held = 0
    for lead in range(_LEADS):
        held += alike[lead]
        if held >= _AT_ONCE or lead == _LEADS - 1:
            yield range(start, lead + 1)
            start, held = lead + 1, 0


def keys_of(digests: pa.Array, occurrences: pa.Array | pa.Scalar, variants: pa.Array | pa.Scalar) -> pa.Array:
    """The keys of tasks: digest of the content in hex, occurrence of the content, variant."""
    return pc.binary_join_element_wise(
        digests, occurrences.cast(pa.string()), variants.cast(pa.string()), "-"
    )


def _listed(keys: str) -> pa.Array:
    if not keys:
        return pa.array([], pa.string())
    return pc.split_pattern(pa.array([keys], pa.string()), " ").flatten()
