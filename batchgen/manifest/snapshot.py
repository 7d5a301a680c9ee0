"""
Which tasks does a manifest come to, and how are they gone through while a run buys them?

A snapshot is a Parquet file of normalised rows. A run reads it and never the manifest, so that editing the
manifest meanwhile changes nothing.
"""

from __future__ import annotations

import contextlib
import re
import sys
from array import array
from bisect import bisect_left, insort
from functools import cached_property, reduce
from itertools import accumulate, groupby, islice, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchgen.errors import StorageError
from batchgen.manifest.asked import COLUMNS as ASKED
from batchgen.manifest.chains import FIELDS, MOST, Chains
from batchgen.manifest.finished import Finished, Keys, Known, keys_of
from batchgen.manifest.origin import marks, rows_of
from batchgen.manifest.problems import KEPT, quoted
from batchgen.manifest.rows import CARRIED, DIGEST, MARK_ID, MARK_VARIANT, hashes, hex_texts, raw
from batchgen.manifest.sorting import ordered, repeated, temporary
from batchgen.manifest.tables import texts
from batchgen.records import Expect, Params, Reference, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from batchgen.manifest.problems import Problems

_BATCH_TASKS: Final = 8192
_BATCH_BYTES: Final = 64 << 20
_READ_AHEAD: Final = 32
"""Tasks of which the cells are read at once: one by one they take four times as long."""
_GATHERED: Final = 1024
_GATHERED_BYTES: Final = 1 << 20
_HELD_TASKS: Final = 512
_HELD_BYTES: Final = 64 << 10
"""As stored: with all their variants those are 32 MB at most."""
_TASKS: Final = b"batchgen:tasks"
_LEVELS: Final = b"batchgen:levels"
_FAULTS: Final = (pa.ArrowException, OSError)
_ONE: Final = pa.scalar(1, pa.int32())
_NOTHING: Final = Finished()
_KEY: Final = re.compile(r"[0-9a-f]{32}-\d+-\d+\Z")


