"""
How is a file read as Arrow batches, and what is wrong with it as a file?

CSV and TSV give strings only. JSONL columns keep their type where one holds for all rows; a column of mixed
types is JSON text and says so in its field's metadata. Parquet columns are what they are. All text is valid
UTF-8; bytes that are not are replaced by `UNDECODABLE`, which starts with a nul character, and no cell may
have one of those.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import threading
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from batchgen.errors import InputError, nearest
from batchgen.manifest.problems import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchgen.manifest.problems import Problems

KINDS: Final[Mapping[str, str]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
UNDECODABLE: Final = "\0\N{REPLACEMENT CHARACTER}"
JSON: Final = {b"batchgen": b"json"}
"""Metadata of a column whose cells are JSON texts."""

_BLOCK: Final = 5 << 18
"""Bytes of a CSV read at a time at most: no row may be longer."""
_USUAL_BLOCK: Final = 1 << 18
"""Read at a time as long as rows are shorter; memory is some twenty times as much."""
_LONGEST: Final = 16 << 20
"""Bytes of a line of JSON."""
_BATCH_ROWS: Final = 8192
_MOST_COLUMNS: Final = 2000
_END: Final = "\0\0\0"
"""The line put behind a CSV. It reads as a row of its own unless a quote was left open."""
_UNREADABLE: Final = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The columns of a file, and its rows, which can be gone through once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def kind_of(source: str) -> tuple[str, bool]:
    """The format a name stands for, and whether it is compressed. `InputError` if the name tells nothing."""
    if source == "-":
        return "csv", False
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    zipped = suffixes[-1:] == [".gz"]
    if zipped:
        suffixes.pop()
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None or (zipped and kind == "parquet"):
        known = ", ".join(KINDS)
        raise InputError(
            f"{source}: no format has this extension; known are {known}, and .gz behind a text format"
        )
    return kind, zipped


def open_bytes(source: str) -> BinaryIO:
    """Open a file, or raise an `InputError` that says why it cannot be."""
    path = Path(source)
    try:
        if path.is_dir():
            raise InputError(f"{source}: this is a directory; name the table in it")
        return path.open("rb")
    except FileNotFoundError:
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{source}: no such file{nearest(path.name, siblings)}") from None
    except PermissionError:
        raise InputError(f"{source}: permission denied; make it readable for this user") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be opened: {error}") from None


@contextmanager
def opened(source: str, stdin: BinaryIO | None, problems: Problems) -> Iterator[Table]:
    """Open a table of any kind. What is wrong goes to `problems`; what prevents reading, raises."""
    kind, zipped = kind_of(source)
    with ExitStack() as stack:
        if source == "-":
            if stdin is None:
                raise InputError("-: there is no standard input to read the table from")
            stream = stdin
        else:
            stream = stack.enter_context(open_bytes(source))
            if zipped:
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))  # type: ignore[assignment]
        try:
            if kind == "parquet":
                table = _parquet(source, problems)
            elif kind == "jsonl":
                table = _jsonl(stream, problems)
            else:
                quoted = kind == "csv" or not _bare_quotes(stream)
                utf8 = _Utf8(stream, problems)
                stack.callback(utf8.stop)
                table = _csv(utf8, "\t" if kind == "tsv" else ",", problems, quoted=quoted)
        except _UNREADABLE as error:
            problems.add(_reason(error))
            problems.fail()
        _check_names(table.schema.names, problems)
        yield table


def _check_names(names: list[str], problems: Problems) -> None:
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.add("two columns have this name; rename one", column=name)


def _reason(error: BaseException) -> str:
    """What an exception of a reader means to the owner of the file."""
    text = str(error).partition("\n")[0]
    if isinstance(error, gzip.BadGzipFile):
        return "not a gzip file, or a damaged one; a file that is not compressed must not end in .gz"
    if isinstance(error, EOFError | zlib.error):
        return "the gzip file is cut off or damaged; copy it again"
    if "straddling object" in text:
        return f"a row of more than {_BLOCK >> 20} MB starts here, or a quote that is never closed"
    if "cannot infer number of columns" in text:
        return "a quote that opens in the first line, which names the columns, is never closed"
    if "magic bytes" in text or "Parquet file size" in text:
        return "not a Parquet file, or one that was not written to its end"
    return f"cannot be read: {text}"


class _Utf8:
    """
    A stream of bytes as valid UTF-8, with a last line put behind it.

    Arrow reads 32 blocks ahead if it is let; here each block needs a permit, and each batch of rows gives
    one back. Blocks and batches match one to one, but Arrow does not promise it, so nobody waits for a
    permit for ever.
    """

    closed = False

    def __init__(self, stream: BinaryIO, problems: Problems) -> None:
        self._stream = stream
        self._head = stream.read(4)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ended = False
        self._quoted = False
        self._reading = threading.Lock()
        self.permits = threading.Semaphore(3)
        if self._head[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            problems.add("the file is UTF-16; save it as UTF-8")
            problems.fail()

    def read(self, size: int) -> bytes:
        self.permits.acquire(timeout=0.2)
        with self._reading:
            return self._read(size)

    def stop(self) -> None:
        """Give nothing more, so that the stream below can be closed."""
        with self._reading:
            self._ended = True
        self.permits.release()

    def _read(self, size: int) -> bytes:
        if self._ended:
            return b""
        data = self._head
        self._head = b""
        for enough in (*range(_USUAL_BLOCK, size, _USUAL_BLOCK), size):
            while len(data) < enough and (more := self._stream.read(enough - len(data))):
                data += more
            self._ended = len(data) < enough
            if self._ended or self._has_end_of_row(data):
                break
        self._quoted ^= data.count(b'"') % 2 == 1
        text = self._decoder.decode(data, self._ended)
        try:
            valid = text.encode()
        except UnicodeEncodeError:
            valid = re.sub("[\udc80-\udcff]", UNDECODABLE, text).encode()
        return valid + f"\n{_END}\n".encode() if self._ended else valid

    def _has_end_of_row(self, data: bytes) -> bool:
        """Whether a row ends in a block: Arrow reads a row that lies across two, and none across three."""
        last = data.rfind(b"\n")
        return last >= 0 and (data.count(b'"', 0, last) % 2 == 1) is self._quoted

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _bare_quotes(stream: BinaryIO) -> bool:
    """
    Tell whether the quotes in a TSV are its cells' own: one ends, and its cell goes on.

    A TSV proper knows no quoting (IANA, text/tab-separated-values); spreadsheets quote all the same.
    """
    found = False
    while not found and (lines := stream.readlines(_BLOCK)):
        found = _BARE_QUOTE.search(b"".join(lines)) is not None
    stream.seek(0)
    return found


def _csv(stream: _Utf8, delimiter: str, problems: Problems, *, quoted: bool) -> Table:
    ragged: list[tuple[int, str]] = []

    def unfit(row: pyarrow.csv.InvalidRow) -> str:
        if row.text != _END:
            message = (
                f"{row.actual_columns} cells where the header has {row.expected_columns}; is a quote missing?"
            )
            ragged.append((row.number - 1, _UNCLOSED if row.text.endswith(_END) else message))
        return "skip"

    reader = pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=_BLOCK, autogenerate_column_names=True
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=unfit,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            check_utf8=False, strings_can_be_null=False, default_column_type=pa.string()
        ),
    )
    first = reader.read_next_batch()
    names = [column[0].as_py() for column in first.columns]
    if names == [_END]:
        problems.add("the file is empty; the first line names the columns")
        problems.fail()
    for name in names:
        if "\0" in name:
            problems.add(f"the header has {_fault(name)}; save the file as UTF-8 text")
            problems.fail()
    schema = pa.schema([(name, pa.string()) for name in names])
    return Table(
        schema=schema,
        batches=_csv_rows(chain([first.slice(1)], _pulled(reader, stream)), schema, ragged, problems),
    )


_BARE_QUOTE: Final = re.compile(rb'(?:^|[\t\n])"(?!")(?:[^"\t\n]|"")*"[^"\t\r\n]')
_UNCLOSED: Final = "a quote that opens in this row is never closed"


def _fault(text: str) -> str:
    return "bytes that are not UTF-8" if UNDECODABLE in text else "a nul character"


def _pulled(reader: Iterator[pa.RecordBatch], stream: _Utf8) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        yield batch
        stream.permits.release()


def _csv_rows(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, ragged: list[tuple[int, str]], problems: Problems
) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        for read in batches:
            batch = read
            for row, message in ragged:
                problems.skip(row)
                problems.add(message, row=row)
            ragged.clear()
            if batch.num_rows:
                last = batch.columns[-1][-1].as_py()
                if last.endswith(f"{_END}\n"):
                    problems.add(_UNCLOSED, row=problems.row(rows + batch.num_rows - 1))
                if last == _END or last.endswith(f"{_END}\n"):
                    batch = batch.slice(0, batch.num_rows - 1)
            rows += batch.num_rows
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
    except _UNREADABLE as error:
        problems.add(_reason(error), row=problems.row(rows))


_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their number. A longer line than is allowed comes cut."""
    number = 0
    while line := stream.readline(_LONGEST + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line


def _object(line: bytes) -> dict[str, Any] | str:
    """The object a line holds, or what is wrong with it."""
    if len(line) > _LONGEST:
        return f"a line of more than {_LONGEST >> 20} MB"
    try:
        return _OBJECT.decode(line)
    except UnicodeDecodeError:
        why = "bytes that are not UTF-8; save the file as UTF-8"
    except RecursionError:
        why = "the JSON is nested too deep"
    except msgspec.ValidationError as error:
        why = f"expected one JSON object a line: {error}"
    except msgspec.DecodeError as error:
        why = f"this line is not JSON: {error}"
        if re.search(rb"\\u[dD][89a-fA-F]", line):
            why = "half of a surrogate pair (\\ud800 to \\udfff) is not text; write the whole character"
    return why


def _jsonl(stream: BinaryIO, problems: Problems) -> Table:
    head = stream.read(2)
    if head in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        problems.add("the file is UTF-16; save it as UTF-8")
        problems.fail()
    if not head:
        problems.add("the file is empty; expected one JSON object a line")
        problems.fail()
    stream.seek(0)
    seen: dict[tuple[str, type], None] = {}
    good = last = 0
    for number, line in _lines(stream):
        value = _object(line)
        if isinstance(value, str):
            problems.add(value, row=number)
            if len(line) > _LONGEST:
                break
            continue
        good, last = good + 1, number
        seen.update(dict.fromkeys(zip(value, map(type, value.values()), strict=True)))
        if len(seen) > _MOST_COLUMNS:
            problems.add(f"more than {_MOST_COLUMNS} different keys up to here", row=number)
            break
    if problems or not good:
        if not problems:
            problems.add("no line holds an object")
        problems.fail()
    stream.seek(0)
    schema = _settle(seen)
    return Table(schema=schema, batches=_jsonl_rows(stream, last, schema, problems))


_JSON_TYPES: Final = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _settle(seen: Iterable[tuple[str, type]]) -> pa.Schema:
    """One Arrow type for each key: its own if all values share one, otherwise JSON text."""
    kinds: dict[str, set[type]] = {}
    for name, kind in seen:
        kinds.setdefault(name, set()).add(kind)
    fields = []
    for name, found in kinds.items():
        found.discard(type(None))
        sole = _JSON_TYPES.get(next(iter(found))) if len(found) == 1 else None
        if not found:
            sole = pa.null()
        fields.append(pa.field(name, sole or pa.string(), metadata=None if sole else JSON))
    return pa.schema(fields)


def _jsonl_rows(
    stream: BinaryIO, last: int, schema: pa.Schema, problems: Problems
) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    size = number = 0
    try:
        for expected, line in _lines(stream):
            if expected > last:
                break
            for blank in range(number + 1, expected):
                problems.skip(blank)
            number = expected
            rows.append(_OBJECT.decode(line))
            size += len(line)
            if len(rows) == _BATCH_ROWS or size > _BLOCK:
                yield _columns(rows, schema)
                rows, size = [], 0
        if rows:
            yield _columns(rows, schema)
    except OverflowError:
        problems.add("a whole number beyond 64 bits at or before this row; put it in quotes", row=number)
    except (*_UNREADABLE, msgspec.DecodeError) as error:
        problems.add(f"the file changed while it was read: {error}", row=number)


def _columns(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        values: list[Any] = [row.get(field.name) for row in rows]
        if field.metadata == JSON:
            values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
        arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parquet(source: str, problems: Problems) -> Table:
    file = pq.ParquetFile(source, pre_buffer=False)
    schema = file.schema_arrow.remove_metadata()
    return Table(schema=schema, batches=_parquet_rows(file, schema, problems))


def _parquet_rows(file: pq.ParquetFile, schema: pa.Schema, problems: Problems) -> Iterator[pa.RecordBatch]:
    rows = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                columns = [_valid(column) for column in batch.columns]
                rows += batch.num_rows
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        except _UNREADABLE as error:
            problems.add(_reason(error), row=rows + 1)


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _valid(column: pa.Array) -> pa.Array:
    """The column itself, or a copy in which bytes that are no text are marked."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        if not is_text(column.type) or pa.types.is_dictionary(column.type):
            raise
    else:
        return column
    texts: list[str | None] = []
    for cell in column.cast(pa.binary()).to_pylist():
        try:
            texts.append(None if cell is None else cell.decode())
        except UnicodeDecodeError:
            texts.append(UNDECODABLE)
    return pa.array(texts, column.type)


def texts(column: pa.Array, field: pa.Field) -> pa.Array:
    """Every cell as text, the way Python's `str` has it; text inside JSON is taken out of it."""
    if field.metadata == JSON:
        return pa.array([_plain(cell) for cell in column.to_pylist()], pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        # Arrow finds the shortest digits but writes 1.0 as 1.
        shortest = column.cast(pa.string()).to_pylist()
        return pa.array([None if cell is None else repr(float(cell)) for cell in shortest], pa.string())
    try:
        return column.cast(pa.string())
    except pa.ArrowNotImplementedError:
        return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()], pa.string())


def _plain(cell: str | None) -> str | None:
    return msgspec.json.decode(cell, type=str) if cell is not None and cell.startswith('"') else cell


def read_ids(path: str, problems: Problems) -> Iterator[pa.Array]:
    """The id column of a table as text, in batches."""
    with opened(path, None, problems) as table:
        problems.stop()
        names = table.schema.names
        found = [name for wanted in ("id", "custom_id") for name in names if name.casefold() == wanted]
        name = found[0] if found else names[0]
        if not found and len(names) != 1:
            problems.add(
                f"no column 'id'{nearest('id', names)}; the file has {', '.join(map(quoted, names))}"
            )
            problems.fail()
        index = names.index(name)
        for batch in table.batches:
            yield texts(batch.column(index), table.schema.field(index))
        problems.stop()


def read_lines(path: str) -> Iterator[str]:
    """The lines of a UTF-8 text file."""
    with io.TextIOWrapper(open_bytes(path), "utf-8-sig") as lines:
        try:
            yield from lines
        except UnicodeDecodeError:
            raise InputError(f"{path}: bytes that are not UTF-8; save the file as UTF-8") from None
