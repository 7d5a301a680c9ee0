"""
How do bytes become pictures in a bucket?

As in a folder (`store`), by the same names and with the same calls, but that an object is whole and durable
as soon as it is there: nothing is left unfinished, nothing needs a sync.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from batchgen.errors import StorageError
from batchgen.store import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchgen.bucket import Bucket


class Objects:
    """
    The pictures of one run, in `images/`, `drafts/` and `corrupt/` below its address.

    Everything blocks and may be called from many threads at once, one writer a stem. Whoever writes holds the
    run's lease. It goes to another process as the bucket's address alone. All failures are `StorageError`.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def put(
        self, stem: str, extension: str, data: bytes | bytearray | memoryview, *, folder: str = "images"
    ) -> str:
        """Write `<folder>/<stem>.<extension>`, replacing what is there; return that name once durable."""
        file_name = f"{folder}/{stem}.{extension}"
        self.bucket.put(file_name, data)
        return file_name

    def set_aside(self, stem: str, data: bytes | bytearray | memoryview) -> str:
        """Keep a corrupt picture as `corrupt/<stem>.bin`, then `.2.bin` and so on; return its name."""
        name = self._free(f"corrupt/{stem}", ".bin")
        self.bucket.put(name, data)
        return name

    def remove(self, file_name: str) -> None:
        """Delete an object; one that is not there is fine."""
        self.bucket.remove([file_name])

    def read(self, file_name: str) -> bytes | None:
        """Give the bytes of an object, None when it is not there."""
        return self.bucket.get(file_name, most=MAX_BYTES)

    def fetch(self, address: str) -> bytes | None:
        """Give the bytes of an object by its `address`, None when it is not there."""
        return self.read(address.removeprefix(f"{self.bucket.address}/"))

    def size(self, file_name: str) -> int | None:
        """Bytes of an object, None when it is not there."""
        found = self.bucket.head(file_name)
        return None if found is None else found.bytes

    def irregular(self, file_name: str) -> str:
        """What stands there if it is no plain file; an object always is one."""
        return ""

    def address(self, file_name: str) -> str:
        """How an object is named to whoever is to read it."""
        return f"{self.bucket.address}/{file_name}"

    def sync(self, file_name: str) -> None:
        """Make sure that an object keeps its name; it does."""

    def names(self, folder: str) -> Iterator[str]:
        """Whatever is below a folder, in no order."""
        return (found.name for found in self.bucket.list(folder))

    def move(self, source: str, target: str) -> None:
        """Give an object another name; the new one must be free."""
        if self.size(target) is not None:
            raise StorageError(f"{self.address(target)}: it is there already; move it away")
        self.bucket.copy(source, target)
        self.bucket.remove([source])

    def move_aside(self, file_name: str) -> str:
        """Move what has a picture's name to `corrupt/`; return its new name."""
        path, dot, extension = file_name.partition("/")[2].rpartition(".")
        name = self._free(f"corrupt/{path}", dot + extension)
        self.move(file_name, name)
        return name

    def sweep(self, stems: Iterable[str]) -> int:
        """Delete what a crash left of unfinished `put`s: nothing."""
        return 0

    def _free(self, start: str, suffix: str) -> str:
        names = itertools.chain(
            [f"{start}{suffix}"], (f"{start}.{number}{suffix}" for number in itertools.count(2))
        )
        return next(name for name in names if self.size(name) is None)
