"""How is an export a table alone, for a shop or a spreadsheet?"""

from __future__ import annotations

import base64
import csv
import io
import os
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from batchgen.address import is_url
from batchgen.export.format import Traits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    import pyarrow as pa

    from batchgen.export.pictures import Pictures

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""
How a text begins that a spreadsheet takes for a formula; it gets a `'` in front.

https://owasp.org/www-community/attacks/CSV_Injection
"""

_PATHS = ("file_name", "near_duplicate_of")
"""Columns with files of the run directory: one says which row of the other it means."""


class Row(NamedTuple):
    """A row as JSON, and what names it."""

    id: str
    variant: int
    prompt: str
    json: bytes


def objects(batch: pa.RecordBatch) -> list[Row]:
    """Rows as JSON objects: money as exact text, times in ISO 8601, bytes in base64."""
    return [
        Row(row["id"], row["variant"], row["prompt"] or "", msgspec.json.encode(_said(row)))
        for row in batch.to_pylist()
    ]


def _said(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{cell:f}" if isinstance(cell, Decimal) else cell for name, cell in row.items()}


class _Table:
    """What both tables share."""

    name = ""

    def __init__(self, place: str, out: Path, *, absolute: bool) -> None:
        """
        Begin with nothing.

        :param place: the run directory, or the URL below which pictures are: that is always absolute.
        :param absolute: name pictures by absolute paths, not as seen from the table.
        """
        base = place if is_url(place) else str(Path(place).resolve())
        self._base = base if absolute or is_url(place) else os.path.relpath(base, out.resolve())
        self.traits = Traits(name=self.name, settings=self._base, pictures=False)

    def file(self, *_: int) -> str:
        """Name the table."""
        return f"results.{self.name}"

    def beside(self, *_: object) -> Sequence[bytes]:
        """Nothing else belongs to it."""
        return ()

    def _located(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = batch.to_pylist()
        for row in rows:
            for name in _PATHS:
                if row.get(name) is not None:
                    row[name] = f"{self._base}/{row[name]}"
        return rows


class Csv(_Table):
    """One CSV."""

    name = "csv"

    def write(self, rows: Iterator[pa.RecordBatch], schema: pa.Schema, _: Pictures, sink: BinaryIO) -> int:
        """Write the table; how many rows it has."""
        text = io.TextIOWrapper(sink, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow([_guarded(name) for name in schema.names])
        count = 0
        for batch in rows:
            writer.writerows([_cell(cell) for cell in row.values()] for row in self._located(batch))
            count += batch.num_rows
        text.flush()
        text.detach()
        return count

    def opening(self, out: Path, _: int) -> tuple[str, ...]:
        """How it is opened."""
        return ("import pandas", f"rows = pandas.read_csv({str(out / self.file())!r})")


class Jsonl(_Table):
    """One JSON object a line."""

    name = "jsonl"

    def write(self, rows: Iterator[pa.RecordBatch], _: pa.Schema, __: Pictures, sink: BinaryIO) -> int:
        """Write the table; how many rows it has."""
        count = 0
        for batch in rows:
            lines = (msgspec.json.encode(_said(row)) + b"\n" for row in self._located(batch))
            sink.write(b"".join(lines))
            count += batch.num_rows
        return count

    def opening(self, out: Path, _: int) -> tuple[str, ...]:
        """How it is opened."""
        return ("import pandas", f"rows = pandas.read_json({str(out / self.file())!r}, lines=True)")


def _cell(cell: object) -> object:
    """A cell of a CSV; only text can be taken for a formula."""
    match cell:
        case None:
            return ""
        case str():
            return _guarded(cell)
        case Decimal():
            return f"{cell:f}"
        case date():
            return cell.isoformat()
        case bytes():
            return base64.b64encode(cell).decode()
        case _:
            return msgspec.json.encode(cell).decode()


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
