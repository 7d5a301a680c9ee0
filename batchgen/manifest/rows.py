"""
What does each row ask for: which cell means what, and is it usable?

A batch as it was read becomes a batch of the snapshot: our columns normalised under our names, the carried
ones as they were under a prefix that none of ours has.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError, nearest
from batchgen.manifest import asked
from batchgen.manifest.cells import Cells, blank, or_default, spread
from batchgen.manifest.problems import quoted
from batchgen.manifest.tables import UNDECODABLE, is_text, texts
from batchgen.manifest.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batchgen.manifest.cells import Coded
    from batchgen.manifest.conversations import Conversation
    from batchgen.manifest.problems import Problems
    from batchgen.manifest.reading import Reading
    from batchgen.records import Reference

COLUMNS: Final = (
    *("id", "prompt", "variants", "system", "model", "temperature", "top_p", "max_tokens", "parent"),
    *asked.COLUMNS,
)
"""Ours. Every other column of a manifest is carried to the results; so is `parent`, to join them by."""
CARRIED: Final = "carried:"
DIGEST: Final = 16
"""Bytes of a content's hash."""
MARK_ID: Final = "\0i"
MARK_VARIANT: Final = "\0v"
"""Stand in a stored name for what is told per task; no cell can hold a nul character."""

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


class Rows:
    """Turns batches of one table into batches of its snapshot; what is wrong goes to `problems`."""

    def __init__(
        self, table: pa.Schema, reading: Reading, problems: Problems, look: Callable[[str], Reference]
    ) -> None:
        """:param look: what is in a file that a row brings along."""
        self._table = table
        self._reading = reading
        self._problems = problems
        if "\0" in (reading.system or ""):
            problems.add("the system text has a nul character; remove it")
        self._ours = self._find_ours()
        self._template = self._parse(reading.template)
        self._name = self._parse(reading.name) or Template("{id}")
        self._used = self._find_used()
        unused = set(self._ours.values()) - {self.parent_column}
        self._carried = [name for name in table.names if name not in unused]
        self._cells = Cells(table, self._ours, problems)
        self._asking = asked.Asking(self._cells, reading, problems, look)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the batches `normalise` gives."""
        carried = [self._table.field(name).remove_metadata() for name in self._carried]
        parent = [pa.field("parent", pa.string())] if self.parent_column is not None else []
        own = [*SCHEMA, *self._asking.fields, *parent]
        return pa.schema([*own, *(field.with_name(CARRIED + field.name) for field in carried)])

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
        added = len(self._reading.system or "") + len(self._reading.template or "") + self._asking.width
        width = batch.nbytes // max(1, batch.num_rows) + added
        step = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (width + 1)))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            yield self._normalised(part)
            self._problems.start += part.num_rows

    def _normalised(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        variants = self._cells.number(batch, "variants", self._reading.variants)
        params = self._reading.params
        models = self._models(batch)
        wanted = self._asking.of(batch, models)
        content = {
            "model": models,
            "system": self._systems(batch, wanted.said),
            "prompt": self._prompts(batch, wanted.said),
            "temperature": self._cells.number(batch, "temperature", params.temperature),
            "top_p": self._cells.number(batch, "top_p", params.top_p),
            "max_tokens": self._cells.number(batch, "max_tokens", params.max_tokens),
        }
        stored = {**content, **wanted.stored}
        parents = {"parent": self._cells.text(batch, "parent")} if self.parent_column is not None else {}
        self._asking.check({**stored, **parents}, wanted, models)
        ours = {
            "id": self._ids(batch),
            "digest": digests({**content, **wanted.hashed}),
            "variants": variants,
            "name": self._names(batch, variants),
            **stored,
        }
        names = [*SCHEMA.names, *(field.name for field in self._asking.fields)]
        columns = [spread(ours[name], batch.num_rows) for name in names]
        columns += parents.values()
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
        if self._reading.template is None and not {"prompt", "messages"} & {*found, *mapping}:
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

    def _find_used(self) -> dict[str, str]:
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

    def _ids(self, batch: pa.RecordBatch) -> pa.Array | pa.Scalar:
        cells = self._cells.text(batch, "id")
        if "id" in self._ours:
            self._problems.add_where(pc.is_null(cells), "missing id; every row needs one", self._ours["id"])
        return cells

    def _models(self, batch: pa.RecordBatch) -> pa.Array | pa.Scalar:
        usual = pa.scalar(self._reading.model, pa.string())
        if "model" not in self._ours:
            return usual
        cells = self._cells.text(batch, "model")
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
        return or_default(models, usual)

    def _systems(self, batch: pa.RecordBatch, said: Coded[Conversation] | None) -> pa.Array | pa.Scalar:
        cells = self._cells.text(batch, "system")
        filled = or_default(cells, pa.scalar(self._reading.system, pa.string()))
        if said is None:
            return filled
        own = pc.fill_null(said.column(lambda one: one.system, pa.bool_()), pa.scalar(value=False))
        self._problems.add_where(
            spread(pc.and_(own, pc.is_valid(cells)), batch.num_rows),
            "the messages bring a system prompt, too; leave one of the two out",
            self._ours.get("system"),
        )
        return pc.if_else(own, pa.scalar(None, pa.string()), filled)

    def _prompts(self, batch: pa.RecordBatch, said: Coded[Conversation] | None) -> pa.Array:
        """What the user says; the last of it where there are messages."""
        free = None if said is None else pc.is_valid(said.indices)
        if self._template is not None:
            cells = self._filled(self._template, batch, free)
        else:
            cells = self._plain(batch, free)
        if said is None:
            return cells
        return pc.coalesce(said.column(lambda one: one.prompt, pa.string()), pc.if_else(free, "", cells))

    def _plain(self, batch: pa.RecordBatch, free: pa.Array | None) -> pa.Array:
        """
        The cells of the column of prompts.

        :param free: which rows have messages, where there is a column of these.
        """
        cells = spread(self._cells.text(batch, "prompt"), batch.num_rows)
        column = self._ours.get("prompt")
        empty = pc.is_null(cells)
        if free is None:
            self._problems.add_where(empty, "the prompt is empty", column)
        else:
            neither, both = "neither a prompt nor messages", "both a prompt and messages"
            either = "; a row has one of the two"
            column = column or self._ours.get("messages")
            self._problems.add_where(pc.and_not(empty, free), neither + either, column)
            self._problems.add_where(pc.and_not(free, empty), both + either, column)
        return pc.fill_null(cells, "")

    def _filled(self, template: Template, batch: pa.RecordBatch, free: pa.Array | None) -> pa.Array:
        """The template's prompts; a row that has messages is free of it."""
        cells = self._render(template, batch, {})
        for name in dict.fromkeys(map(self._used.__getitem__, template.names)):
            used = texts(batch.column(name), self._table.field(name))
            empty = pc.fill_null(blank(used), pa.scalar(value=True))
            if free is not None:
                empty = pc.and_not(empty, free)
            self._problems.add_where(empty, "the cell is empty, and the prompt template needs it", name)
        if not template.names:
            self._problems.add_where(blank(cells), "the prompt template gives an empty prompt")
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
            else texts(batch.column(self._used[name]), self._table.field(self._used[name]))
            for name in template.names
        }
        return template.render(cells, batch.num_rows)


