"""
What does each row ask for: which cell means what, and is it usable?

A batch as it was read becomes a batch of the snapshot: our columns normalised under our names, the carried
ones as they were under a prefix that none of ours has.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError, nearest
from batchgen.manifest.problems import quoted
from batchgen.manifest.tables import JSON, UNDECODABLE, is_text, texts
from batchgen.manifest.template import Template
from batchgen.records import Params, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchgen.manifest.problems import Problems

COLUMNS: Final = (
    "id",
    "prompt",
    "variants",
    "system",
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "parent",
)
"""Ours. Every other column of a manifest is carried to the results; so is `parent`, to join them by."""
CARRIED: Final = "carried:"
DIGEST: Final = 16
"""Bytes of a content's hash."""
MARK_ID: Final = "\0i"
MARK_VARIANT: Final = "\0v"
"""Stand in a stored name for what is told per task; no cell can hold a nul character."""

_WHOLE: Final = r"^[0-9]{1,9}(\.0+)?$"
_REAL: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_BATCH_ROWS: Final = 8192
_BATCH_BYTES: Final = 8 << 20

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("digest", pa.binary(DIGEST)),
        ("variants", pa.int32()),
        ("name", pa.string()),
        ("model", pa.string()),
        ("system", pa.string()),
        ("prompt", pa.string()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_tokens", pa.int32()),
    ]
)


class Reading(Value, frozen=True, kw_only=True):
    """How a job tells us to read its manifest. Cells override what is said here."""

    model: str
    """Id sent where a row names none."""
    models: Mapping[str, str] | None = None
    """Lower-case alias or id → id as it is sent; None: any name is sent as it stands."""
    unknown: str = "unknown model"
    """What is said before a name that is not among `models`."""
    columns: Mapping[str, str] = {}
    """Our column → the file's."""
    template: str | None = None
    """Makes the prompt from columns: 'A studio photo of {product} on {background}'."""
    name: str | None = None
    """Makes the file name from columns, {id}, {variant} and {row}; None means '{id}'."""
    system: str | None = None
    params: Params = Params()
    variants: int = 1


class _Range(Value, frozen=True, kw_only=True):
    """Which numbers a column takes."""

    type: Any
    pattern: str
    low: float
    high: float
    words: str


_RANGES: Final = {
    "variants": _Range(
        type=pa.int32(), pattern=_WHOLE, low=1, high=10_000, words="a whole number from 1 to 10,000"
    ),
    "temperature": _Range(type=pa.float64(), pattern=_REAL, low=0, high=2, words="a number from 0 to 2"),
    "top_p": _Range(type=pa.float64(), pattern=_REAL, low=0, high=1, words="a number from 0 to 1"),
    "max_tokens": _Range(
        type=pa.int32(), pattern=_WHOLE, low=1, high=999_999_999, words="a whole number from 1 to 999,999,999"
    ),
}


