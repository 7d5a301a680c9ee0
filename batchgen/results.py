"""
How does the account of a run become one table?

`results.parquet` is derived from the manifest and the ledger: one row a task, in manifest order, whatever
happened to it. It is written beside the old one and replaces it whole.
"""

from __future__ import annotations

import contextlib
import shlex
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import sizes
from batchgen.alike import Alike
from batchgen.errors import DamagedError, StorageError
from batchgen.ledger import Result, Told
from batchgen.records import Expect, Look, Status, UsageQuality, Value
from batchgen.store import put_in_place, safe_stem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchgen.ledger import Reader
    from batchgen.manifest import Batch, Manifest

_AT_ONCE = 1024
_EPOCH = datetime.fromtimestamp(0, UTC)
MONEY = pa.decimal128(18, 9)
CREDITS = pa.decimal128(18, 6)
TIME = pa.timestamp("us", tz="UTC")
_IMAGE = [
    pa.field("file_name", pa.string()),
    pa.field("sha256", pa.string()),
    pa.field("mime", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("bytes", pa.int64()),
    pa.field("draft", pa.bool_()),
]
IMAGES = pa.list_(pa.struct(_IMAGE))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("status", pa.string()),
        ("prompt", pa.string()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("file_name", pa.string()),
        ("images", IMAGES),
        ("size_ok", pa.bool_()),
        ("phash", pa.string()),
        ("blank", pa.bool_()),
        ("near_duplicate_of", pa.string()),
        ("text", pa.string()),
        ("reasoning", pa.string()),
        ("tool_calls", pa.string()),
        ("finish_reason", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("attempts", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("text_tokens", pa.int64()),
        ("image_tokens", pa.int64()),
        ("total_tokens", pa.int64()),
        ("usage_quality", pa.string()),
        ("cost_usd", MONEY),
        ("wasted_usd", MONEY),
        ("cost_credits", CREDITS),
        ("billed_usd", MONEY),
        ("started_at", TIME),
        ("finished_at", TIME),
        ("latency_s", pa.float64()),
        ("request_id", pa.string()),
        ("task_key", pa.string()),
    ]
)
"""The columns of every table, before the manifest's own."""
_ADDED = (("phash", "blank", "near_duplicate_of"), ("size_ok", "reasoning", "tool_calls"))
"""Those that tables of earlier versions do not have, the latest first."""
_MARKED = slice(SCHEMA.names.index("phash"), SCHEMA.names.index("near_duplicate_of") + 1)
_REPEATED = (
    *("status", "model", "provider", "images.list.element.mime", "finish_reason", "error_class"),
    *("error_message", "usage_quality"),
)
"""Columns of few values. A dictionary of what does not repeat takes longer than all the rest, for nothing."""
_FEW = 64
"""Rows for which to set up a compressor for every column costs more than it saves."""


class Tally(Value, frozen=True, kw_only=True):
    """What a table adds up to."""

    tasks: Mapping[str, int]
    """Rows by status."""
    prompt_tokens: int
    text_tokens: int
    image_tokens: int
    total_tokens: int
    cost_usd: Decimal
    wasted_usd: Decimal
    unpriced: int
    """Rows with tokens and without a cost."""
    for_words: int
    """Rows for which words are enough."""
    in_words: int
    """Rows that succeeded with words alone."""
    wrong_size: int
    """Rows whose picture is not of the size that was asked for."""
    blank: int
    """Rows whose picture is of one colour."""
    near_duplicates: int
    """Rows whose picture looks like one of a row before them."""


def write(manifest: Manifest, ledger: Reader, path: Path) -> Tally:
    """
    Write the table of a manifest's tasks, whole or not at all.

    A column of the manifest that bears the name of one of the table's comes along as `manifest_<name>`.

    :raises StorageError: it cannot be written; the old table is untouched.
    """
    schema = pa.schema([*SCHEMA, *_carried(manifest.carried)])
    tally, marks = _Adding(), _Marks(manifest, ledger)
    temporary = path.with_name(f".{path.name}.part")
    compression = "zstd" if manifest.tasks > _FEW else "none"
    try:
        with pq.ParquetWriter(
            temporary, schema, compression=compression, use_dictionary=[*_REPEATED]
        ) as writer:
            for batch in manifest.batches():
                writer.write_table(pa.Table.from_batches(_rows(batch, ledger, tally, marks, schema)))
                pa.default_memory_pool().release_unused()
        put_in_place(temporary, path)
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise StorageError(
            f"{path}: {reason}; nothing is lost, the ledger has it all: make room or make it writable, and"
            " the same command writes the table anew"
        ) from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return tally.done()


def lines(manifest: Manifest, ledger: Reader) -> Iterator[tuple[Batch, int, pa.RecordBatch]]:
    """
    Go through the table as it would be written at this moment, a thousand lines at a time.

    With each piece come the batch of the manifest that it belongs to, and the place in it of its first line.

    :raises StorageError: the manifest's snapshot cannot be read.
    """
    schema, tally = pa.schema([*SCHEMA, *_carried(manifest.carried)]), _Adding()
    marks = _Marks(manifest, ledger)
    for batch in manifest.batches():
        start = 0
        for piece in _rows(batch, ledger, tally, marks, schema):
            yield batch, start, piece
            start += piece.num_rows


class Odd(Value, frozen=True, kw_only=True):
    """Pictures of a table that may not be what was wanted."""

    blank: int
    near_duplicates: int


def odd(path: Path) -> Odd:
    """
    Count what a table on disk has marked; nothing where it has no such columns.

    :raises StorageError: it cannot be read.
    """
    blank = likenesses = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            names = SCHEMA.names[_MARKED] if _schema_of(file.schema_arrow) is SCHEMA else []
            for batch in file.iter_batches(columns=names) if names else ():
                blank += batch.column("blank").true_count
                likenesses += batch.num_rows - batch.column("near_duplicate_of").null_count
    except (pa.ArrowException, OSError) as cause:
        raise StorageError(
            f"{path}: it cannot be read ({cause}); the next run, or"
            f" `batchgen verify {shlex.quote(str(path.parent))} --repair`, writes it anew"
        ) from cause
    return Odd(blank=blank, near_duplicates=likenesses)


class Comparison(Value, frozen=True, kw_only=True):
    """What a table on disk is worth."""

    tally: Tally
    """Of the table as it ought to be."""
    why: str = ""
    """Why the whole table is not this one; empty where it is, or where rows are told instead."""
    rows: int = 0
    """Rows that are not as the ledger has them."""
    first: tuple[str, ...] = ()
    """The ids of the first of them."""


def compare(manifest: Manifest, ledger: Reader, path: Path, *, most: int) -> Comparison:
    """
    Hold the table on disk against manifest and ledger, row by row.

    :param most: how many ids of differing rows are told.
    :raises StorageError: the manifest's snapshot cannot be read.
    """
    schema = pa.schema([*SCHEMA, *_carried(manifest.carried)])
    tally, found = _Adding(), _Stored(path, schema, manifest.tasks)
    marks = _Marks(manifest, ledger)
    rows, first = 0, []
    with contextlib.closing(found):
        for batch in manifest.batches():
            for wanted in _rows(batch, ledger, tally, marks, schema):
                for index in found.differing(wanted):
                    rows += 1
                    first += [wanted.column("id")[index].as_py()] if rows <= most else []
            pa.default_memory_pool().release_unused()
    whole = not found.why
    return Comparison(
        tally=tally.done(), why=found.why, rows=rows if whole else 0, first=tuple(first) if whole else ()
    )


def read(path: Path) -> Iterator[Told]:
    """
    Go through a table for what the ledger said of the tasks it knew when that was written.

    :raises DamagedError: there is no such table, or it cannot be read.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            schema = _schema_of(file.schema_arrow)
            for batch in file.iter_batches(_AT_ONCE, columns=schema.names):
                rows = batch.cast(schema).to_pylist()
                yield from [_row_told(row) for row in rows if row["provider"] is not None]
    except (pa.ArrowException, OSError, ValueError) as cause:
        raise DamagedError(
            f"{path}: the ledger is lost, and the table it could be made from cannot be read ({cause});"
            " restore one of the two from a copy, or choose another run directory with -o"
        ) from cause


def _schema_of(found: pa.Schema) -> pa.Schema:
    """The columns of a table that are not the manifest's, which may be called like a later one of ours."""
    schema = SCHEMA
    for later in _ADDED:
        if found.names[: len(schema)] == schema.names:
            break
        schema = pa.schema([field for field in schema if field.name not in later])
    return schema


def _row_told(row: dict[str, Any]) -> Told:
    """A line of a table as the ledger has it: money in integers, times in microseconds."""
    nano = {name: row[f"{name}_usd"] for name in ("cost", "wasted", "billed")}
    values = {
        **dict.fromkeys(name for names in _ADDED for name in names),
        **row,
        "status": Status(row["status"]),
        **{name: None if amount is None else int(amount.scaleb(9)) for name, amount in nano.items()},
        "credits": None if row["cost_credits"] is None else int(row["cost_credits"].scaleb(6)),
        "started_at": _microseconds(row["started_at"]),
        "finished_at": _microseconds(row["finished_at"]),
        "latency": row["latency_s"],
        "quality": row["usage_quality"],
    }
    result = msgspec.convert(values, Result)
    name = row["file_name"]
    guess = row["id"] if row["variant"] == 1 else f"{row['id']}-{row['variant']}"
    stem = name.partition("/")[2].rpartition(".")[0] if name else safe_stem(guess)
    phash = row.get("phash")
    look = None if phash is None else Look(phash=int(phash, 16), blank=row["blank"])
    return Told(key=row["task_key"], id=row["id"], stem=stem, result=result, look=look)


def _microseconds(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // timedelta(microseconds=1)


class _Stored:
    """The table on disk, read in step with the one that ought to be there."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self.why = ""
        """Why nothing in it can be compared."""
        self._file: pq.ParquetFile | None = None
        self._left: pa.Table = schema.empty_table()
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)
            self._batches = self._file.iter_batches(_AT_ONCE)
        except FileNotFoundError:
            self.why = "it is not there"
            return
        except (pa.ArrowException, OSError) as cause:
            self.why = f"it cannot be read: {cause}"
            return
        found = self._file.schema_arrow.remove_metadata()
        # One of an earlier version is no worse for what it does not have.
        former = [*_schema_of(found).names, *schema.names[len(SCHEMA) :]]
        self._left = self._left.select(former)
        if found != self._left.schema.remove_metadata():
            self.why = "it has other columns"
        elif self._file.metadata.num_rows != rows:
            self.why = f"it has {self._file.metadata.num_rows:,} rows instead of {rows:,}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def differing(self, wanted: pa.RecordBatch) -> list[int]:
        """Which of the next rows are not as they ought to be."""
        if self.why:
            return []
        try:
            stored = self._next(wanted.num_rows)
        except (pa.ArrowException, OSError) as cause:
            self.why = f"it cannot be read: {cause}"
            return []
        wanted = wanted.select(stored.schema.names)
        if stored.equals(pa.Table.from_batches([wanted]), check_metadata=False):
            return []
        pairs = zip(wanted.to_pylist(), stored.to_pylist(), strict=True)
        return [index for index, (one, other) in enumerate(pairs) if one != other]

    def _next(self, count: int) -> pa.Table:
        while self._left.num_rows < count:
            batch = next(self._batches).cast(self._left.schema)
            self._left = pa.concat_tables([self._left, pa.Table.from_batches([batch])])
        found = self._left.slice(0, count)
        self._left = self._left.slice(count)
        return found


def _carried(fields: pa.Schema) -> Iterator[pa.Field]:
    taken = set(SCHEMA.names)
    for field in fields:
        name = field.name
        while name in taken:
            name = f"manifest_{name}"
        taken.add(name)
        yield field.with_name(name)


def _rows(
    batch: Batch, ledger: Reader, tally: _Adding, marks: _Marks, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The lines of a batch, some at a time: as Python values they are ten times as large."""
    asked, shapes = batch.columns(), batch.sizes()
    tally.for_words += batch.expects.count(Expect.TEXT)
    for start in range(0, len(batch.keys), _AT_ONCE):
        results = ledger.results(batch.keys[start : start + _AT_ONCE])
        found = {"size_ok": _sizes_ok(shapes.slice(start, _AT_ONCE), results), **marks.of(results)}
        tally.add(results)
        tally.count(found)
        yield _lines(asked.slice(start, _AT_ONCE), found, results, schema)


def _sizes_ok(shapes: pa.RecordBatch, results: Sequence[Result | None]) -> pa.BooleanArray:
    """Whether each picture is of the size that was asked for; null where none was, or there is none."""
    ratios, asked = shapes.columns
    if ratios.null_count == asked.null_count == len(results):
        return pa.nulls(len(results), pa.bool_())
    return pa.array(
        [
            None
            if result is None or not result.images
            else sizes.as_asked(
                result.images[-1].width, result.images[-1].height, aspect_ratio=ratio, image_size=size
            )
            for ratio, size, result in zip(ratios.to_pylist(), asked.to_pylist(), results, strict=True)
        ],
        pa.bool_(),
    )


class _Marks:
    """How the pictures of a table look, from its first row to its last."""

    def __init__(self, manifest: Manifest, ledger: Reader) -> None:
        self._ledger = ledger
        # Where nobody looked, nothing is asked for.
        self._alike = Alike(manifest.tasks) if ledger.has_looks() else None

    def of(self, results: Sequence[Result | None]) -> dict[str, pa.Array]:
        """The columns of the next rows; a blank picture looks like nothing."""
        names, alike = SCHEMA.names[_MARKED], self._alike
        if alike is None:
            return {name: pa.nulls(len(results), SCHEMA.field(name).type) for name in names}
        pictures = [result.images[-1] if result and result.images else None for result in results]
        looks = self._ledger.looks([picture.sha256 for picture in pictures if picture is not None])
        marks: list[tuple[str | None, bool | None, str | None]] = []
        for picture in pictures:
            look = None if picture is None else looks.get(picture.sha256)
            if picture is None or look is None:
                marks.append((None, None, None))
            else:
                first = None if look.blank else alike.first(look.phash, picture.file_name)
                marks.append((f"{look.phash:016x}", look.blank, first))
        columns = zip(*marks, strict=True)
        return {
            name: pa.array(column, SCHEMA.field(name).type)
            for name, column in zip(names, columns, strict=True)
        }


def _lines(
    asked: pa.RecordBatch,
    found: Mapping[str, pa.Array],
    results: Sequence[Result | None],
    schema: pa.Schema,
) -> pa.RecordBatch:
    theirs = {**{name: asked.column(place) for place, name in enumerate(_ASKED)}, **found}
    columns = [theirs[name] if name in theirs else _OWN[name](results) for name in SCHEMA.names]
    carried = [asked.column(place) for place in range(len(_ASKED), asked.num_columns)]
    arrays = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip([*columns, *carried], schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _field(name: str, kind: pa.DataType) -> Callable[[Sequence[Result | None]], pa.Array]:
    """A column straight from the result's field; null where the ledger has never seen the task."""
    cell = attrgetter(name)
    return lambda results: pa.array([None if result is None else cell(result) for result in results], kind)


def _sum(name: str) -> Callable[[Sequence[Result | None]], pa.Array]:
    """A column of counts; nothing was used where the ledger has never seen the task."""
    cell, kind = attrgetter(name), SCHEMA.field(name).type
    return lambda results: pa.array([0 if result is None else cell(result) for result in results], kind)


def _money(name: str, kind: pa.DataType) -> Callable[[Sequence[Result | None]], pa.Array]:
    """The ledger's integers, reinterpreted: a decimal is an integer and the place of its point."""
    of_integers = _field(name, pa.int64())

    def column(results: Sequence[Result | None]) -> pa.Array:
        whole = of_integers(results)
        return pa.Array.from_buffers(kind, len(whole), whole.cast(pa.decimal128(19, 0)).buffers())

    return column


def _statuses(results: Sequence[Result | None]) -> pa.Array:
    return pa.array([Status.PENDING if result is None else result.status for result in results], pa.string())


def _qualities(results: Sequence[Result | None]) -> pa.Array:
    return pa.array(
        [UsageQuality.NONE if result is None else result.quality for result in results], pa.string()
    )


def _file_names(results: Sequence[Result | None]) -> pa.Array:
    return pa.array(
        [result.images[-1].file_name if result is not None and result.images else None for result in results],
        pa.string(),
    )


def _images(results: Sequence[Result | None]) -> pa.Array:
    images = [() if result is None else result.images for result in results]
    every = [image for several in images for image in several]
    columns = [pa.array([getattr(image, field.name) for image in every], field.type) for field in _IMAGE]
    ends = pa.array(accumulate(map(len, images), initial=0), pa.int32())
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(columns, fields=_IMAGE), IMAGES)


_ASKED = ("id", "variant", "prompt", "model", "task_key")
"""What a batch of the manifest brings before the columns it carries."""
_OWN: Mapping[str, Callable[[Sequence[Result | None]], pa.Array]] = {
    "status": _statuses,
    "provider": _field("provider", pa.string()),
    "file_name": _file_names,
    "images": _images,
    "text": _field("text", pa.string()),
    "reasoning": _field("reasoning", pa.string()),
    "tool_calls": _field("tool_calls", pa.string()),
    "finish_reason": _field("finish_reason", pa.string()),
    "error_class": _field("error_class", pa.string()),
    "error_message": _field("error_message", pa.string()),
    "attempts": _sum("attempts"),
    "prompt_tokens": _sum("prompt_tokens"),
    "text_tokens": _sum("text_tokens"),
    "image_tokens": _sum("image_tokens"),
    "total_tokens": _sum("total_tokens"),
    "usage_quality": _qualities,
    "cost_usd": _money("cost", MONEY),
    "wasted_usd": _money("wasted", MONEY),
    "cost_credits": _money("credits", CREDITS),
    "billed_usd": _money("billed", MONEY),
    "started_at": _field("started_at", TIME),
    "finished_at": _field("finished_at", TIME),
    "latency_s": _field("latency", pa.float64()),
    "request_id": _field("request_id", pa.string()),
}


_SUMS = ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens", "cost", "wasted")


class _Adding:
    """Sums in the making."""

    def __init__(self) -> None:
        self.for_words = 0
        self._wrong_size = self._blank = self._near_duplicates = 0
        self._in_words = 0
        self._tasks: dict[str, int] = dict.fromkeys(Status, 0)
        self._sums = dict.fromkeys(_SUMS, 0)
        self._unpriced = 0

    def add(self, results: Sequence[Result | None]) -> None:
        for name in _SUMS:
            cell = attrgetter(name)
            self._sums[name] += sum(cell(result) or 0 for result in results if result is not None)
        for result in results:
            if result is None:
                self._tasks[Status.PENDING] += 1
                continue
            self._tasks[result.status] += 1
            self._in_words += result.status == Status.SUCCEEDED and not result.images
            self._unpriced += result.cost is None and result.total_tokens > 0

    def count(self, found: Mapping[str, pa.Array]) -> None:
        self._wrong_size += found["size_ok"].false_count
        self._blank += found["blank"].true_count
        likenesses = found["near_duplicate_of"]
        self._near_duplicates += len(likenesses) - likenesses.null_count

    def done(self) -> Tally:
        cost, wasted = self._sums["cost"], self._sums["wasted"]
        tokens = {name: total for name, total in self._sums.items() if name.endswith("_tokens")}
        return Tally(
            tasks={status: count for status, count in self._tasks.items() if count},
            cost_usd=Decimal(cost).scaleb(-9),
            wasted_usd=Decimal(wasted).scaleb(-9),
            unpriced=self._unpriced,
            for_words=self.for_words,
            in_words=self._in_words,
            wrong_size=self._wrong_size,
            blank=self._blank,
            near_duplicates=self._near_duplicates,
            **tokens,
        )
