"""
Which tasks does a manifest come to, and how are they gone through while a run buys them?

A snapshot is a Parquet file of normalised rows. A run reads it and never the manifest, so that editing the
manifest meanwhile changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from array import array
from bisect import bisect_left
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from batchgen.errors import StorageError
from batchgen.manifest.problems import KEPT, quoted
from batchgen.manifest.rows import CARRIED, MARK_ID, MARK_VARIANT, hex_texts
from batchgen.manifest.tables import texts
from batchgen.records import Params, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from batchgen.manifest.problems import Problems

_BATCH_TASKS: Final = 8192
_BATCH_BYTES: Final = 64 << 20
_TASKS: Final = b"batchgen:tasks"
_FAULTS: Final = (pa.ArrowException, OSError)


class Batch:
    """A stretch of a manifest's tasks, in its order."""

    def __init__(self, rows: pa.RecordBatch, variants: pa.Array, carried: pa.Schema) -> None:
        self._rows = rows
        self._variants = variants
        self._carried = carried

    @cached_property
    def keys(self) -> list[str]:
        """The task keys: digest of the content, occurrence of the content, variant."""
        return self._keys.to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def ids(self) -> list[str]:
        """The row's id for each task."""
        return self._ids.to_pylist()  # type: ignore[no-any-return]

    def task(self, index: int) -> Task:
        """The `index`-th task of this batch."""
        cell = {name: self._rows.column(name)[index].as_py() for name in _TASK_COLUMNS}
        variant = self._variants[index].as_py()
        return Task(
            key=self.keys[index],
            id=self.ids[index],
            variant=variant,
            name=cell["name"].replace(MARK_VARIANT, str(variant)).replace(MARK_ID, self.ids[index]),
            model=cell["model"],
            prompt=cell["prompt"],
            system=cell["system"],
            params=Params(
                temperature=cell["temperature"], top_p=cell["top_p"], max_tokens=cell["max_tokens"]
            ),
        )

    def columns(self) -> pa.RecordBatch:
        """
        One line a task: id, variant, prompt, model, task_key, then the carried columns.

        Those come under their own names and in their own types; one may be called like one of the first five.
        """
        rows = self._rows
        ours = [self._ids, self._variants, rows.column("prompt"), rows.column("model"), self._keys]
        carried = [rows.column(CARRIED + name) for name in self._carried.names]
        return pa.RecordBatch.from_arrays([*ours, *carried], schema=pa.schema([*_RESULT, *self._carried]))

    @cached_property
    def _keys(self) -> pa.Array:
        occurrence = self._rows.column("occurrence").cast(pa.string())
        return pc.binary_join_element_wise(
            self._rows.column("digest"), occurrence, self._variants.cast(pa.string()), "-"
        )

    @cached_property
    def _ids(self) -> pa.Array:
        given = self._rows.column("id")
        if not given.null_count:
            return given
        occurrence = self._rows.column("occurrence")
        later = pc.binary_join_element_wise("-", occurrence.cast(pa.string()), "")
        suffix = pc.if_else(pc.greater(occurrence, 1), later, "")
        return pc.binary_join_element_wise(
            pc.utf8_slice_codeunits(self._rows.column("digest"), 0, 16), suffix, ""
        )


_TASK_COLUMNS: Final = ("name", "model", "prompt", "system", "temperature", "top_p", "max_tokens")
_RESULT: Final = pa.schema(
    [
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("prompt", pa.string()),
        ("model", pa.string()),
        ("task_key", pa.string()),
    ]
)


class Manifest:
    """A handle on a snapshot. It holds no rows; `batches` may be gone through as often as one likes."""

    def __init__(self, path: Path) -> None:
        """Raise `StorageError` if there is no readable snapshot at `path`."""
        self.path = path
        with _told(path), pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows
            self.tasks = int(file.metadata.metadata[_TASKS])
        carried = [field for field in schema if field.name.startswith(CARRIED)]
        self.carried: pa.Schema = pa.schema(
            field.with_name(field.name.removeprefix(CARRIED)).remove_metadata() for field in carried
        )

    def batches(self) -> Iterator[Batch]:
        """All tasks in the order of the manifest, at most 8192 at a time."""
        for rows in _groups(self.path):
            yield from _expand(rows, self.carried)


