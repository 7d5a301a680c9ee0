"""Is a picture that goes out the one that was bought?"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pyarrow as pa

from batchgen.errors import StorageError
from batchgen.export.rows import Told
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.store import Pictures as Stored

_TOLD = 20


class Missing(Value, frozen=True, kw_only=True):
    """A row that could not go out."""

    id: str
    file: str
    detail: str


class Pictures:
    """The pictures of one run, each held against its recorded hash as it is read."""

    def __init__(self, store: Stored) -> None:
        self._store = store
        self.lost = Told()
        """What the rows add up to whose picture is lost or altered."""
        self.first: list[Missing] = []
        """At most 20 of them."""

    def of(self, rows: pa.RecordBatch) -> Iterator[tuple[int, str | None, bytes | None]]:
        """
        Go through rows for their pictures: place in the batch, file name and bytes.

        Name and bytes are None where a row has no picture; a row whose picture is not as it was bought is
        left out and counted.
        """
        lost = []
        names, hashes, ids = (rows.column(name).to_pylist() for name in ("file_name", "sha256", "id"))
        for place, (name, recorded, row) in enumerate(zip(names, hashes, ids, strict=True)):
            if name is None:
                yield place, None, None
                continue
            data, why = self._read(name, recorded)
            if data is not None:
                yield place, name, data
                continue
            lost.append(place)
            if len(self.first) < _TOLD:
                self.first.append(Missing(id=row, file=name, detail=why))
        if lost:
            self.lost.add(rows.take(pa.array(lost, pa.int32())))

    @property
    def missing(self) -> int:
        """Rows whose picture is lost or altered."""
        return self.lost.rows

    def _read(self, name: str, recorded: str) -> tuple[bytes | None, str]:
        try:
            data = self._store.read(name)
        except StorageError as cause:
            return None, str(cause)
        if data is None:
            return None, "it is gone"
        if sha256(data).hexdigest() != recorded:
            return None, "it is not the picture that was bought"
        return data, ""
