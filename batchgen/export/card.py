"""
What does the card of a dataset say?

Its front matter is JSON, which is YAML too: names of columns are other people's words, and need no rules
then.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.export.rows import Told
    from batchgen.export.shards import Shard

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# What YAML 1.2 takes in no text as it stands (5.1), and what some readers take for the end of a line.
_UNPRINTABLE = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_MARKED = re.compile(r"([\\`*_{}\[\]<>()#+!|&~])")


def card(told: Told, schema: pa.Schema, shards: Sequence[Shard], title: str) -> bytes:
    """Write a card: front matter that opens the shards, and what batchgen has done."""
    rows, size = sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards)
    about = {
        "dataset_info": {
            "features": [{"name": field.name, **_feature(field)} for field in schema],
            "splits": [{"name": "train", "num_bytes": size, "num_examples": rows}],
            "download_size": size,
            "dataset_size": size,
        },
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "size_categories": [next((name for most, name in _SIZES if rows < most), "n>1M")],
        "tags": ["synthetic", "batchgen"],
    }
    front = "\n".join(f"{name}: {_yaml(value)}" for name, value in about.items())
    head = "---\n# license: yours to choose, https://huggingface.co/docs/hub/repositories-licenses\n"
    return f"{head}{front}\n---\n\n{_body(told, rows, size, title)}".encode()


def _body(told: Told, rows: int, size: int, title: str) -> str:
    models = "\n".join(f"- {_text(name)}: {count:,} rows" for name, count in sorted(told.models.items()))
    when = ""
    if told.first is not None and told.last is not None:
        when = f", made from {told.first:%Y-%m-%d %H:%M} to {told.last:%Y-%m-%d %H:%M} UTC"
    simulated = (
        " They were painted by a simulator: no model was asked and no money was spent."
        if told.simulated
        else ""
    )
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(told.statuses.items()))
    return f"""# {_text(title)}

{rows:,} rows with {told.pictures:,} pictures ({size:,} bytes){when}, bought and exported by batchgen
{__version__}.{simulated}

Models:

{models or "- none"}

Rows by status: {statuses or "none"}. They cost ${told.cost_usd:,.4f} in all.

`image` has the bytes as they were bought; `sha256`, `width`, `height` and `mime` are of those bytes.
`prompt`, `model`, `provider`, `cost_usd`, `finished_at` and `request_id` say where each row came from;
columns after `task_key` are the manifest's own.
"""


def _feature(field: pa.Field) -> dict[str, Any]:
    return {"dtype": "image"} if field.name == "image" else _described(field.type)


def _described(kind: pa.DataType) -> dict[str, Any]:
    """A type as a card has it; those of `rows.Columns`."""
    if pa.types.is_list(kind):
        inner = _described(kind.value_type)
        return {"list": inner.get("dtype", inner.get("struct", inner))}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": part.name, **_described(part.type)} for part in kind]}
    names = {pa.float32(): "float32", pa.float64(): "float64", pa.date32(): "date32"}
    return {"dtype": names.get(kind, str(kind))}


def _yaml(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _text(words: str) -> str:
    """Words that Markdown leaves as they are."""
    return _MARKED.sub(r"\\\1", " ".join(words.split()))
