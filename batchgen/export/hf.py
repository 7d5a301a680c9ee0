"""
How is an export a Hugging Face dataset?

Parquet shards with the picture's bytes in a column `image`, of the type that `datasets` reads as a picture,
and a dataset card. Sources: https://huggingface.co/docs/datasets/about_dataset_features#image-feature and
https://huggingface.co/docs/hub/datasets-cards.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchgen.export.card import card
from batchgen.export.format import Traits
from batchgen.export.shards import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from batchgen.export.pictures import Pictures
    from batchgen.export.rows import Told
    from batchgen.export.shards import Shard

IMAGE: Final = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_METADATA: Final = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
_GROUP_ROWS: Final = 100
"""What `datasets` writes itself for pictures: readers hold a group at a time."""
_GROUP_BYTES: Final = 100_000_000
"""Readers and writers hold some copies of a group, and none of its arrays may pass 2 GiB."""


class HuggingFace:
    """Parquet shards and a card."""

    def __init__(self, *, limit: int) -> None:
        """:param limit: bytes of a shard, and of a group of rows if that is less."""
        self.traits = Traits(name="hf", limit=limit, settings=str(limit), reserved=("image",), others=(CARD,))
        self._group_bytes = min(limit, _GROUP_BYTES)

    def file(self, index: int, of: int) -> str:
        """Name a shard."""
        return f"data/train-{index:05}-of-{of:05}.parquet"

    def write(
        self, rows: Iterator[pa.RecordBatch], schema: pa.Schema, pictures: Pictures, sink: BinaryIO
    ) -> int:
        """Write a shard; how many rows it has."""
        whole = pa.schema([IMAGE, *schema], metadata=_METADATA)
        flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
        count = 0
        with pq.ParquetWriter(
            sink, whole, compression="none", use_dictionary=False, write_statistics=flat
        ) as writer:
            for batch in rows:
                for group in self._groups(batch, pictures):
                    writer.write_batch(pa.RecordBatch.from_arrays(group.columns, schema=whole))
                    count += group.num_rows
                    # The next group is as large: what this one took is given back first.
                    del group
                    pa.default_memory_pool().release_unused()
        return count

    def _groups(self, batch: pa.RecordBatch, pictures: Pictures) -> Iterator[pa.RecordBatch]:
        """Rows with their pictures, as many at a time as fit."""
        group = _Group()
        sizes = batch.column("bytes").fill_null(0).to_pylist()
        for place, name, data in pictures.of(batch):
            if group.places and (
                len(group.places) == _GROUP_ROWS or group.size + sizes[place] > self._group_bytes
            ):
                yield group.rows(batch)
                group = _Group()
            group.places.append(place)
            group.names.append(name)
            group.contents.append(data)
            group.size += sizes[place]
        if group.places:
            yield group.rows(batch)

    def beside(self, told: Told, schema: pa.Schema, shards: Sequence[Shard], title: str) -> Sequence[bytes]:
        """What else belongs to the dataset: its card."""
        whole = pa.schema([IMAGE, *schema])
        return (card(told, whole, shards, title),)

    def opening(self, out: Path, _: int) -> tuple[str, ...]:
        """How it is opened."""
        return ("from datasets import load_dataset", f"rows = load_dataset({str(out)!r}, split='train')")


class _Group:
    """Rows of a batch with their pictures."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.names: list[str | None] = []
        self.contents: list[bytes | None] = []
        self.size = 0

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows as they are written; the pictures are held no longer."""
        rows = batch.take(pa.array(self.places, pa.int32()))
        contents = pa.array(self.contents, pa.binary())
        self.contents.clear()
        arrays = [contents, pa.array(self.names, pa.string())]
        image = pa.StructArray.from_arrays(arrays, fields=[*IMAGE.type], mask=pc.is_null(contents))
        return pa.RecordBatch.from_arrays([image, *rows.columns], names=["image", *rows.schema.names])
