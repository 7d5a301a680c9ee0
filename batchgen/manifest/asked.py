"""Which further things do rows ask for, and can they be had?"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError
from batchgen.manifest.attachments import Attachments
from batchgen.manifest.cells import or_default, spread
from batchgen.manifest.conversations import conversation
from batchgen.manifest.problems import quoted
from batchgen.manifest.structure import PARSERS, Written, asks_for_words, written
from batchgen.records import Expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batchgen.manifest.cells import Cells, Coded
    from batchgen.manifest.conversations import Conversation
    from batchgen.manifest.problems import Problems
    from batchgen.manifest.reading import Reading
    from batchgen.records import Model, Reference

    Column: TypeAlias = pa.Array | pa.Scalar

COLUMNS: Final = (
    "messages",
    "references",
    "aspect_ratio",
    "image_size",
    "seed",
    "stop",
    "response_format",
    "tools",
    "tool_choice",
    "extra",
    "expect",
)
"""In the order in which they are hashed."""
_SHAPES: Final = ("aspect_ratio", "image_size")


class Said(NamedTuple):
    """What a cell with structure says."""

    written: Written
    words: bool
    """Whether it asks for an answer in words."""


class Asked(NamedTuple):
    """What the rows of a batch ask for, by column; only columns that any row of the table may use."""

    stored: dict[str, Column]
    """As the snapshot has it. `expect` is null where it is a picture."""
    hashed: dict[str, Column]
    """As it makes a purchase another one."""
    said: Coded[Conversation] | None
    brought: Coded[tuple[Reference, ...]] | None


class Asking:
    """Reads what the rows of one table ask for beyond a prompt; what is wrong goes to `problems`."""

    def __init__(
        self, cells: Cells, reading: Reading, problems: Problems, look: Callable[[str], Reference]
    ) -> None:
        self._cells = cells
        self._reading = reading
        self._problems = problems
        self._attachments = Attachments(reading, look)
        self._models = {model.id: model for model in reading.provider.models}
        self._cannot = dict(reading.cannot)
        params = reading.params
        self._shapes = {name: getattr(params, name) for name in _SHAPES}
        stated = {name: getattr(params, name) for name in PARSERS}
        said = {name: _said(name, value) for name, value in stated.items() if value}
        self._usual = {name: value for name, value in said.items() if value is not None}
        usual = {**self._shapes, **self._usual, "seed": params.seed, "expect": reading.expect}
        used = [name for name in COLUMNS if name in cells.ours or usual.get(name) is not None]
        if {"response_format", "tools"} & {*used} and "expect" not in used:
            used.append("expect")
        self.fields = [pa.field(name, pa.int64() if name == "seed" else pa.string()) for name in used]
        """Of the snapshot, beside those it always has."""
        self.width = sum(len(usual.written.sent) for usual in self._usual.values())
        """Bytes a row that a job adds."""

    def of(self, batch: pa.RecordBatch, models: Column) -> Asked:
        """
        Read the columns of a batch.

        :param models: what each row is sent to.
        """
        asked = Asked({}, {}, self._said(batch), self._brought(batch))
        if asked.said is not None:
            asked.stored["messages"] = asked.said.column(lambda said: said.messages.sent, pa.string())
            asked.hashed["messages"] = asked.said.column(lambda said: said.messages.hashed, pa.string())
        if asked.brought is not None:
            asked.stored["references"] = asked.brought.column(_json, pa.string())
            asked.hashed["references"] = asked.brought.column(_hashes, pa.string())
        words: list[Column] = []
        for field in self.fields:
            if field.name in _SHAPES:
                asked.stored[field.name] = self._shape(batch, field.name, models)
            elif field.name == "seed":
                asked.stored["seed"] = self._cells.number(batch, "seed", self._reading.params.seed)
            elif field.name in PARSERS:
                self._structured(batch, field.name, asked, words)
            elif field.name == "expect":
                asked.stored["expect"] = self._expected(batch, words)
            asked.hashed.setdefault(field.name, asked.stored[field.name])
        return asked

    def check(self, content: Mapping[str, Column], asked: Asked, models: Column) -> None:
        """Note what the endpoint or the model would not take of rows that are otherwise fine."""
        for name in [*self._cannot]:
            self._check_place(name, content.get(name))
        if asked.said is None and asked.brought is None:
            return
        rows = len(asked.said.indices if asked.said is not None else asked.brought.indices)  # type: ignore[union-attr]
        self._check_pictures(asked, content.get("parent"), models, rows)
        self._check_bytes(content, asked, rows)

    def _said(self, batch: pa.RecordBatch) -> Coded[Conversation] | None:
        if "messages" not in self._cells.ours:
            return None
        urls = self._reading.provider.reference_urls
        return self._cells.read(batch, "messages", partial(conversation, urls=urls))

    def _brought(self, batch: pa.RecordBatch) -> Coded[tuple[Reference, ...]] | None:
        if "references" not in self._cells.ours:
            return None
        return self._cells.read(batch, "references", self._attachments.brought)

    def _structured(self, batch: pa.RecordBatch, ours: str, asked: Asked, words: list[Column]) -> None:
        usual = self._usual.get(ours)
        sent, hashed, talks = (
            (usual.written.sent, usual.written.hashed, usual.words) if usual is not None else (None,) * 3
        )
        columns = [pa.scalar(sent, pa.string()), pa.scalar(hashed, pa.string()), pa.scalar(talks, pa.bool_())]
        if ours in self._cells.ours:
            coded = self._cells.read(batch, ours, partial(_said, ours))
            found = (
                coded.column(lambda said: said.written.sent, pa.string()),
                coded.column(lambda said: said.written.hashed, pa.string()),
                coded.column(lambda said: said.words, pa.bool_()),
            )
            columns = [or_default(*pair) for pair in zip(found, columns, strict=True)]
        asked.stored[ours], asked.hashed[ours], said = columns
        words.append(said)

    def _expected(self, batch: pa.RecordBatch, words: list[Column]) -> Column:
        """'text' where words are enough, null where it takes a picture."""
        usual = self._reading.expect
        stated: Column = pa.scalar(None if usual is None else str(usual), pa.string())
        if "expect" in self._cells.ours:
            coded = self._cells.read(batch, "expect", _expect)
            stated = or_default(coded.column(str, pa.string()), stated)
        talks: Column = pa.scalar(value=False)
        for column in words:
            talks = pc.or_(talks, pc.fill_null(column, pa.scalar(value=False)))
        enough = pc.coalesce(pc.equal(stated, str(Expect.TEXT)), talks)
        return pc.if_else(enough, str(Expect.TEXT), pa.scalar(None, pa.string()))

    def _shape(self, batch: pa.RecordBatch, ours: str, models: Column) -> Column:
        usual = self._shapes[ours]
        shapes: Column = pa.scalar(None if usual is None else shape(ours, usual), pa.string())
        if ours in self._cells.ours:
            shapes = or_default(
                self._cells.read(batch, ours, partial(shape, ours)).column(str, pa.string()), shapes
            )
        if isinstance(shapes, pa.Scalar) and isinstance(models, pa.Scalar):
            return shapes  # the job's own, for its own model
        cells = spread(shapes, batch.num_rows)
        column = self._cells.ours.get(ours) or self._cells.ours.get("model")
        for model, rows in self._each(models, batch.num_rows):
            for value in pc.unique(cells.filter(rows)).drop_null().to_pylist():
                why = unfit(model, ours, value)
                if why is not None:
                    self._problems.add_where(pc.and_(rows, pc.equal(cells, value)), why, column)
        return shapes

    def _each(self, models: Column, rows: int) -> Iterable[tuple[Model, pa.Array]]:
        """The models of a batch of which something is known, and the rows of each."""
        names = spread(models, rows)
        for name in pc.unique(names).to_pylist():
            if name in self._models:
                yield self._models[name], pc.equal(names, name)

    def _check_place(self, ours: str, cells: Column | None) -> None:
        """Note the first row with something that the wire format has no place for."""
        if not isinstance(cells, pa.Array) or cells.null_count == len(cells):
            return
        index = pc.index(pc.is_valid(cells), value=True).as_py()
        self._problems.add(
            self._cannot.pop(ours),
            row=self._problems.row(self._problems.start + index),
            column=self._cells.ours.get(ours),
        )

    def _check_pictures(self, asked: Asked, parents: Column | None, models: Column, rows: int) -> None:
        # A row that continues another brings that one's picture along.
        counts = pa.scalar(0, pa.int64()) if parents is None else pc.is_valid(parents).cast(pa.int64())
        column = self._cells.ours.get("references") or self._cells.ours["messages"]
        if asked.brought is not None:
            counts = pc.add(counts, pc.fill_null(asked.brought.column(len, pa.int64()), 0))
        if asked.said is not None:
            if asked.brought is not None or parents is not None:
                shut = asked.said.column(lambda said: not said.open, pa.bool_())
                self._problems.add_where(
                    pc.and_(shut, pc.greater(counts, 0)),
                    "pictures go along with what the user says, and the last message is of a tool",
                    column,
                )
            counts = pc.add(
                counts, pc.fill_null(asked.said.column(lambda said: said.pictures, pa.int64()), 0)
            )
            self._check_largest(asked.said)
        for model, theirs in self._each(models, rows):
            most = model.max_references
            if most is not None:
                self._problems.add_where(
                    pc.and_(theirs, pc.greater(counts, most)),
                    f"more than the {most} pictures that {model.id} takes; bring fewer",
                    column,
                )

    def _check_largest(self, said: Coded[Conversation]) -> None:
        provider = self._reading.provider
        if provider.max_reference_bytes is not None:
            sizes = said.column(lambda one: one.largest, pa.int64())
            self._problems.add_where(
                pc.greater(sizes, provider.max_reference_bytes),
                f"a picture has more than the {provider.max_reference_bytes:,} bytes that {provider.title}"
                " takes; make it smaller",
                self._cells.ours["messages"],
            )

    def _check_bytes(self, content: Mapping[str, Column], asked: Asked, rows: int) -> None:
        """Pictures travel as base64; beside them, and the words, a request has next to nothing."""
        most = self._reading.provider.max_request_bytes
        if most is None:
            return
        sizes: Column = pa.scalar(0, pa.int64())
        if asked.brought is not None:
            sizes = pc.fill_null(asked.brought.column(_base64_bytes, pa.int64()), 0)
        words = [name for name in ("system", "tools", "response_format", "extra") if name in content]
        told = [content[name] for name in words]
        told.append(pc.coalesce(asked.stored.get("messages", content["prompt"]), content["prompt"]))
        for cells in told:
            lengths = pc.fill_null(pc.binary_length(cells), 0)
            sizes = pc.add(sizes, lengths.cast(pa.int64()))
        sizes = spread(sizes, rows)
        title = self._reading.provider.title
        self._problems.add_where(
            pc.greater(sizes, most),
            lambda row: (
                f"a request of {sizes[row].as_py():,} bytes with its pictures, and {title} takes {most:,};"
                " bring fewer or smaller ones"
            ),
            self._cells.ours.get("references") or self._cells.ours["messages"],
        )


def shape(ours: str, value: object) -> str:
    """
    How an aspect ratio or a picture size is written.

    :raises InputError: the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        such = "16:9" if ours == "aspect_ratio" else "2K"
        raise InputError(f"expected a text such as {such}, got {quoted(value)}")
    return re.sub(r"^(\d+)k$", r"\1K", str(value).strip())