class Rows:
    """Turns batches of one table into batches of its snapshot; what is wrong goes to `problems`."""

    def __init__(self, table: pa.Schema, reading: Reading, problems: Problems) -> None:
        self._table = table
        self._reading = reading
        self._problems = problems
        if "\0" in (reading.system or ""):
            problems.add("the system text has a nul character; remove it")
        self._ours = self._find_ours()
        self._template = self._parse(reading.template)
        self._name = self._parse(reading.name) or Template("{id}")
        self._cells = self._find_cells()
        unused = set(self._ours.values()) - {self.parent_column}
        self._carried = [name for name in table.names if name not in unused]
        for ours, name in self._ours.items():
            self._check_type(ours, table.field(name).type if table.names.count(name) == 1 else pa.null())

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the batches `normalise` gives."""
        carried = [self._table.field(name).remove_metadata() for name in self._carried]
        parent = [pa.field("parent", pa.string())] if self.parent_column is not None else []
        return pa.schema([*SCHEMA, *parent, *(field.with_name(CARRIED + field.name) for field in carried)])

    @property
    def id_column(self) -> str | None:
        """The file's name for the column of ids, if it has one."""
        return self._ours.get("id")

    @property
    def parent_column(self) -> str | None:
        """The file's name for the column of parents, if it has one."""
        return self._ours.get("parent")

    def normalise(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Check a batch and give it as the snapshot has it, in stretches of bounded size."""
        self._check_text(batch)
        added = len(self._reading.system or "") + len(self._reading.template or "")
        width = batch.nbytes // max(1, batch.num_rows) + added
        step = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (width + 1)))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            yield self._normalised(part)
            self._problems.start += part.num_rows

    def _normalised(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        variants = self._number(batch, "variants", self._reading.variants)
        params = self._reading.params
        content = {
            "model": self._models(batch),
            "system": self._default(
                self._text(batch, "system"), pa.scalar(self._reading.system, pa.string())
            ),
            "prompt": self._prompts(batch),
            "temperature": self._number(batch, "temperature", params.temperature),
            "top_p": self._number(batch, "top_p", params.top_p),
            "max_tokens": self._number(batch, "max_tokens", params.max_tokens),
        }
        ours = {
            "id": self._ids(batch),
            "digest": digests(content),
            "variants": variants,
            "name": self._names(batch, variants),
            **content,
        }
        columns = [_spread(ours[name], batch.num_rows) for name in SCHEMA.names]
        columns += [self._text(batch, "parent")] if self.parent_column is not None else []
        columns += [batch.column(name) for name in self._carried]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    # Which column is what

    def _match(self, wanted: str) -> str | None:
        """The column called `wanted`: exactly, or as the only one but for upper and lower case."""
        names = self._table.names
        if wanted in names:
            return wanted
        found = [name for name in names if name.casefold() == wanted.casefold()]
        if len(found) > 1:
            candidates = " and ".join(map(repr, found))
            self._problems.add(f"{wanted!r} may mean {candidates}; choose with --column {wanted}=…")
        return found[0] if found else None

    def _find_ours(self) -> dict[str, str]:
        mapping, found = self._reading.columns, {}
        for ours, theirs in mapping.items():
            if ours not in COLUMNS:
                self._problems.add(
                    f"--column {ours}={theirs}: no column of ours is called {ours!r}{nearest(ours, COLUMNS)}"
                )
            elif (name := self._match(theirs)) is not None:
                found[ours] = name
            else:
                hint = nearest(theirs, self._table.names)
                self._problems.add(f"--column {ours}={theirs}: the file has no column {theirs!r}{hint}")
        for ours in COLUMNS:
            if ours not in mapping and (name := self._match(ours)) is not None:
                found[ours] = name
        if "id" not in mapping and "id" not in found and (name := self._match("custom_id")) is not None:
            found["id"] = name
        if self._reading.template is None and "prompt" not in found and "prompt" not in mapping:
            names = ", ".join(quoted(name) for name in self._table.names[:20])
            hint = _other_separator(self._table.names) or nearest("prompt", self._table.names)
            self._problems.add(
                f"no column 'prompt'{hint}; the file has {names}; --column prompt=NAME names it"
            )
        if "parent" in found and "id" not in found:
            self._problems.add(
                "it names the rows that are continued by their ids, and there is no column 'id';"
                " --column id=NAME names it, and a column that means something else needs another name",
                column=found["parent"],
            )
        return found

    def _parse(self, text: str | None) -> Template | None:
        if text is None:
            return None
        try:
            return Template(text)
        except InputError as error:
            self._problems.add(str(error))
            return None

    def _find_cells(self) -> dict[str, str]:
        """Placeholder → the file's column, for both templates."""
        cells = {}
        for template, own in ((self._template, ()), (self._name, ("id", "variant", "row"))):
            for name in dict.fromkeys(template.names if template is not None else ()):
                found = None if name in own else self._match(name) or self._ours.get(name)
                if found is not None:
                    cells[name] = found
                elif name not in own:
                    hint = nearest(name, [*self._table.names, *own])
                    self._problems.add(f"the template uses {{{name}}} and the file has no such column{hint}")
        return cells

    def _check_type(self, ours: str, kind: pa.DataType) -> None:
        if is_text(kind) or pa.types.is_null(kind):
            return
        fits = ours in {"id", "parent"} and pa.types.is_integer(kind)
        if ours in _RANGES:
            fits = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if not fits:
            named = ours in {"id", "parent"}
            wanted = "text or whole numbers" if named else "numbers" if ours in _RANGES else "text"
            self._problems.add(f"expected {wanted}, and the column is {kind}", column=self._ours[ours])

    # What a cell says

    def _check_text(self, batch: pa.RecordBatch) -> None:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if not is_text(field.type) or not _may_have_nul(column):
                continue
            cells = texts(column, field.remove_metadata())
            nul = pc.match_substring(cells, "\0")
            if not pc.any(nul).as_py():
                continue
            undecodable = pc.match_substring(cells, UNDECODABLE)
            self._problems.add_where(
                undecodable, "bytes that are not UTF-8; save the file as UTF-8", field.name
            )
            self._problems.add_where(pc.and_not(nul, undecodable), "a nul character; remove it", field.name)

    def _text(self, batch: pa.RecordBatch, ours: str) -> pa.Array | pa.Scalar:
        """Our column as text, null where it is not given; one null for all where there is no such column."""
        if ours not in self._ours:
            return pa.scalar(None, pa.string())
        name = self._ours[ours]
        field = self._table.field(name)
        cells = texts(batch.column(name), field)
        if field.metadata == JSON and ours in {"prompt", "system", "model"}:
            other = pc.invert(pc.starts_with(batch.column(name), '"'))
            self._problems.add_where(other, lambda row: f"expected text, got {quoted(cells[row])}", name)
        return pc.if_else(_blank(cells), pa.scalar(None, pa.string()), cells)

    @staticmethod
    def _default(cells: pa.Array | pa.Scalar, value: pa.Scalar) -> pa.Array | pa.Scalar:
        if isinstance(cells, pa.Scalar):
            return value
        return pc.fill_null(cells, value) if value.is_valid else cells

    def _number(self, batch: pa.RecordBatch, ours: str, default: float | None) -> pa.Array | pa.Scalar:
        span = _RANGES[ours]
        if ours not in self._ours:
            return pa.scalar(default, span.type)
        cells = pc.utf8_trim_whitespace(self._text(batch, ours))
        good = pc.match_substring_regex(cells, span.pattern)
        read = pc.if_else(good, pc.replace_substring_regex(cells, r"^\+", ""), pa.scalar(None, pa.string()))
        if pa.types.is_integer(span.type):
            read = pc.replace_substring_regex(read, r"\..*", "")
        numbers = read.cast(span.type)
        fits = pc.and_(pc.greater_equal(numbers, span.low), pc.less_equal(numbers, span.high))
        bad = pc.and_(pc.is_valid(cells), pc.invert(pc.fill_null(fits, pa.scalar(value=False))))
        self._problems.add_where(
            bad, lambda row: f"expected {span.words}, got {quoted(cells[row])}", self._ours[ours]
        )
        return self._default(numbers, pa.scalar(default, span.type))

    def _ids(self, batch: pa.RecordBatch) -> pa.Array | pa.Scalar:
        cells = self._text(batch, "id")
        if "id" in self._ours:
            self._problems.add_where(pc.is_null(cells), "missing id; every row needs one", self._ours["id"])
        return cells

    def _models(self, batch: pa.RecordBatch) -> pa.Array | pa.Scalar:
        usual = pa.scalar(self._reading.model, pa.string())
        if "model" not in self._ours:
            return usual
        cells = self._text(batch, "model")
        known = self._reading.models
        coded = pc.utf8_trim_whitespace(cells).dictionary_encode()
        names = coded.dictionary.to_pylist()
        sent = names if known is None else [known.get(name.lower()) for name in names]
        models = pa.array(sent, pa.string()).take(coded.indices)
        unknown = pc.and_(pc.is_valid(cells), pc.is_null(models))
        self._problems.add_where(
            unknown,
            lambda row: (
                f"{self._reading.unknown} {quoted(cells[row])}{nearest(cells[row].as_py(), known or ())}"
            ),
            self._ours["model"],
        )
        return self._default(models, usual)

    def _prompts(self, batch: pa.RecordBatch) -> pa.Array:
        if self._template is None:
            cells = self._text(batch, "prompt")
            self._problems.add_where(pc.is_null(cells), "the prompt is empty", self._ours["prompt"])
            return pc.fill_null(cells, "")
        cells = self._render(self._template, batch, {})
        for name in dict.fromkeys(map(self._cells.__getitem__, self._template.names)):
            used = texts(batch.column(name), self._table.field(name))
            empty = pc.fill_null(_blank(used), pa.scalar(value=True))
            self._problems.add_where(empty, "the cell is empty, and the prompt template needs it", name)
        if not self._template.names:
            blank = _blank(cells)
            self._problems.add_where(blank, "the prompt template gives an empty prompt")
        return cells

    def _names(self, batch: pa.RecordBatch, variants: pa.Array | pa.Scalar) -> pa.Array:
        first = self._problems.start + 1
        own: dict[str, pa.Array | str] = {"id": MARK_ID, "variant": MARK_VARIANT}
        if "row" in self._name.names:
            own["row"] = pa.array(range(first, first + batch.num_rows)).cast(pa.string())
        names = self._render(self._name, batch, own)
        if "variant" in self._name.names:
            return names
        several = pc.greater(variants, 1)
        suffix = pc.if_else(several, f"-{MARK_VARIANT}", "")
        return pc.binary_join_element_wise(names, pc.fill_null(suffix, ""), "")

    def _render(self, template: Template, batch: pa.RecordBatch, own: dict[str, pa.Array | str]) -> pa.Array:
        cells = {
            name: own[name]
            if name in own
            else texts(batch.column(self._cells[name]), self._table.field(self._cells[name]))
            for name in template.names
        }
        return template.render(cells, batch.num_rows)


def digests(content: Mapping[str, pa.Array | pa.Scalar]) -> pa.Array:
    r"""
    BLAKE2b-128 of what each row sends; a scalar is what all rows send, and one column has no nulls.

    A contract with ledgers on disk: the hashed bytes are the UTF-8 of the `field=value` of all fields that
    are given, in the order model, system, prompt, temperature, top_p, max_tokens, joined by one nul
    character. Floats are written as Python's `repr` has them (`1.0`, `0.7`), whole numbers in digits. A
    field that is not given leaves nothing, so that fields which are added one day do not change the keys of
    rows without them.
    """
    lead = ""
    parts: list[pa.Array | str] = []
    for name, cells in content.items():
        if isinstance(cells, pa.Scalar):
            given = texts(pa.array([cells.as_py()], cells.type), pa.field(name, cells.type))[0].as_py()
            if given is not None and not parts:
                lead += f"{name}={given}\0"
            elif given is not None:
                parts.append(f"{name}={given}")
        elif parts or cells.null_count:
            told = texts(cells, pa.field(name, cells.type))
            parts.append(pc.binary_join_element_wise(f"{name}=", told, ""))
        else:
            lead += f"{name}="
            parts.append(texts(cells, pa.field(name, cells.type)))
    joined = pc.binary_join_element_wise(*parts, "\0", null_handling="skip") if parts[1:] else parts[0]
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(DIGEST), len(joined), [None, pa.py_buffer(hashes(joined, lead.encode()))]
    )


