"""
How is an export a WebDataset?

Tars of samples: members of one name but for their extension, one after the other
(https://github.com/webdataset/webdataset). The name ends at its first dot.
"""

from __future__ import annotations

import re
import tarfile
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchgen.export.format import Traits
from batchgen.export.tables import objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import BinaryIO

    import pyarrow as pa

    from batchgen.export.pictures import Pictures

_CLEAN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_KEPT = 40


class WebDataset:
    """Tars of `<key>.jpg`, `<key>.json` and `<key>.txt`."""

    def __init__(self, *, limit: int) -> None:
        """:param limit: bytes of a shard."""
        self.traits = Traits(name="webdataset", limit=limit)

    def file(self, index: int, _: int) -> str:
        """Name a shard."""
        return f"{index:06}.tar"

    def write(self, rows: Iterator[pa.RecordBatch], _: pa.Schema, pictures: Pictures, sink: BinaryIO) -> int:
        """Write a shard; how many samples it has."""
        count = 0
        for batch in rows:
            ends = batch.column("finished_at").to_pylist()
            texts = objects(batch)
            for place, name, data in pictures.of(batch):
                row = texts[place]
                sample = {} if data is None or name is None else {name.rpartition(".")[2]: data}
                sample |= {"json": row.json, "txt": row.prompt.encode()}
                for extension, content in sample.items():
                    sink.writelines(_member(f"{key(row.id, row.variant)}.{extension}", content, ends[place]))
                count += 1
        sink.write(b"\0" * 2 * tarfile.BLOCKSIZE)
        return count

    def beside(self, *_: object) -> Sequence[bytes]:
        """Nothing else belongs to it."""
        return ()

    def opening(self, out: Path, shards: int) -> tuple[str, ...]:
        """How it is opened."""
        braces = f"{{000000..{shards - 1:06}}}" if shards > 1 else "000000"
        return (
            "import webdataset",
            f"rows = webdataset.WebDataset({f'{out}/{braces}.tar'!r}, shardshuffle=False)",
        )


def key(row: str, variant: int) -> str:
    """
    Name a sample: the row's id where that is plain, else what is plain of it and a hash, then the variant.

    Two rows never have the same: a plain id has no `~`, a hash has 16 digits, and no row so many variants.
    """
    if not _CLEAN.fullmatch(row):
        mark = blake2b(row.encode(), digest_size=8).hexdigest()
        row = f"{_UNSAFE.sub('_', row).strip('_')[:_KEPT] or 'row'}~{mark}"
    return row if variant == 1 else f"{row}~{variant}"


def _member(name: str, content: bytes, end: datetime | None) -> tuple[bytes, bytes, bytes]:
    """Header, content and padding; a `TarFile` would keep a note of each in memory."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mtime = 0 if end is None else int(end.timestamp())
    return member.tobuf(tarfile.USTAR_FORMAT), content, b"\0" * (-len(content) % tarfile.BLOCKSIZE)
