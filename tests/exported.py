"""A run with all in it that can go out: statuses, variants, drafts, names and columns of every kind."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
from contextlib import closing
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from batchgen.export import Kind, Summary, Wanted, export
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE_IDS = [
    "a.b.c",
    "cat/dog",
    "train/test.1",
    "naïve",
    "nai\u0308ve",
    "Cat",
    "cat",
    "🎨",
    "..",
    "__x__",
    "a-2",
    "a",
    "=1+1",
    "x" * 300,
]
HOSTILE_WORDS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@sum",
    "\tx",
    "\rx",
    'say "hi", now\nand then',
    "# {x}: [y]",
]
COLUMNS = [
    "image",
    "file_name",
    "__key__",
    "json",
    "status",
    "sha256",
    "Prompt_file_name",
    "naïve",
    "nai\u0308ve",
    "=x",
]


def hostile(folder: Path) -> Nights:
    """A finished run of hostile rows: most succeed, with drafts, some do not, some are in words."""
    nights = Nights(folder, Settings(paint=False, faults=Faults(draft=0.3, no_image=0.2)))
    nights.manifest = folder / "prompts.parquet"
    Image.new("RGB", (16, 16), "red").save(folder / "front.png")
    count = len(HOSTILE_IDS)
    words = [HOSTILE_WORDS[place % len(HOSTILE_WORDS)] for place in range(count)]
    columns: dict[str, pa.Array] = {
        "id": pa.array(HOSTILE_IDS),
        "prompt": pa.array([f"{word} {place}" for place, word in enumerate(words)]),
        "expect": pa.array(["text" if place in {3, 8} else "image" for place in range(count)]),
        "variants": pa.array([2 if place in {1, 2, 11} else 1 for place in range(count)]),
        "references": pa.array([["front.png"] if place == 5 else None for place in range(count)]),
        "image_size": pa.array(["512"] * count),
        **{name: pa.array([f"{name} {word}" for word in words]) for name in COLUMNS},
        "price": pa.array([Decimal("1.10")] * count, pa.decimal128(9, 2)),
        "day": pa.array([date(2026, 1, 2)] * count),
        "exact": pa.array([1_700_000_000_000_000_001] * count, pa.timestamp("ns")),
        "tags": pa.array([["x", None]] * count, pa.list_(pa.string())),
        "nested": pa.array([{"file_name": "y", "n": 1}] * count),
        "pairs": pa.array([[("k", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        "kind": pa.array(["shoes", None] * (count // 2)).dictionary_encode(),
        "raw": pa.array([b"\x00\xff"] * count),
    }
    pq.write_table(pa.table(columns), nights.manifest)
    nights.run(attempts=1, max_failure_rate=1.0)
    as_other_pictures(nights.directory)
    return nights


def as_other_pictures(directory: Path) -> None:
    """Put other pictures in the place of those that came: JPEG, PNG and WebP, no two the same."""
    for place, row in enumerate(bought(directory)):
        extension, kind = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WebP"))[place % 3]
        made = io.BytesIO()
        Image.new("RGB", (64, 48 + place), (place * 9, 100, 200)).save(made, kind)
        name = f"{row['file_name'].rpartition('.')[0]}.{extension}"
        (directory / row["file_name"]).unlink()
        (directory / name).write_bytes(made.getvalue())
        about = {
            **row["images"][-1],
            "file_name": name,
            "sha256": hashlib.sha256(made.getvalue()).hexdigest(),
            "mime": f"image/{kind.lower()}",
            "width": 64,
            "height": 48 + place,
            "bytes": len(made.getvalue()),
        }
        with closing(sqlite3.connect(directory / "ledger.db", isolation_level=None)) as connection:
            connection.execute(
                "UPDATE tasks SET images = ? WHERE key = ?",
                (json.dumps([*row["images"][:-1], about]), row["task_key"]),
            )


def bought(directory: Path) -> list[dict[str, Any]]:
    """The rows of the table that have a picture."""
    return [row for row in pq.read_table(directory / "results.parquet").to_pylist() if row["file_name"]]


def plain(folder: Path, rows: int) -> Nights:
    """A finished run of plain rows whose pictures differ in nothing."""
    nights = Nights(folder)
    nights.rows(rows)
    nights.run()
    return nights


def exported(nights: Nights, kind: Kind, out: Path | None = None, /, **options: Any) -> Summary:
    """Export a run, by default to `<run>/export/<kind>`."""
    wanted = {name: options.pop(name) for name in ("statuses", "where", "only") if name in options}
    return export(
        nights.directory,
        out or nights.directory / "export" / kind,
        kind,
        wanted=Wanted(**wanted),
        **options,
    )


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