class Batch:
    """A stretch of a manifest's tasks, in its order."""

    def __init__(self, rows: pa.RecordBatch, variants: pa.Array, carried: pa.Schema) -> None:
        self._rows = rows
        self._variants = variants
        self._carried = carried
        self._ahead: tuple[int, list[dict[str, Any]], list[int]] = (-1, [], [])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def parts(self) -> tuple[pa.RecordBatch, pa.Array]:
        """The row of each task, and its variant."""
        return self._rows, self._variants

    def chosen(self, indices: pa.Array) -> Batch:
        """Some of its tasks."""
        return Batch(self._rows.take(indices), self._variants.take(indices), self._carried)

    @cached_property
    def keys(self) -> list[str]:
        """The task keys: digest of the content, occurrence of the content, variant."""
        return self._keys.to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def ids(self) -> list[str]:
        """The row's id for each task."""
        return self._ids.to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def models(self) -> list[str]:
        """The model each task is sent to."""
        return self._rows.column("model").to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def depths(self) -> list[int]:
        """How many rows each task's row continues; where the manifest has parents."""
        return self._rows.column("depth").to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def places(self) -> list[int]:
        """Which of all tasks each one is, counted from 0; where the manifest has parents."""
        return pc.add(self._rows.column("place"), pc.subtract(self._variants, 1)).to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def parents(self) -> list[str | None]:
        """The key of the task each one continues; where the manifest has parents."""
        variants = self._parent_variants.cast(pa.string())
        keys = pc.binary_join_element_wise(self._rows.column("parent_key"), variants, "-")
        return keys.to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def parent_places(self) -> list[int | None]:
        """Which of all tasks those are."""
        first = self._rows.column("parent_place")
        return pc.add(first, pc.subtract(self._parent_variants, 1)).to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def parent_rows(self) -> list[int | None]:
        """Their rows, counted from 0."""
        return self._rows.column("parent").to_pylist()  # type: ignore[no-any-return]

    def task(self, index: int) -> Task:
        """The `index`-th task of this batch."""
        cell, variant = self._cells(index)
        references, stop = cell.get("references"), cell.get("stop")
        return Task(
            key=self.keys[index],
            id=self.ids[index],
            variant=variant,
            name=cell["name"].replace(MARK_VARIANT, str(variant)).replace(MARK_ID, self.ids[index]),
            model=cell["model"],
            prompt=cell["prompt"],
            system=cell["system"],
            messages=cell.get("messages"),
            references=() if references is None else _REFERENCES.decode(references),
            expect=self.expects[index],
            params=Params(
                stop=() if stop is None else _STOP.decode(stop),
                **{name: cell[name] for name in _PARAMS if name in cell},
            ),
        )

    @cached_property
    def expects(self) -> list[Expect]:
        """What completes each task."""
        if "expect" not in self._rows.schema.names:
            return [Expect.IMAGE] * len(self._rows)
        return [*map(_EXPECTS.__getitem__, self._rows.column("expect").to_pylist())]

    def sizes(self) -> pa.RecordBatch:
        """One line a task: the `aspect_ratio` and `image_size` it asks for, null where it does not."""
        there = self._rows.schema.names
        columns = [
            self._rows.column(name).cast(pa.string())
            if name in there
            else pa.nulls(len(self._rows), pa.string())
            for name in _SIZES
        ]
        return pa.RecordBatch.from_arrays(columns, names=_SIZES)

    @cached_property
    def image_sizes(self) -> list[str | None]:
        """The `image_size` each task asks for; None where it does not."""
        return self.sizes().column("image_size").to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def in_words(self) -> list[bool]:
        """Whether each task asks for JSON or brings tools, so that no picture can come."""
        there = [name for name in ("response_format", "tools") if name in self._rows.schema.names]
        asked = (pc.is_valid(self._rows.column(name)) for name in there)
        return reduce(pc.or_, asked, pa.repeat(pa.scalar(value=False), len(self._rows))).to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def said(self) -> list[int]:
        """Bytes of text each task sends, what it continues not included; pictures in messages are none."""
        return self._asking[0].to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def shown(self) -> list[int]:
        """Pictures each task sends along, that of the row it continues included."""
        return self._asking[1].to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def _asking(self) -> tuple[pa.Array, pa.Array]:
        rows, there = self._rows, self._rows.schema.names
        texts = [rows.column(name) for name in _SAID if name in there]
        if "messages" in there:
            messages = rows.column("messages")
            words = pc.replace_substring_regex(messages, _DATA_URL, "")
            # The prompt is the last of what messages say.
            texts[0] = pc.if_else(pc.is_valid(messages), words, texts[0])
        pictures = [
            pc.count_substring(rows.column(name), sign) for name, sign in _SHOWN.items() if name in there
        ]
        pictures += [pc.is_valid(rows.column("parent_key")).cast(pa.int32())] if "parent_key" in there else []
        nothing = pa.repeat(pa.scalar(0, pa.int32()), len(rows))
        return (
            reduce(pc.add, (pc.fill_null(pc.binary_length(text), 0) for text in texts)),
            reduce(pc.add, (pc.fill_null(count, 0) for count in pictures), nothing),
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

    def _cells(self, index: int) -> tuple[dict[str, Any], int]:
        """What a task is made of, and its variant; some are read at once, as they are asked for in turn."""
        start = index - index % _READ_AHEAD
        if start != self._ahead[0]:
            stretch = self._rows.select(self._told).slice(start, _READ_AHEAD)
            self._ahead = start, stretch.to_pylist(), self._variants.slice(start, _READ_AHEAD).to_pylist()
        _, rows, variants = self._ahead
        return rows[index - start], variants[index - start]

    @cached_property
    def _told(self) -> list[str]:
        """The columns that a task is made of."""
        return [name for name in _TASK_COLUMNS if self._rows.schema.get_field_index(name) >= 0]

    @cached_property
    def _parent_variants(self) -> pa.Array:
        return pc.min_element_wise(self._variants, self._rows.column("parent_variants"), skip_nulls=False)

    @cached_property
    def _keys(self) -> pa.Array:
        return keys_of(self._digests, self._rows.column("occurrence"), self._variants)

    @cached_property
    def _digests(self) -> pa.Array:
        return hex_texts(raw(self._rows.column("digest")))

    @cached_property
    def _ids(self) -> pa.Array:
        given = self._rows.column("id")
        if not given.null_count:
            return given
        occurrence = self._rows.column("occurrence")
        later = pc.binary_join_element_wise("-", occurrence.cast(pa.string()), "")
        suffix = pc.if_else(pc.greater(occurrence, 1), later, "")
        return pc.binary_join_element_wise(pc.utf8_slice_codeunits(self._digests, 0, 16), suffix, "")


_SIZES: Final = ["aspect_ratio", "image_size"]
_SAID: Final = ("prompt", "system", "response_format", "tools", "extra")
_DATA_URL: Final = r'"url":"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]*"'
_SHOWN: Final = {"references": '"sha256":', "messages": '"image_url":'}
"""What stands once for each picture: in a string of JSON each quote would have a backslash before it."""
_EXPECTS: Final[dict[str | None, Expect]] = {None: Expect.IMAGE, **{str(expect): expect for expect in Expect}}
_PARAMS: Final = tuple(name for name in Params.__struct_fields__ if name != "stop")
_TASK_COLUMNS: Final = (
    *("name", "model", "prompt", "system", "messages", "references", "stop"),
    *_PARAMS,
)
_REFERENCES: Final = msgspec.json.Decoder(tuple[Reference, ...])
_STOP: Final = msgspec.json.Decoder(tuple[str, ...])
_REPEATED: Final = ["model", "system", "name", *(name for name in ASKED if name not in {"messages", "seed"})]
"""Columns of few values, or of long ones that are likely to come again."""
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
    """A handle on a snapshot, which may be gone through as often as one likes. It holds no rows but a few."""

    def __init__(self, path: Path) -> None:
        """Raise `StorageError` if there is no readable snapshot at `path`."""
        self.path = path
        with told(path), pq.ParquetFile(path, pre_buffer=False) as file:
            schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows
            said = file.metadata.metadata or {}
            stated = said.get(_TASKS)
            few = stated is not None and int(stated) <= _HELD_TASKS and _stored(file) <= _HELD_BYTES
            held = [*_stretches_of(file)] if few else None
        if stated is None:
            raise StorageError(f"{path}: this is no copy of a manifest; the next run makes one")
        self.tasks = int(stated)
        self.levels = int(said.get(_LEVELS, b"1"))
        """Rows of the longest chain; 1 where no row continues another."""
        self.rows_hash = rows_of(said)
        """Where two snapshots have the same, they have the same rows in the same stretches."""
        self._counted = [name for name in schema.names if name != "name" and not name.startswith(CARRIED)]
        carried = [field for field in schema if field.name.startswith(CARRIED)]
        self.carried: pa.Schema = pa.schema(
            field.with_name(field.name.removeprefix(CARRIED)).remove_metadata() for field in carried
        )
        self._held = None if held is None else [batch for _, rows in held for batch in self._expanded(rows)]

    def batches(self, depth: int | None = None, *, without: Finished = _NOTHING) -> Iterator[Batch]:
        """
        All tasks in the order of the manifest, at most 8192 at a time.

        :param depth: those alone whose row continues so many others; where the manifest has parents.
        :param without: tasks that are left out; where the manifest has no parents.
        """
        if self._held is not None and depth is None:
            yield from _left(self._held, without, 0)
            return
        for stretch, rows in _stretches(self.path, depth=depth, skip=without.is_whole):
            yield from _left(self._expanded(rows), without, without.start(stretch))

    def gathered(self, *, without: Finished) -> Iterator[Batch]:
        """
        The same, what little is left of each stretch gathered, and without what makes a task of a row.

        For whoever counts and goes through all of them: the first ones come later.
        """
        if self._held is not None:
            yield from self.batches(without=without)
            return
        few: list[tuple[pa.RecordBatch, pa.Array]] = []
        tasks = size = 0
        for stretch, rows in _stretches(self.path, self._counted, skip=without.is_whole):
            for batch in _left(self._expanded(rows), without, without.start(stretch)):
                few.append(batch.parts)
                tasks, size = tasks + len(batch), size + batch.parts[0].nbytes
                if tasks >= _GATHERED or size >= _GATHERED_BYTES:
                    yield self._joined(few)
                    few, tasks, size = [], 0, 0
        if few:
            yield self._joined(few)

    def _joined(self, parts: list[tuple[pa.RecordBatch, pa.Array]]) -> Batch:
        rows = pa.Table.from_batches([part for part, _ in parts]).combine_chunks()
        return Batch(
            rows.to_batches()[0], pa.concat_arrays([variants for _, variants in parts]), self.carried
        )

    def having(self, keys: Collection[str]) -> Iterator[Batch]:
        """Those of these tasks that are in it, in its order; sixteen bytes a row are held at first."""
        contents = {bytes.fromhex(key[: 2 * DIGEST]) for key in keys if _KEY.match(key)}
        if not contents:
            return
        with told(self.path), pq.ParquetFile(self.path, pre_buffer=False) as file:
            groups = range(file.num_row_groups)
            ends = [*accumulate((file.metadata.row_group(group).num_rows for group in groups), initial=0)]
            digests = file.read(["digest"]).column("digest")
        met = pc.is_in(digests, value_set=pa.array([*contents], digests.type)).combine_chunks()
        del digests
        spans = [slice(*span) for span in pairwise(ends)]
        for _, part in _stretches(self.path, skip=lambda stretch: not met[spans[stretch]].true_count):
            for batch in self._expanded(part):
                mine = [index for index, key in enumerate(batch.keys) if key in keys]
                if mine:
                    yield batch.chosen(pa.array(mine))

    def finished(self, keys: Keys) -> Finished:
        """The tasks that are finished by their keys; some forty bytes a task are held meanwhile."""
        known = Known()
        for stretch, rows in _stretches(self.path, [*Known.COLUMNS]):
            for part, variants in _expand(rows):
                known.add(stretch, part, variants)
        return known.finished(keys)

    def _expanded(self, rows: pa.RecordBatch) -> Iterator[Batch]:
        return (Batch(*part, self.carried) for part in _expand(rows))


def _left(batches: Iterable[Batch], without: Finished, place: int) -> Iterator[Batch]:
    """
    What is left of batches that lie behind one another without some tasks.

    :param place: which of all tasks is the first one of them.
    """
    for batch in batches:
        left = without.left(place, place + len(batch))
        place += len(batch)
        if left is None:
            yield batch
        elif len(left):
            yield batch.chosen(left)


def _stored(file: pq.ParquetFile) -> int:
    """Bytes of its rows before they were compressed."""
    groups = map(file.metadata.row_group, range(file.num_row_groups))
    return sum(group.total_byte_size for group in groups)


def _expand(rows: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """A stretch of rows as batches of tasks: the row of each, and its variant."""
    if pc.max(rows.column("variants")).as_py() == 1:
        for start in range(0, rows.num_rows, _BATCH_TASKS):
            part = rows.slice(start, _BATCH_TASKS)
            yield part, part.column("variants")
        return
    # A long row that is repeated 8192 times would fill the memory.
    widest = sum(
        pc.max(pc.binary_length(column)).as_py() or 0
        for column in rows.columns
        if pa.types.is_string(column.type)
    )
    most = max(1, min(_BATCH_TASKS, _BATCH_BYTES // max(1, widest)))
    tasks = (
        (row, variant)
        for row, count in enumerate(rows.column("variants").to_pylist())
        for variant in range(1, count + 1)
    )
    while stretch := list(islice(tasks, most)):
        indices, variants = zip(*stretch, strict=True)
        yield rows.take(pa.array(indices, pa.int32())), pa.array(variants, pa.int32())


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever Arrow or the disk says about the snapshot, as a message with its path."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(
            f"{path}: the copy of the manifest is gone; the command of the run makes it anew"
        ) from error
    except _FAULTS as error:
        raise StorageError(f"{path}: the copy of the manifest cannot be written or read: {error}") from error


def _groups(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The row groups of a snapshot, one at a time; all columns, or some in the given order."""
    return (rows for _, rows in _stretches(path, columns))


def _stretches(
    path: Path,
    columns: list[str] | None = None,
    *,
    depth: int | None = None,
    skip: Callable[[int], bool] = lambda _: False,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The same with their numbers; of each the rows of a depth alone, some not at all."""
    with contextlib.ExitStack() as stack:
        with told(path):
            file = stack.enter_context(pq.ParquetFile(path, pre_buffer=False))
            stretches = _stretches_of(file, columns, depth, skip)
        while True:
            with told(path):
                found = next(stretches, None)
            if found is None:
                return
            yield found


def _stretches_of(
    file: pq.ParquetFile,
    columns: list[str] | None = None,
    depth: int | None = None,
    skip: Callable[[int], bool] = lambda _: False,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    for index in range(file.num_row_groups):
        if skip(index):
            continue
        wanted = None
        if depth is not None:
            depths = file.read_row_group(index, ["depth"], use_threads=False).column(0)
            wanted = pc.equal(depths, depth)
            if not pc.any(wanted).as_py():
                continue
        group = file.read_row_group(index, columns, use_threads=False)
        group = group if wanted is None else group.filter(wanted)
        for rows in group.select(columns or group.column_names).combine_chunks().to_batches():
            yield index, rows


class Draft:
    """
    A snapshot in the making: a temporary file beside its place, gone again unless `publish` is reached.

    It is the snapshot itself if every row's content is there once; otherwise its rows are numbered when the
    last one is known. What is held in memory is eight bytes a row for its content and eight for its id, and
    what `Chains` holds.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, identified: bool, chained: bool) -> None:
        """
        Begin a file beside `path`.

        :param identified: whether the rows bring ids.
        :param chained: whether they bring the ids of their parents, in a column `parent`.
        """
        self._path = path
        self._identified = identified
        self._chains = Chains() if chained else None
        self._schema = pa.schema(
            [*(field for field in schema if field.name != "parent"), pa.field("occurrence", pa.int32())]
        )
        self._contents = array("Q")
        self._ids = array("q")
        self._tasks = 0
        self._made_from: str | None = None
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as files, told(self._path):
            self._file = temporary(self._path, files)
            self._writer = self._open(self._file, self._schema, files)
            self._files = files.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def _open(self, path: Path, schema: pa.Schema, files: contextlib.ExitStack) -> pq.ParquetWriter:
        """A writer of rows with their occurrence. Left half-way, it is closed without a word."""
        writer = pq.ParquetWriter(
            path,
            schema,
            compression="snappy",
            use_dictionary=_REPEATED,
            write_statistics=False,
        )
        files.callback(_close_quietly, writer)
        return writer

    def _close(self, writer: pq.ParquetWriter) -> None:
        levels = 1 if self._chains is None else self._chains.levels
        said = {_TASKS.decode(): str(self._tasks), _LEVELS.decode(): str(levels)}
        writer.add_key_value_metadata({**said, **marks(self._file, said, self._made_from)})
        writer.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Append normalised rows."""
        digests = memoryview(batch.column("digest").buffers()[1]).cast("Q")
        self._contents.frombytes(digests[::2].tobytes())
        if self._identified:
            self._ids.extend(map(hash, batch.column("id").to_pylist()))
        self._tasks += pc.sum(batch.column("variants")).as_py() or 0
        if self._chains is not None:
            self._chains.add(batch)
            batch = batch.drop_columns(["parent"])
        with told(self._path):
            self._writer.write_batch(batch.append_column("occurrence", pa.repeat(_ONE, batch.num_rows)))
        # Arrow's allocator keeps what is freed: 30 MB in a million rows.
        pa.default_memory_pool().release_unused()

    @property
    def rows(self) -> int:
        """How many rows there are so far."""
        return len(self._contents)

    def close(self, made_from: str | None) -> None:
        """No row is added any more; `made_from` is what the snapshot will be known by, if it will."""
        self._made_from = made_from
        with told(self._path):
            self._close(self._writer)

    def check_ids(self, column: str, hint: str, problems: Problems) -> None:
        """Note every row whose id an earlier row has; `hint` says what else may be the id."""
        found = repeated(self._ids)
        self._ids = array("q")
        if not found:
            return
        first: list[tuple[int, int, str]] = []
        count = 0
        chosen = (batch.drop_null() for batch in self._chosen(found, ["id"]))
        with told(self._path):
            for _, again in _in_groups(ordered(chosen, self._path)):
                _, original = next(again)
                for text, row in again:
                    count += 1
                    insort(first, (row, original, text))
                    del first[KEPT:]
        problems.count(count - KEPT)
        for row, original, text in first:
            message = f"id {quoted(text)} is also that of row {problems.row(original)}; ids are unique{hint}"
            problems.add(message, row=problems.row(row), column=column)

    def check_parents(self, column: str, problems: Problems) -> None:
        """Note every row whose parent is no row, or that can never come to its turn; before `check_ids`."""
        chains = self._chains
        if chains is None or not chains:
            self._chains = None  # a column without a cell is none
            return
        chains.resolve(self._ids)
        unknown, circular = chains.unknown(), [*chains.circular()]
        with told(self._path):
            for row, cell in self._cells(unknown[:KEPT], CARRIED + column):
                message = f"no row has the id {quoted(cell)}; name one, or leave the cell empty"
                problems.add(message, row=problems.row(row), column=column)
        for row, length in circular[:KEPT]:
            way = (
                f" in a circle of {length} rows; leave one of their cells"
                if length > 1
                else "; leave the cell"
            )
            problems.add(f"the row continues itself{way} empty", row=problems.row(row), column=column)
        deep = chains.deep() if not circular else array("I")
        for row in deep[:KEPT]:
            message = f"more than {MOST} rows that continue one another; begin anew somewhere between"
            problems.add(message, row=problems.row(row), column=column)
        for found in (unknown, circular, deep):
            problems.count(len(found) - KEPT)

    def _cells(self, rows: array[int], column: str) -> Iterator[tuple[int, str]]:
        for batch in self._chosen(rows, [column]):
            cells = texts(batch.column(0), self._schema.field(column))
            yield from zip(batch.column("row").to_pylist(), cells.to_pylist(), strict=True)

    def publish(self) -> None:
        """Number the rows of equal content and put the snapshot in its place."""
        contents, self._contents = self._contents, array("Q")
        numbers = array("i", [1]) * len(contents)
        with told(self._path):
            if self._chains is not None:
                self._link(self._chains, contents, numbers)
                self._rewrite(numbers)
            elif found := repeated(contents):
                del contents
                self._count(found, numbers)
                self._rewrite(numbers)
            self._file.replace(self._path)

    def _link(self, chains: Chains, contents: array[int], numbers: array[int]) -> None:
        """Number the rows generation by generation: what a row sends is told by its parent's number, too."""
        for depth, rows in enumerate(chains.generations()):
            for row in rows if depth else ():
                digest = chains.link(row, numbers)
                contents[row] = int.from_bytes(digest[:8], sys.byteorder)
            found = repeated(array("Q", (contents[row] for row in rows)))
            if found:
                self._count(array("I", (rows[place] for place in found)), numbers)

    def _count(self, found: array[int], numbers: array[int]) -> None:
        """
        Set which occurrence of its content each of these rows is.

        They are counted by id, shorter ones first, so that a row appended with the next number changes none
        of those before it; without ids, by a hash of all cells; where those agree too, the rows are the same.
        """
        carried = [name for name in self._schema.names if name.startswith(CARRIED)]
        names = ["digest", "id", *(() if self._identified else ("variants", "name", *carried))]
        chosen = map(self._digested, self._chosen(found, names))
        for _, same in _in_groups(ordered(map(_order, chosen), self._path)):
            for number, cells in enumerate(same, start=1):
                numbers[cells[-1]] = number

    def _digested(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows, with the digests that their parents are part of."""
        if self._chains is None:
            return batch
        digests = map(self._chains.digest, batch.column("row").to_pylist())
        return batch.set_column(0, "digest", pa.array(digests, pa.binary(DIGEST)))

    def _rewrite(self, numbers: array[int]) -> None:
        """Write the file anew, with the occurrences in it, and what is known of chains."""
        chains = self._chains
        schema = self._schema if chains is None else pa.schema([*self._schema, *FIELDS])
        former, self._file = self._file, temporary(self._path, self._files)
        writer = self._open(self._file, schema, self._files)
        start = 0
        for batch in _groups(former):
            stop = start + batch.num_rows
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            columns["occurrence"] = pa.array(numbers[start:stop], pa.int32())
            if chains is not None:
                columns["digest"] = chains.digests(start, stop)
                columns |= zip(FIELDS.names, chains.columns(start, stop, numbers), strict=True)
            writer.write_batch(pa.RecordBatch.from_arrays([*columns.values()], schema=schema))
            start = stop
        self._close(writer)

    def _chosen(self, rows: array[int], columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of these rows, which are in ascending order, and their numbers as `row`."""
        start = 0
        for batch in _groups(self._file, columns):
            stop = start + batch.num_rows
            wanted = rows[bisect_left(rows, start) : bisect_left(rows, stop)]
            if wanted:
                numbers = pa.array(wanted, pa.uint32())
                yield batch.take(pc.subtract(numbers, start)).append_column("row", numbers)
            start = stop


def _close_quietly(writer: pq.ParquetWriter) -> None:
    with contextlib.suppress(*_FAULTS):
        writer.close()


def _order(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What rows are counted by: content, then length and text of the id, or a hash of the cells."""
    order = batch.column("id")
    if order.null_count:
        names = [name for name in batch.schema.names if name not in {"digest", "id", "row"}]
        cells = [texts(batch.column(name), batch.schema.field(name)) for name in names]
        marked = [pc.binary_join_element_wise("=", pc.fill_null(cell, MARK_ID), "") for cell in cells]
        order = hex_texts(hashes(pc.binary_join_element_wise(*marked, "\0")))
    return pa.RecordBatch.from_pydict(
        {
            "digest": batch.column("digest"),
            "length": pc.binary_length(order),
            "order": order,
            "row": batch.column("row"),
        }
    )


def _in_groups(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, Iterator[tuple[Any, ...]]]]:
    """Ordered rows by their first value."""
    return groupby(rows, itemgetter(0))