def hashes(cells: pa.Array, lead: bytes = b"") -> bytes:
    """BLAKE2b-128 of each text behind `lead`, laid end to end."""
    # A copy of a hash in the making takes half the time of a new one.
    copied, hashed = blake2b(lead, digest_size=DIGEST).copy, []
    for cell in cells.cast(pa.binary()).to_pylist():
        one = copied()
        one.update(cell)
        hashed.append(one.digest())
    return b"".join(hashed)


def _other_separator(names: list[str]) -> str:
    """A hint where the header reads like one cell of a table with another separator."""
    for sign, word in ((";", "semicolons"), ("\t", "tabs")):
        if any(sign in name for name in names):
            return f": its cells look separated by {word}; save it with commas, or with tabs as .tsv"
    return ""


def _spread(cells: pa.Array | pa.Scalar, rows: int) -> pa.Array:
    return cells if isinstance(cells, pa.Array) else pa.repeat(cells, rows)


def _may_have_nul(column: pa.Array) -> bool:
    """A quick look at all cells at once: where it finds one, or cannot look, each needs a closer one."""
    if not pa.types.is_string(column.type):
        return True
    _, offsets, data = column.buffers()
    if data is None or not len(column):
        return False
    places = memoryview(offsets).cast("i")
    start, stop = places[column.offset], places[column.offset + len(column)]
    return b"\0" in data.slice(start, stop - start).to_pybytes()


def _blank(cells: pa.Array) -> pa.Array:
    return pc.or_(pc.equal(cells, ""), pc.utf8_is_space(cells))


def hex_texts(hashed: bytes | memoryview) -> pa.Array:
    """Hashes that lie end to end, as hex."""
    data = pa.py_buffer(hashed.hex().encode())
    kind = pa.binary(2 * DIGEST)
    return pa.Array.from_buffers(kind, len(hashed) // DIGEST, [None, data]).cast(pa.string())
