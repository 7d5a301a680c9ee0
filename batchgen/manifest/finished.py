"""In which stretches of a snapshot is nothing left to do?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.rows import DIGEST, hex_texts, raw
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_ONCE: Final = 1 << 15
"""About so many tasks are compared at a time."""
_SKEW: Final = 8
"""Where so many times as many keys as usual begin alike, too many would be compared at a time."""
_BEHIND: Final = "g"
"""Comes after every key: those begin with a digit or a letter up to f."""


class Finished(Value, frozen=True, kw_only=True):
    """The tasks of a snapshot with which nothing is left to do, by its stretches."""

    tasks: tuple[int, ...] = ()
    """Of each stretch: how many it has, where all of them are finished, else 0. Empty where none is."""
    unsuccessful: int = 0
    """Of those tasks, the ones without success."""
    anywhere: int = 0
    """Finished tasks, in those stretches and in others."""


class _Part(NamedTuple):
    """Some tasks of one stretch."""

    stretch: int
    leads: pa.Array
    """The first byte of each digest; tasks are spread evenly over what it may be."""
    digests: pa.Array
    occurrences: pa.Array
    variants: pa.Array

    def between(self, low: int, high: int) -> pa.Array:
        """The keys of those whose digests begin with `low` up to below `high`."""
        places = pc.indices_nonzero(
            pc.and_(pc.greater_equal(self.leads, low), pc.less_equal(self.leads, high - 1))
        )
        digests = hex_texts(raw(self.digests.take(places)))
        return keys_of(digests, self.occurrences.take(places), self.variants.take(places))


class Known:
    """The tasks of a snapshot while it is found out which of them are finished."""

    COLUMNS: ClassVar = ("digest", "occurrence", "variants")
    """What is to be known of their rows."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._tasks: list[int] = []
        """Of each stretch."""

    def add(self, stretch: int, rows: pa.RecordBatch, variants: pa.Array) -> None:
        """Append tasks of a stretch: the row of each, and its variant."""
        self._tasks += [0] * (stretch + 1 - len(self._tasks))
        self._tasks[stretch] += len(variants)
        digests = rows.column("digest")
        first = raw(digests)[::DIGEST].tobytes()
        leads = pa.Array.from_buffers(pa.uint8(), len(first), [None, pa.py_buffer(first)])
        self._parts.append(_Part(stretch, leads, digests, rows.column("occurrence"), variants))

    def finished(self, keys: Callable[[str, str], tuple[str, str]]) -> Finished:
        """Compare them with the keys of finished tasks, as `Manifest.finished` has them."""
        rounds = max(1, min(256, -(-sum(self._tasks) // _AT_ONCE)))
        spread = pc.value_counts(pa.chunked_array([part.leads for part in self._parts])).field("counts")
        if rounds > 1 and pc.max(spread).as_py() * 256 > _SKEW * sum(self._tasks):
            return Finished()
        left = [*self._tasks]
        unsuccessful = [0] * len(self._tasks)
        for turn in range(rounds):
            low, high = (256 * edge // rounds for edge in (turn, turn + 1))
            good, bad = map(_listed, keys(f"{low:02x}", f"{high:02x}" if high < 256 else _BEHIND))
            # All at once: what is looked for is taken in anew by each look.
            parts = [part.between(low, high) for part in self._parts]
            mine = pa.concat_arrays(parts)
            done, failed = (pc.is_in(mine, value_set=them) for them in (pa.concat_arrays([good, bad]), bad))
            start = 0
            for part, found in zip(self._parts, parts, strict=True):
                left[part.stretch] -= done.slice(start, len(found)).true_count
                unsuccessful[part.stretch] += failed.slice(start, len(found)).true_count
                start += len(found)
            pa.default_memory_pool().release_unused()
        return Finished(
            tasks=tuple(0 if more else count for count, more in zip(self._tasks, left, strict=True)),
            unsuccessful=sum(count for count, more in zip(unsuccessful, left, strict=True) if not more),
            anywhere=sum(self._tasks) - sum(left),
        )


def keys_of(digests: pa.Array, occurrences: pa.Array, variants: pa.Array) -> pa.Array:
    """The keys of tasks: digest of the content in hex, occurrence of the content, variant."""
    return pc.binary_join_element_wise(
        digests, occurrences.cast(pa.string()), variants.cast(pa.string()), "-"
    )


def _listed(keys: str) -> pa.Array:
    if not keys:
        return pa.array([], pa.string())
    return pc.split_pattern(pa.array([keys], pa.string()), " ").flatten()
