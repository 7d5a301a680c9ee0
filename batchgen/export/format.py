"""What is a way in which rows can go out?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import pyarrow as pa

    from batchgen.export.pictures import Pictures
    from batchgen.export.rows import Told
    from batchgen.export.shards import Shard


class Traits(Value, frozen=True, kw_only=True):
    """What an export needs to know of a format."""

    name: str
    limit: int | None = None
    """Bytes of a shard, about; None where all rows are one."""
    settings: str = ""
    """What else the bytes of a shard depend on besides its rows."""
    reserved: tuple[str, ...] = ()
    """Columns that it has itself."""
    pictures: bool = True
    """Whether rows go out for their pictures."""
    folder: str | None = None
    """A folder with pictures: files of which no list is kept, and that are looked at anew each time."""
    others: tuple[str, ...] = ()
    """Files beside the shards."""


class Format(Protocol):
    """How rows become files."""

    @property
    def traits(self) -> Traits:
        """What there is to know of it."""

    def file(self, index: int, of: int, /) -> str:
        """Name a shard."""

    def write(
        self, rows: Iterator[pa.RecordBatch], schema: pa.Schema, pictures: Pictures, sink: BinaryIO, /
    ) -> int:
        """Write a shard; how many rows it has."""

    def beside(
        self, told: Told, schema: pa.Schema, shards: Sequence[Shard], title: str, /
    ) -> Sequence[bytes]:
        """What is in the other files."""

    def opening(self, out: Path, shards: int, /) -> tuple[str, ...]:
        """Lines of Python that open it."""
