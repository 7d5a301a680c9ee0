"""
How is an export a Hugging Face dataset?

Parquet shards with the picture's bytes in a column `image`, of the type that `datasets` reads as a picture,
and a dataset card. Sources: https://huggingface.co/docs/datasets/about_dataset_features#image-feature and
https://huggingface.co/docs/hub/datasets-cards.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.export.card import card
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

    name = "hf"
    pictures = True
    alone = True
    open_folder = None
    others = (CARD,)
    reserved = ("image",)

    def __init__(self, *, limit: int) -> None:
        """:param limit: bytes of a shard, and of a group of rows if that is less."""
        self.limit = limit
        self.settings = str(limit)
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
        places: list[int] = []
        images: list[dict[str, Any] | None] = []
        size = 0
        sizes = batch.column("bytes").fill_null(0).to_pylist()
        for place, name, data in pictures.of(batch):
            if places and (len(places) == _GROUP_ROWS or size + sizes[place] > self._group_bytes):
                yield _group(batch, places, images)
                places, images, size = [], [], 0
            places.append(place)
            images.append(None if data is None else {"bytes": data, "path": name})
            size += sizes[place]
        if places:
            yield _group(batch, places, images)

    def beside(self, told: Told, schema: pa.Schema, shards: Sequence[Shard], title: str) -> Sequence[bytes]:
        """What else belongs to the dataset: its card."""
        whole = pa.schema([IMAGE, *schema])
        return (card(told, whole, shards, title),)

    def opening(self, out: Path) -> tuple[str, ...]:
        """How it is opened."""
        return ("from datasets import load_dataset", f"rows = load_dataset({str(out)!r}, split='train')")


def _group(batch: pa.RecordBatch, places: list[int], images: list[dict[str, Any] | None]) -> pa.RecordBatch:
    rows = batch.take(pa.array(places, pa.int32()))
    image = pa.array(images, IMAGE.type)
    return pa.RecordBatch.from_arrays([image, *rows.columns], names=["image", *rows.schema.names])
