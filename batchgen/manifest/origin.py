"""
What was a snapshot made from, and would the very same be made again?

A snapshot says in its metadata what it was made from: a hash of the table's bytes and of all that a job says
of how they are read. It also has a hash of its own rows, so that one that was altered or damaged since is no
longer taken for what it was.
"""

from __future__ import annotations

import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.manifest.tables import kind_of, open_bytes
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.manifest.reading import Reading

_FORMAT: Final = 1
"""Of snapshots: a change in what is made of the same cells needs another number here."""
_OURS: Final = b"batchgen:"
_ORIGIN: Final = "batchgen:origin"
_ROWS: Final = "batchgen:rows"
_BLOCK: Final = 8 << 20
"""Bytes that are hashed by themselves, some blocks at a time."""
_PIECE: Final = 1 << 18
_THREADS: Final = 4
_SETTINGS: Final = msgspec.json.Encoder(enc_hook=str, order="deterministic")


def origin(source: str, reading: Reading) -> str | None:
    """
    A hash of a table and of how it is read; None where the table can be gone through but once.

    :raises InputError: it cannot be opened, or its name does not tell its format.
    """
    kind = kind_of(source)
    if source == "-" or _is_pipe(source):
        return None
    with open_bytes(source) as file:
        content = _hashed(file, os.fstat(file.fileno()).st_size)
    made_by = (_FORMAT, __version__, pa.__version__, sys.version, kind, reading)
    return sha256(content + _SETTINGS.encode(made_by)).hexdigest()


def stamp(source: str) -> tuple[int, ...] | None:
    """What the file system says of a table; None where it is no file."""
    try:
        seen = Path(source).stat()
    except (OSError, ValueError):
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def marks(draft: Path, said: Mapping[str, str], made_from: str | None) -> dict[str, str]:
    """
    What goes into the metadata of a snapshot whose rows are all written, before it is closed.

    :param said: what goes there, too.
    :param made_from: its origin, if it is to be known again.
    """
    with draft.open("rb") as file:
        rows = _rows(file, os.fstat(file.fileno()).st_size, said)
    return {_ROWS: rows, **({} if made_from is None else {_ORIGIN: made_from})}


def is_current(snapshot: Path, made_from: str) -> bool:
    """
    Whether a snapshot is whole, and what would be made again.

    Never where rows bring files along: those may have changed while the table has not.
    """
    try:
        with snapshot.open("rb") as file, pq.ParquetFile(snapshot, pre_buffer=False) as parquet:
            told = parquet.metadata.metadata or {}
            said: dict[str, str] = {
                name.decode(): value.decode() for name, value in told.items() if name.startswith(_OURS)
            }
            if said.pop(_ORIGIN, None) != made_from or "references" in parquet.schema_arrow.names:
                return False
            # The metadata lies behind the rows: https://parquet.apache.org/docs/file-format/
            size = os.fstat(file.fileno()).st_size
            behind = 8 + int.from_bytes(os.pread(file.fileno(), 4, size - 8), "little")
            rows = said.pop(_ROWS, "")
            return rows == _rows(file, size - behind, said)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False


def rows_of(said: Mapping[bytes, bytes]) -> str | None:
    """The hash of a snapshot's rows, by its metadata: where it is the same, so are they and their order."""
    found = said.get(_ROWS.encode())
    return None if found is None else found.decode()


def _rows(file: BinaryIO, size: int, said: Mapping[str, str]) -> str:
    """A hash of the rows of a snapshot, that take so many bytes, and of what it says of them."""
    return sha256(_hashed(file, size) + _SETTINGS.encode(said)).hexdigest()


def _is_pipe(source: str) -> bool:
    try:
        found = Path(source).stat().st_mode
    except (OSError, ValueError):
        return False  # whoever opens it says why that cannot be
    return not (stat.S_ISREG(found) or stat.S_ISDIR(found))


def _hashed(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the SHA-256 of each block of the first `size` bytes, some at a time."""
    descriptor = file.fileno()

    def block(start: int) -> bytes:
        hashed, at, stop = sha256(), start, min(size, start + _BLOCK)
        while at < stop and (piece := os.pread(descriptor, min(_PIECE, stop - at), at)):
            hashed.update(piece)
            at += len(piece)
        return hashed.digest()

    starts = range(0, size, _BLOCK)
    if len(starts) <= 1:
        digests = [*map(block, starts)]
    else:
        with ThreadPoolExecutor(_THREADS) as threads:
            digests = [*threads.map(block, starts)]
    return sha256(b"".join([*digests, b"%d" % size])).digest()
