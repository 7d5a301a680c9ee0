"""
Which rows are equal, and what is their order, when there are too many of them to be held in memory?

Rows wait in a temporary file as sorted stretches, which are merged as they are read again.
"""

from __future__ import annotations

import contextlib
import secrets
from array import array
from heapq import merge
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_NO: Final = pa.scalar(value=False)
_NONE: Final = pa.array([], pa.uint64())
_FEW: Final = 512
"""Values that are looked through at once."""
_STRETCH_ROWS: Final = 1 << 15
_STRETCH_BYTES: Final = 8 << 20
_READ_ROWS: Final = 512
_READ_BYTES: Final = 1 << 17
"""Of each stretch at a time, while they are merged."""


def temporary(path: Path, files: contextlib.ExitStack) -> Path:
    """A new file beside `path`, gone when `files` is closed unless it was moved."""
    # Not `mkstemp`: the file is to be as readable as any other that this person makes.
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    files.callback(name.unlink, missing_ok=True)
    name.touch(exist_ok=False)
    return name


def repeated(values: array[int]) -> array[int]:
    """The indices of all values (64 bits each, evenly spread) that are there more than once, ascending."""
    if len(values) <= _FEW and len(set(values)) == len(values):
        return array("I")
    whole = pa.Array.from_buffers(pa.uint64(), len(values), [None, pa.py_buffer(values)])
    # A stretch of the list and a part of the values at a time: together they are small.
    chunks = [whole.slice(start, _STRETCH_ROWS) for start in range(0, len(values), _STRETCH_ROWS)]
    several = [pa.repeat(_NO, len(chunk)) for chunk in chunks]
    for part in range(len(chunks)):
        low, high = ((edge << 64) // len(chunks) for edge in (part, part + 1))
        once, doubles = [_NONE], [_NONE]
        for chunk in chunks:
            numbers = _between(chunk, low, high - 1).sort()
            once.append(numbers.unique())
            doubles.append(_doubles(numbers))
        again = pa.concat_arrays([*doubles, _doubles(pa.concat_arrays(once).sort())])
        for place, chunk in enumerate(chunks if len(again) else ()):
            several[place] = pc.or_(several[place], pc.is_in(chunk, value_set=again))
    rows = array("I")
    for place, chunk in enumerate(several):
        numbers = pc.add(pc.indices_nonzero(chunk), place * _STRETCH_ROWS).cast(pa.uint32())
        rows.frombytes(memoryview(numbers.buffers()[1])[: 4 * len(numbers)])
    return rows


def _between(numbers: pa.Array, low: int, high: int) -> pa.Array:
    bounds = pa.array([low, high], pa.uint64())
    inside = pc.and_(pc.greater_equal(numbers, bounds[0]), pc.less_equal(numbers, bounds[1]))
    return numbers.filter(inside)


def _doubles(ascending: pa.Array) -> pa.Array:
    return ascending[1:].filter(pc.equal(ascending[1:], ascending[:-1])).unique()


def ordered(batches: Iterable[pa.RecordBatch], beside: Path) -> Iterator[tuple[Any, ...]]:
    """The rows of all batches as tuples, in ascending order; a file beside a path holds them meanwhile."""
    with contextlib.ExitStack() as files:
        path = temporary(beside, files)
        stretches = _write(batches, path)
        reader = files.enter_context(pa.ipc.open_file(files.enter_context(pa.OSFile(str(path)))))
        yield from merge(*(_rows(reader, stretch) for stretch in stretches))


def _write(batches: Iterable[pa.RecordBatch], path: Path) -> list[range]:
    """Sorted stretches of rows into one file; which of its batches are whose."""
    places: list[range] = []
    with contextlib.ExitStack() as files:
        sink = files.enter_context(pa.OSFile(str(path), "wb"))
        writer = None
        for table in _stretches(batches):
            if writer is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                writer = files.enter_context(pa.ipc.new_file(sink, table.schema, options=options))
            size = max(1, min(_READ_ROWS, _READ_BYTES * table.num_rows // max(1, table.nbytes)))
            start = places[-1].stop if places else 0
            keys = [(name, "ascending") for name in table.schema.names]
            writer.write_table(table.sort_by(keys).combine_chunks(), max_chunksize=size)
            places.append(range(start, start - (-table.num_rows // size)))
    return places


def _stretches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _STRETCH_ROWS or size >= _STRETCH_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _rows(reader: pa.ipc.RecordBatchFileReader, places: range) -> Iterator[tuple[Any, ...]]:
    for place in places:
        columns = reader.get_batch(place).columns
        yield from zip(*(column.to_pylist() for column in columns), strict=True)
