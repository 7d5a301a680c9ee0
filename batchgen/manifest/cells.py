"""What do the cells of a column of ours say: text, a number, or something with structure?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError
from batchgen.manifest.problems import quoted
from batchgen.manifest.structure import decoded
from batchgen.manifest.tables import JSON, is_text, texts
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.manifest.problems import Problems

T = TypeVar("T")

_WHOLE: Final = r"^[0-9]{1,9}(\.0+)?$"
_REAL: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_NAMES: Final = {"id", "parent", "image_size"}
"""Columns whose cells may look like whole numbers, and are texts."""
_WORDS: Final = {"prompt", "system", "model"}
"""Columns whose cells are text and no number or table."""
_STRUCTURED: Final = {
    "references",
    "messages",
    "stop",
    "response_format",
    "tools",
    "tool_choice",
    "extra",
}
"""Columns whose cells are text, or lists and tables where a format has these."""


class _Range(Value, frozen=True, kw_only=True):
    """Which numbers a column takes."""

    type: Any
    pattern: str
    low: float
    high: float
    words: str


RANGES: Final = {
    "variants": _Range(
        type=pa.int32(), pattern=_WHOLE, low=1, high=10_000, words="a whole number from 1 to 10,000"
    ),
    "temperature": _Range(type=pa.float64(), pattern=_REAL, low=0, high=2, words="a number from 0 to 2"),
    "top_p": _Range(type=pa.float64(), pattern=_REAL, low=0, high=1, words="a number from 0 to 1"),
    "max_tokens": _Range(
        type=pa.int32(), pattern=_WHOLE, low=1, high=999_999_999, words="a whole number from 1 to 999,999,999"
    ),
    "seed": _Range(
        type=pa.int64(),
        pattern=r"^[0-9]{1,10}(\.0+)?$",
        low=0,
        high=2**31 - 1,
        words="a whole number from 0 to 2,147,483,647",
    ),
}


@dataclass(frozen=True, slots=True)
class Coded(Generic[T]):
    """What each row of a batch says, each thing that is said once."""

    values: list[T | None]
    indices: pa.Array
    """Of the rows into `values`; null where nothing is given."""

    def column(self, told: Callable[[T], Any], kind: pa.DataType) -> pa.Array:
        """One value a row: what `told` makes of what it says."""
        values = [None if value is None else told(value) for value in self.values]
        return pa.array(values, kind).take(self.indices)


class Cells:
    """Reads our columns of one table, wherever they are; what is wrong in them goes to `problems`."""

    def __init__(self, table: pa.Schema, ours: Mapping[str, str], problems: Problems) -> None:
        """:param ours: our column → the file's."""
        self._table = table
        self._problems = problems
        self.ours = ours
        for name, theirs in ours.items():
            self._check_type(name, table.field(theirs).type if table.names.count(theirs) == 1 else pa.null())

    def _check_type(self, ours: str, kind: pa.DataType) -> None:
        if is_text(kind) or pa.types.is_null(kind):
            return
        fits = ours in _NAMES and pa.types.is_integer(kind)
        wanted = "text or whole numbers" if ours in _NAMES else "text"
        if ours in RANGES:
            fits = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            wanted = "numbers"
        elif ours in _STRUCTURED:
            fits, wanted = is_nested(kind) and _is_plain(kind), "text, lists or structs"
        if not fits:
            self._problems.add(f"expected {wanted}, and the column is {kind}", column=self.ours[ours])

    def text(self, batch: pa.RecordBatch, ours: str) -> pa.Array | pa.Scalar:
        """Our column as text, null where it is not given; one null for all where there is no such column."""
        if ours not in self.ours:
            return pa.scalar(None, pa.string())
        name = self.ours[ours]
        field = self._table.field(name)
        cells = texts(batch.column(name), field)
        if field.metadata == JSON and ours in _WORDS:
            other = pc.invert(pc.starts_with(batch.column(name), '"'))
            self._problems.add_where(other, lambda row: f"expected text, got {quoted(cells[row])}", name)
        return pc.if_else(blank(cells), pa.scalar(None, pa.string()), cells)

    def number(self, batch: pa.RecordBatch, ours: str, default: float | None) -> pa.Array | pa.Scalar:
        """Our column as numbers, `default` where it is not given."""
        span = RANGES[ours]
        if ours not in self.ours:
            return pa.scalar(default, span.type)
        cells = pc.utf8_trim_whitespace(self.text(batch, ours))
        good = pc.match_substring_regex(cells, span.pattern)
        read = pc.if_else(good, pc.replace_substring_regex(cells, r"^\+", ""), pa.scalar(None, pa.string()))
        if pa.types.is_integer(span.type):
            read = pc.replace_substring_regex(read, r"\..*", "")
        numbers = read.cast(span.type)
        fits = pc.and_(pc.greater_equal(numbers, span.low), pc.less_equal(numbers, span.high))
        bad = pc.and_(pc.is_valid(cells), pc.invert(pc.fill_null(fits, pa.scalar(value=False))))
        self._problems.add_where(
            bad, lambda row: f"expected {span.words}, got {quoted(cells[row])}", self.ours[ours]
        )
        return or_default(numbers, pa.scalar(default, span.type))

    def read(self, batch: pa.RecordBatch, ours: str, parse: Callable[[Any], T | None]) -> Coded[T]:
        """
        Our column as what `parse` makes of its cells, each different cell parsed once.

        :param parse: takes a cell's text, or the list or table that it is; raises an `InputError`.
        """
        written, whole = self._written(batch, ours)
        coded = written.dictionary_encode()
        values: list[T | None] = []
        faults: dict[int, str] = {}
        for index, cell in enumerate(coded.dictionary.to_pylist()):
            value = None
            try:
                value = parse(decoded(cell) if whole else cell)
            except InputError as error:
                faults[index] = str(error)
            values.append(value)
        if faults:
            bad = pc.is_in(coded.indices, value_set=pa.array([*faults], coded.indices.type))
            self._problems.add_where(bad, lambda row: faults[coded.indices[row].as_py()], self.ours[ours])
        return Coded(values, coded.indices)

    def _written(self, batch: pa.RecordBatch, ours: str) -> tuple[pa.Array, bool]:
        """A column as text, null where a cell is blank, and whether all of it is JSON."""
        name = self.ours[ours]
        field = self._table.field(name)
        column = batch.column(name)
        if is_nested(field.type):
            told = [None if cell is None else json.dumps(_given(cell)) for cell in column.to_pylist()]
            return pa.array(told, pa.string()), True
        cells = column if field.metadata == JSON else texts(column, field)
        empty = pc.match_substring_regex(cells, r'^"\s*"$') if field.metadata == JSON else blank(cells)
        return pc.if_else(empty, pa.scalar(None, pa.string()), cells), field.metadata == JSON


def or_default(cells: pa.Array | pa.Scalar, value: pa.Scalar) -> pa.Array | pa.Scalar:
    """Cells with a value where none is given; that value alone where there is no column."""
    if isinstance(cells, pa.Scalar):
        return value
    return pc.fill_null(cells, value) if value.is_valid else cells


def spread(cells: pa.Array | pa.Scalar, rows: int) -> pa.Array:
    """One value a row."""
    return cells if isinstance(cells, pa.Array) else pa.repeat(cells, rows)


def blank(cells: pa.Array) -> pa.Array:
    """Which texts have nothing in them."""
    return pc.or_(pc.equal(cells, ""), pc.utf8_is_space(cells))


def is_nested(kind: pa.DataType) -> bool:
    """Whether cells of this type are lists or tables."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether JSON can say all that is in cells of this type."""
    if is_nested(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(numbers or is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _given(value: Any) -> Any:  # noqa: ANN401  whatever a cell holds
    """A nested cell without the fields of structs that it leaves empty."""
    if isinstance(value, dict):
        return {name: _given(inner) for name, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list) else value