def unfit(model: Model, ours: str, value: str) -> str | None:
    """Why a model does not take an aspect ratio or a picture size, as far as it is known; None if it does."""
    if ours == "aspect_ratio":
        known: tuple[str, ...] | None = model.aspect_ratios or None
    else:
        known = model.image_sizes
    if known is None or value in known:
        return None
    if not known:
        return f"{model.id} has one size only; leave it out"
    return f"{model.id} takes {', '.join(known)}, got {quoted(value)}"


def _expect(value: object) -> Expect:
    try:
        return Expect(str(value).strip().lower())
    except ValueError:
        raise InputError(f"expected image or text, got {quoted(value)}") from None


def _said(ours: str, value: object) -> Said | None:
    """What a cell says; what a job says comes checked."""
    meant = PARSERS[ours](list(value) if isinstance(value, tuple) else value)
    return None if meant is None else Said(written(meant), asks_for_words(ours, meant))


def _json(references: tuple[Reference, ...]) -> str:
    return msgspec.json.encode(references).decode()


def _hashes(references: tuple[Reference, ...]) -> str:
    return ",".join(reference.sha256 for reference in references)


def _base64_bytes(references: tuple[Reference, ...]) -> int:
    return sum(4 * -(-reference.bytes // 3) for reference in references)
