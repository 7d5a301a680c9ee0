"""
Which rows go out, with which columns, and how are they cut into shards?

The table is gone through once, at one moment: what goes out is put into a file of its own, so that a run that
goes on meanwhile changes nothing, and a shard is the same rows whenever it is written.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from batchgen import results
from batchgen.errors import InputError, StorageError, nearest
from batchgen.records import Status, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

PICTURE = ("sha256", "mime", "width", "height", "bytes")
"""Columns of the one picture, in the place of `images`; drafts do not go out."""
WHY = {
    "status": "of another status",
    "without_picture": "without a picture",
    "where": "not as --where says",
    "only": "not in --only",
}
"""Why a row stays behind."""
_OVERHEAD = 2048
"""Bytes a row takes in a shard beside its picture and its texts, about."""
_MISSING = pa.scalar(None, pa.int32())


class Wanted(Value, frozen=True, kw_only=True):
    """Which rows are asked for."""

    statuses: tuple[str, ...] = ()
    """Empty: succeeded ones that have a picture, or words where no picture goes out; `all`: any."""
    where: tuple[tuple[str, str], ...] = ()
    """Column and value. Of one column any of its values, of several columns all of them."""
    only: frozenset[str] | None = None
    """Ids."""


class Part(Value, frozen=True, kw_only=True):
    """A stretch of rows that becomes one shard."""

    batches: tuple[int, int]
    """Of the file of rows: from, to."""
    rows: int
    bytes: int
    """Of its pictures and texts, about."""
    fingerprint: str
    """Of all that is in its rows."""


@dataclass(slots=True)
class Told:
    """What the rows that go out add up to, and how many stay behind."""

    rows: int = 0
    pictures: int = 0
    bytes: int = 0
    """Of the pictures."""
    cost_usd: Decimal = Decimal(0)
    simulated: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows by `WHY`."""

    def add(self, batch: pa.RecordBatch) -> None:
        """Count rows that go out."""
        self.rows += batch.num_rows
        self.pictures += batch.num_rows - batch.column("sha256").null_count
        self.bytes += pc.sum(batch.column("bytes")).as_py() or 0
        self.cost_usd += pc.sum(batch.column("cost_usd")).as_py() or 0
        for name, counts in (("status", self.statuses), ("model", self.models)):
            for item in pc.value_counts(batch.column(name)).to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
        ends = pc.min_max(batch.column("finished_at")).as_py()
        self.first = min(filter(None, (self.first, ends["min"])), default=None)
        self.last = max(filter(None, (self.last, ends["max"])), default=None)

    def less(self, lost: Told) -> None:
        """Count rows no more that could not go out after all."""
        self.rows -= lost.rows
        self.pictures -= lost.pictures
        self.bytes -= lost.bytes
        self.cost_usd -= lost.cost_usd
        for counts, gone in ((self.statuses, lost.statuses), (self.models, lost.models)):
            for name, count in gone.items():
                counts[name] -= count
                if not counts[name]:
                    del counts[name]