def digests(content: Mapping[str, pa.Array | pa.Scalar]) -> pa.Array:
    r"""
    BLAKE2b-128 of what each row sends; a scalar is what all rows send, and one column has no nulls.

    A contract with ledgers on disk: the hashed bytes are the UTF-8 of the `field=value` of all fields that
    are given, in the order model, system, prompt, temperature, top_p, max_tokens, messages, references,
    aspect_ratio, image_size, seed, stop, response_format, tools, tool_choice, extra, expect, joined by one
    nul character. Floats are written as Python's `repr` has them (`1.0`, `0.7`), whole numbers in digits,
    what has structure as JSON with sorted keys and no blanks. The references are the SHA-256 in hex of each
    file, or of a URL's text, with commas between; the prompt beside messages is what the user says last in
    them; what is expected is given where it is `text`. A field that is not given leaves nothing, so that
    fields which are added one day do not change the keys of rows without them.
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


def raw(digests: pa.Array) -> memoryview:
    """Hashes as they lie end to end."""
    start = digests.offset * DIGEST
    return memoryview(digests.buffers()[1])[start : start + len(digests) * DIGEST]


def hex_texts(hashed: bytes | memoryview) -> pa.Array:
    """Hashes that lie end to end, as hex."""
    data = pa.py_buffer(hashed.hex().encode())
    kind = pa.binary(2 * DIGEST)
    return pa.Array.from_buffers(kind, len(hashed) // DIGEST, [None, data]).cast(pa.string())
