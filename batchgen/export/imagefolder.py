"""
How is an export a folder of pictures with a table beside them?

`metadata.parquet` names each picture in `file_name` (https://huggingface.co/docs/datasets/image_load). It is
Parquet because a CSV would lose what is money, what is text and what is not there.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchgen.address import is_url
from batchgen.errors import InputError, StorageError
from batchgen.export.format import Traits
from batchgen.export.rows import cast
from batchgen.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from batchgen.export.pictures import Pictures

_FOLDER = "images"
_AT_ONCE = 4096
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}
_READ_AS_PICTURES = ("file_name", "file_names")
"""What columns are called, or end in behind a `_`, whose cells `datasets` takes for names of pictures."""


class Link(StrEnum):
    """How a picture gets into the folder."""

    AUTO = "auto"
    """As a hard link where the file system can, else as a copy."""
    HARD = "hard"
    COPY = "copy"


class ImageFolder:
    """Pictures under the names they have in the run directory, and `metadata.parquet`."""

    traits = Traits(name="imagefolder", reserved=("image",), folder=_FOLDER)

    def __init__(self, place: str, out: Path, *, link: Link) -> None:
        """
        Begin with nothing.

        :param place: the run directory, or the URL below which pictures are: from there they are copied.
        :raises InputError: there can be no hard links.
        """
        if is_url(place) and link is Link.HARD:
            raise InputError("--link hard: the pictures are in a bucket; leave it out, and they are copied")
        self._directory = Path(place)
        self._out = out
        self._link = Link.COPY if is_url(place) else link
        self.linked = self.copied = 0

    def file(self, *_: int) -> str:
        """Name the table."""
        return "metadata.parquet"

    def write(
        self, rows: Iterator[pa.RecordBatch], schema: pa.Schema, pictures: Pictures, sink: BinaryIO
    ) -> int:
        """Put the pictures in place, then write their table; how many rows it has."""
        whole = _renamed(schema)
        names, count = [pa.array([], pa.string())], 0
        with pq.ParquetWriter(sink, whole, compression="zstd") as writer:
            for batch in rows:
                kept = []
                for place, name, data in pictures.of(batch):
                    kept.append(place)
                    if name is not None and data is not None:
                        self._place(name, data)
                found = batch.take(pa.array(kept, pa.int32()))
                arrays = [cast(column, kind) for column, kind in zip(found.columns, whole.types, strict=True)]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=whole))
                names.append(found.column("file_name"))
                count += found.num_rows
        self._sweep(pa.chunked_array(names))
        # One call for a million files; the table, which says that they are there, gets its name after it.
        os.sync()
        return count

    def copies(self) -> bool:
        """Whether pictures take room: links do not, and none leads to another file system."""
        return self._link is Link.COPY or self._directory.stat().st_dev != self._out.stat().st_dev

    def _place(self, name: str, data: bytes) -> None:
        source, target = self._directory / name, self._out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._link is not Link.COPY and self._linked(source, target):
            self.linked += 1
            return
        self.copied += 1
        if not _is(target, data):
            temporary = _free(target)
            temporary.write_bytes(data)
            temporary.replace(target)

    def _linked(self, source: Path, target: Path) -> bool:
        with suppress(FileNotFoundError):
            if target.samefile(source):
                return True
        temporary = _free(target)
        try:
            temporary.hardlink_to(source)
        except OSError as cause:
            if cause.errno not in _NO_LINK:
                raise
            if self._link is Link.HARD:
                raise StorageError(
                    f"{target}: no hard link to {source} can be made here ({cause.strerror});"
                    " leave out --link, and pictures are copied"
                ) from cause
            return False
        temporary.replace(target)
        return True

    def _sweep(self, names: pa.ChunkedArray) -> None:
        """Delete pictures that an earlier export has put there and this one does not have."""
        store = Store(self._out)
        found = store.names(_FOLDER)
        while some := [*islice(found, _AT_ONCE)]:
            gone = pc.invert(pc.is_in(pa.array(map(_text, some), pa.string()), names.combine_chunks()))
            for place in pc.indices_nonzero(gone).to_pylist():
                store.remove(some[place])

    def beside(self, *_: object) -> Sequence[bytes]:
        """Nothing else belongs to it."""
        return ()

    def opening(self, out: Path, _: int) -> tuple[str, ...]:
        """How it is opened: by its table, since a folder called `test` would be taken for a split."""
        table = str(out / self.file())
        return (
            "from datasets import load_dataset",
            f"rows = load_dataset('imagefolder', data_files={table!r}, split='train')",
        )


def _free(target: Path) -> Path:
    """A name beside a file that nothing has; a killed export may have left something there."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    return temporary


def _is(path: Path, data: bytes) -> bool:
    with suppress(FileNotFoundError):
        return (
            path.stat().st_size == len(data) and sha256(path.read_bytes()).digest() == sha256(data).digest()
        )
    return False


def _text(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")


def _is_read(name: str) -> bool:
    return name in _READ_AS_PICTURES or name.endswith(tuple(f"_{word}" for word in _READ_AS_PICTURES))


def _renamed(schema: pa.Schema) -> pa.Schema:
    """The columns, with no name but one that is taken for pictures'; those with one inside become JSON."""
    taken = set(schema.names)
    fields = []
    for field in schema:
        name = field.name
        while name != "file_name" and (_is_read(name) or (name != field.name and name in taken)):
            name = f"{name}_"
        taken.add(name)
        fields.append(pa.field(name, pa.string() if _has_read(field.type) else field.type))
    return pa.schema(fields)


def _has_read(kind: pa.DataType) -> bool:
    """Whether a column has such a name inside."""
    if pa.types.is_list(kind):
        return _has_read(kind.value_type)
    return pa.types.is_struct(kind) and any(_is_read(part.name) or _has_read(part.type) for part in kind)