class Columns:
    """The table's columns as they go out."""

    def __init__(self, lines: pa.Schema, reserved: Iterable[str] = ()) -> None:
        """
        Settle names and types.

        :param lines: of the results.
        :param reserved: names that the format needs for itself.
        """
        own: list[pa.Field] = []
        image = {part.name: part for part in results.IMAGES.value_type}
        for column in [*lines][: len(results.SCHEMA)]:
            own += [image[name] for name in PICTURE] if column.name == "images" else [column]
        taken = {column.name for column in own} | set(reserved)
        carried = []
        for column in [*lines][len(results.SCHEMA) :]:
            name = column.name
            while name in taken:
                name = f"manifest_{name}"
            taken.add(name)
            carried.append(pa.field(name, _plain(column.type) or pa.string()))
        self.schema = pa.schema([*own, *carried])

    def of(self, piece: pa.RecordBatch) -> pa.RecordBatch:
        """Lines of the results under these names, in these types."""
        picture = _picture(piece.column("images"))
        has = pc.is_valid(picture)
        columns: list[pa.Array] = []
        for place, column in enumerate(piece.columns):
            name = piece.schema.field(place).name if place < len(results.SCHEMA) else ""
            if name == "images":
                columns += [pc.struct_field(picture, part) for part in PICTURE]
            elif name == "file_name":
                columns.append(pc.if_else(has, column, pa.scalar(None, pa.string())))
            else:
                columns.append(column)
        arrays = [cast(column, wanted.type) for column, wanted in zip(columns, self.schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _picture(images: pa.ListArray) -> pa.StructArray:
    """The last of each list, which is the picture unless it is a draft; null where there is none."""
    last = pc.subtract(images.offsets[1:], 1)
    found = images.values.take(pc.if_else(pc.greater(pc.list_value_length(images), 0), last, _MISSING))
    drafts = pc.fill_null(pc.struct_field(found, "draft"), True)  # noqa: FBT003
    return found.take(pc.if_else(drafts, _MISSING, pa.array(range(len(found)), pa.int32())))


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """The nearest type that any reader of any format knows; None where that is text."""
    is_a = pa.types
    if is_a.is_dictionary(kind):
        return _plain(kind.value_type)
    if is_a.is_large_string(kind) or is_a.is_string_view(kind):
        return pa.string()
    if is_a.is_large_binary(kind) or is_a.is_binary_view(kind) or is_a.is_fixed_size_binary(kind):
        return pa.binary()
    if is_a.is_list(kind) or is_a.is_large_list(kind) or is_a.is_fixed_size_list(kind):
        inner = _plain(kind.value_type)
        return inner and pa.list_(inner)
    if is_a.is_struct(kind):
        parts = [(part.name, _plain(part.type)) for part in kind]
        names = {name for name, _ in parts}
        known = parts and len(names) == len(parts) and all(inner is not None for _, inner in parts)
        return pa.struct(parts) if known else None
    simple = (
        *(is_a.is_boolean, is_a.is_integer, is_a.is_float32, is_a.is_float64, is_a.is_date32),
        *(is_a.is_decimal128, is_a.is_string, is_a.is_binary),
    )
    # Nanoseconds fit in no date of Python's.
    dated = is_a.is_timestamp(kind) and kind.unit != "ns"
    return kind if dated or any(test(kind) for test in simple) else None


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values in another type; what has no text of its own becomes JSON."""
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        cells = column.to_pylist()
        if kind == pa.string():
            encoded = [None if cell is None else msgspec.json.encode(cell, enc_hook=str) for cell in cells]
            return pa.array([None if cell is None else cell.decode() for cell in encoded], kind)
        return pa.array(cells, kind)


class Filter:
    """Which lines go out."""

    def __init__(self, wanted: Wanted, schema: pa.Schema, *, pictures: bool) -> None:
        """
        Understand what was asked for.

        :param pictures: whether rows go out for their pictures.
        :raises InputError: no such status, no such column, or no such value in it.
        """
        known = [*map(str, Status), "all"]
        for status in wanted.statuses:
            if status not in known:
                raise InputError(f"--status {status}: one of {', '.join(known)}{nearest(status, known)}")
        self._with_picture = pictures and not wanted.statuses
        chosen = wanted.statuses or (Status.SUCCEEDED,)
        self._statuses = None if "all" in chosen else pa.array(chosen, pa.string())
        self._where = _values(wanted.where, schema)
        self._only = None if wanted.only is None else pa.array(sorted(wanted.only), pa.string())

    def of(self, batch: pa.RecordBatch, left_out: dict[str, int]) -> pa.RecordBatch:
        """The lines that go out; the others are counted."""
        if self._only is not None:
            batch = _kept(batch, pc.is_in(batch.column("id"), self._only), "only", left_out)
        for name, values in self._where.items():
            batch = _kept(batch, pc.is_in(batch.column(name), values), "where", left_out)
        if self._statuses is not None:
            batch = _kept(batch, pc.is_in(batch.column("status"), self._statuses), "status", left_out)
        if self._with_picture:
            batch = _kept(batch, pc.is_valid(batch.column("sha256")), "without_picture", left_out)
        return batch


def _kept(batch: pa.RecordBatch, mask: pa.Array, why: str, left_out: dict[str, int]) -> pa.RecordBatch:
    chosen = pc.indices_nonzero(mask)
    if len(chosen) < batch.num_rows:
        left_out[why] = left_out.get(why, 0) + batch.num_rows - len(chosen)
    return batch.take(chosen)


def _values(where: Iterable[tuple[str, str]], schema: pa.Schema) -> Mapping[str, pa.Array]:
    found: dict[str, list[Any]] = {}
    for name, text in where:
        if name not in schema.names:
            hint = nearest(name, schema.names) or f"; there are {', '.join(schema.names)}"
            raise InputError(f"--where {name}={text}: there is no column {name!r}{hint}")
        kind = schema.field(name).type
        if pa.types.is_nested(kind):
            raise InputError(
                f"--where {name}={text}: the cells of column {name!r} are {kind}; choose another"
            )
        found.setdefault(name, []).extend(_read(name, text, kind))
    return {name: pa.array(values, schema.field(name).type) for name, values in found.items()}


def _read(name: str, text: str, kind: pa.DataType) -> list[Any]:
    """What a value given as text means in a column; nothing means an empty cell, whatever that is."""
    if text == "":
        return ["", None] if kind == pa.string() else [None]
    try:
        return [pa.scalar(text).cast(kind).as_py()]
    except pa.ArrowException:
        raise InputError(
            f"--where {name}={text}: column {name!r} holds {kind}, and {text!r} is none"
        ) from None


class Spool:
    """The rows that go out, in a file, and where each shard begins."""

    def __init__(self, path: Path, parts: Sequence[Part], told: Told, schema: pa.Schema) -> None:
        self.parts = parts
        self.told = told
        self.schema = schema
        self._files = contextlib.ExitStack()
        with _reported(path):
            source = self._files.enter_context(pa.OSFile(str(path)))
            self._reader = self._files.enter_context(pa.ipc.open_file(source))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def rows(self, part: Part) -> Iterator[pa.RecordBatch]:
        """The rows of a shard, a thousand at most at a time."""
        for index in range(*part.batches):
            yield self._reader.get_batch(index)


def gather(
    pieces: Iterator[pa.RecordBatch],
    columns: Columns,
    chosen: Filter,
    *,
    path: Path,
    limit: int | None,
    seed: bytes,
) -> Spool:
    """
    Put the rows that go out into a file.

    :param limit: bytes of a shard; one row may be larger. None: all rows are one.
    :param seed: what else makes two shards of the same rows differ.
    :raises StorageError: the file cannot be written.
    """
    told = Told()
    with _reported(path), pa.OSFile(str(path), "wb") as sink:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, columns.schema, options=options) as writer:
            cutting = _Cutting(limit, seed + columns.schema.serialize().to_pybytes())
            for piece in pieces:
                batch = chosen.of(columns.of(piece), told.left_out)
                told.add(batch)
                for stretch in cutting.cut(batch):
                    writer.write_batch(stretch)
                pa.default_memory_pool().release_unused()
    return Spool(path, cutting.parts(), told, columns.schema)


class _Cutting:
    """Rows become shards: the next one begins where this one would be too large."""

    def __init__(self, limit: int | None, seed: bytes) -> None:
        self._limit = limit
        self._seed = seed
        self._parts: list[Part] = []
        self._batches = self._first = self._rows = self._bytes = 0
        self._hash = sha256(seed)

    def cut(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        start = 0
        for place, size in enumerate(_sizes(batch)):
            if self._limit is not None and self._bytes and self._bytes + size > self._limit:
                yield from self._add(batch, start, place)
                self._end()
                start = place
            self._rows += 1
            self._bytes += size
        yield from self._add(batch, start, batch.num_rows)

    def _add(self, batch: pa.RecordBatch, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        if start < stop:
            stretch = batch.take(pa.array(range(start, stop), pa.int32()))
            self._hash.update(stretch.serialize())
            self._batches += 1
            yield stretch

    def _end(self) -> None:
        self._parts.append(
            Part(
                batches=(self._first, self._batches),
                rows=self._rows,
                bytes=self._bytes,
                fingerprint=self._hash.hexdigest(),
            )
        )
        self._first, self._rows, self._bytes, self._hash = self._batches, 0, 0, sha256(self._seed)

    def parts(self) -> tuple[Part, ...]:
        """All of them, when no row comes any more; one at least."""
        if self._rows or not self._parts:
            self._end()
        return tuple(self._parts)


def _sizes(batch: pa.RecordBatch) -> list[int]:
    """Bytes each row takes in a shard, about."""
    sizes = pc.add(pc.fill_null(batch.column("bytes"), 0), _OVERHEAD)
    for column in batch.columns:
        if pa.types.is_string(column.type):
            sizes = pc.add(sizes, pc.fill_null(pc.binary_length(column), 0))
    return sizes.to_pylist()  # type: ignore[no-any-return]


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise StorageError(f"{path}: {reason}; make room or choose another place with -o") from cause