def _expand(rows: pa.RecordBatch, carried: pa.Schema) -> Iterator[Batch]:
    """A stretch of rows as batches of tasks."""
    if pc.max(rows.column("variants")).as_py() == 1:
        for start in range(0, rows.num_rows, _BATCH_TASKS):
            part = rows.slice(start, _BATCH_TASKS)
            yield Batch(part, part.column("variants"), carried)
        return
    # A long row that is repeated 8192 times would fill the memory.
    widest = sum(
        pc.max(pc.binary_length(column)).as_py() or 0
        for column in rows.columns
        if pa.types.is_string(column.type)
    )
    most = max(1, min(_BATCH_TASKS, _BATCH_BYTES // widest))
    tasks = (
        (row, variant)
        for row, count in enumerate(rows.column("variants").to_pylist())
        for variant in range(1, count + 1)
    )
    while stretch := list(islice(tasks, most)):
        indices, variants = zip(*stretch, strict=True)
        yield Batch(rows.take(pa.array(indices, pa.int32())), pa.array(variants, pa.int32()), carried)


def _int32(values: array[int]) -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever Arrow or the disk says about the snapshot, as a message with its path."""
    try:
        yield
    except _FAULTS as error:
        raise StorageError(f"{path}: the copy of the manifest cannot be written or read: {error}") from error


def _groups(path: Path) -> Iterator[pa.RecordBatch]:
    """The row groups of a snapshot, one at a time."""
    with contextlib.ExitStack() as stack:
        with _told(path):
            file = stack.enter_context(pq.ParquetFile(path, pre_buffer=False))
        for index in range(file.num_row_groups):
            with _told(path):
                batches = file.read_row_group(index, use_threads=False).combine_chunks().to_batches()
            yield from batches


class Draft:
    """
    A snapshot in the making: temporary files beside its place, gone again unless `publish` is reached.

    The rows wait in an Arrow stream until the last one is known, because only then is each one's occurrence.
    What is held in memory is eight bytes a row for its content and eight for its id.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._contents = array("Q")
        self._ids = array("q")
        self._tasks = 0
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with _told(self._path):
            self._waiting = self._temporary()
            self._sink = pa.OSFile(str(self._waiting), "wb")
            options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pyarrow.ipc.new_stream(self._sink, self._schema, options=options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def _temporary(self) -> Path:
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        os.close(descriptor)
        self._files.callback(Path(name).unlink, missing_ok=True)
        return Path(name)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append normalised rows."""
        digests = bytes.fromhex("".join(batch.column("digest").to_pylist()))
        self._contents.extend(memoryview(digests).cast("Q")[::2])
        ids = batch.column("id")
        if not ids.null_count:
            self._ids.extend(map(hash, ids.to_pylist()))
        self._tasks += pc.sum(batch.column("variants")).as_py() or 0
        with _told(self._path):
            self._writer.write_batch(batch)
        # Arrow's allocator keeps what is freed: 30 MB in a million rows.
        pa.default_memory_pool().release_unused()

    @property
    def rows(self) -> int:
        """How many rows there are so far."""
        return len(self._contents)

    def close(self) -> None:
        """No row is added any more."""
        with _told(self._path):
            self._writer.close()
            self._sink.close()

    def check_ids(self, column: str, problems: Problems) -> None:
        """Note every row whose id an earlier row has."""
        found = _repeated(self._ids)
        self._ids = array("q")
        if not found:
            return
        ranked = _rank(self._fetch(found, _only_ids), "id")
        again = ranked.filter(pc.greater(ranked["occurrence"], 1)).sort_by("row")
        problems.count(again.num_rows - KEPT)
        for row in again.slice(0, KEPT).to_pylist():
            other = problems.row(row["first"])
            problems.add(
                f"id {quoted(row['id'])} is also that of row {other}; ids are unique",
                row=problems.row(row["row"]),
                column=column,
            )

    def publish(self) -> None:
        """Number the rows of equal content and put the snapshot in its place."""
        repeated = _repeated(self._contents)
        numbers = self._number(repeated) if repeated else array("i")
        self._contents = array("Q")
        with _told(self._path):
            final = self._temporary()
            writer = pq.ParquetWriter(
                final,
                self._schema.append(pa.field("occurrence", pa.int32())),
                compression="snappy",
                use_dictionary=["model", "system", "name"],
                write_statistics=False,
            )
            writer.add_key_value_metadata({_TASKS.decode(): str(self._tasks)})
        start = 0
        with writer:
            for batch in self._read():
                stop = start + batch.num_rows
                occurrence = array("i", [1]) * batch.num_rows
                for index in range(bisect_left(repeated, start), bisect_left(repeated, stop)):
                    occurrence[repeated[index] - start] = numbers[index]
                start = stop
                with _told(self._path):
                    writer.write_batch(batch.append_column("occurrence", _int32(occurrence)))
        with _told(self._path):
            final.replace(self._path)

    def _number(self, rows: array[int]) -> array[int]:
        """
        Which occurrence of its content each of these rows is.

        They are counted by id, shorter ones first, so that a row appended with the next number changes none
        of those before it; without ids, by a hash of all cells; where those agree too, the rows are the same.
        """
        ranked = _rank(self._fetch(rows, _order), "content", "length", "order")
        return array("i", ranked.sort_by("row")["occurrence"].to_pylist())

    def _read(self) -> Iterator[pa.RecordBatch]:
        with contextlib.ExitStack() as stack:
            with _told(self._path):
                source = stack.enter_context(pa.OSFile(str(self._waiting)))
                reader = stack.enter_context(pyarrow.ipc.open_stream(source))
            while True:
                with _told(self._path):
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        return
                yield batch

    def _fetch(self, rows: array[int], select: Callable[[pa.RecordBatch], pa.RecordBatch]) -> pa.Table:
        """What `select` makes of these rows, which are in ascending order, and their numbers as `row`."""
        start = 0
        found = []
        for batch in self._read():
            wanted = rows[bisect_left(rows, start) : bisect_left(rows, start + batch.num_rows)]
            if wanted:
                numbers = pa.array(wanted, pa.uint64())
                part = select(batch.take(pc.subtract(numbers, start)))
                found.append(part.append_column("row", numbers))
            start += batch.num_rows
        return pa.Table.from_batches(found)


def _only_ids(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.select(["id"])


def _order(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What rows are counted by: content, then length and text of the id, or a hash of the cells."""
    content = pc.utf8_slice_codeunits(batch.column("digest"), 0, 16)
    order = batch.column("id")
    if order.null_count:
        names = ["variants", "name", *(name for name in batch.schema.names if name.startswith(CARRIED))]
        cells = [texts(batch.column(name), batch.schema.field(name)) for name in names]
        marked = [pc.binary_join_element_wise("=", pc.fill_null(cell, MARK_ID), "") for cell in cells]
        joined = pc.binary_join_element_wise(*marked, "\0").cast(pa.binary()).to_pylist()
        order = hex_texts(b"".join([blake2b(row, digest_size=16).digest() for row in joined]), 16)
    columns = {"content": content, "length": pc.binary_length(order), "order": order}
    return pa.RecordBatch.from_pydict(columns)


def _repeated(values: array[int]) -> array[int]:
    """The indices of all values that are there more than once, ascending."""
    if not values:
        return array("Q")
    kind = pa.uint64() if values.typecode == "Q" else pa.int64()
    numbers = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    order = pc.sort_indices(numbers)
    ordered = numbers.take(order)
    same = pc.equal(ordered[1:], ordered[:-1])
    no = pa.array([False])
    several = pc.or_(pa.concat_arrays([same, no]), pa.concat_arrays([no, same]))
    return array("Q", sorted(order.filter(several).to_pylist()))


def _rank(table: pa.Table, group: str, *then: str) -> pa.Table:
    """
    The table in groups, with each row's `occurrence` in its group and the `first` row of that.

    Within a group the order is `then`, and then the row.
    """
    table = table.sort_by([(name, "ascending") for name in (group, *then, "row")]).combine_chunks()
    keys = table[group].combine_chunks()
    position = pa.array(range(table.num_rows), pa.int64())
    opens = pa.concat_arrays([pa.array([True]), pc.not_equal(keys[1:], keys[:-1])])
    start = pc.cumulative_max(pc.if_else(opens, position, 0))
    table = table.append_column("occurrence", pc.add(pc.subtract(position, start), 1))
    return table.append_column("first", table["row"].take(start))
