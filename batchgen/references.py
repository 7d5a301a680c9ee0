"""
Which pictures go along with a prompt?

A file is looked at once, before anything is sent: what it is, by content, and its hash. Its base64 is kept
for all the rows that bring it along, as far as there is room; a file that is read again must be the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pybase64

from batchgen.errors import InputError
from batchgen.records import Attached, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = 256 * 2**20
"""Bytes of base64 that are kept."""
LARGEST = 64 * 2**20
"""Bytes of a file that are read at most: no endpoint takes more."""
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_HEIF = (b"mif1", b"msf1")


class References:
    """The pictures of one run. Any thread may ask."""

    def __init__(self, *, room: int = ROOM, read: Callable[[Path], bytes] = Path.read_bytes) -> None:
        """
        Begin without any.

        :param room: bytes of base64 that are kept; the ones used longest ago make way.
        :param read: reads a file.
        """
        self._room = room
        self._read = read
        self._known: dict[str, Reference] = {}
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def look(self, path: str) -> Reference:
        """
        What is in a file, found out once.

        :raises InputError: it cannot be read, or it is no picture that endpoints take; says why, not where.
        """
        with self._lock:
            if path not in self._known:
                data = self._data(path)
                self._known[path] = Reference(
                    source=path, sha256=sha256(data).hexdigest(), mime=_mime(data), bytes=len(data)
                )
                self._keep(path, data)
            return self._known[path]

    def attach(self, reference: Reference) -> Attached:
        """
        A reference as it travels.

        :raises InputError: its file is gone, or is no longer what it was when it was looked at.
        """
        if not reference.mime:
            return Attached(url=reference.source)
        with self._lock:
            found = self._kept.get(reference.source)
            if found is None:
                data = self._data(reference.source)
                if sha256(data).hexdigest() != reference.sha256:
                    raise InputError(
                        f"{reference.source} is no longer the picture that was looked at; run again"
                    )
                found = self._keep(reference.source, data)
            self._kept.move_to_end(reference.source)
            return Attached(mime=reference.mime, base64=found)

    def _data(self, path: str) -> bytes:
        try:
            if Path(path).stat().st_size > LARGEST:
                raise InputError(f"{path} is larger than {LARGEST >> 20} MB")
            return self._read(Path(path))
        except OSError as cause:
            raise InputError(f"{path}: {cause.strerror}") from cause

    def _keep(self, path: str, data: bytes) -> bytes:
        encoded = pybase64.b64encode(data)
        self._kept[path] = encoded
        self._held += len(encoded)
        while self._held > self._room and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._held -= len(dropped)
        return encoded


def _mime(data: bytes) -> str:
    """The type by the first bytes: https://ai.google.dev/gemini-api/docs/image-understanding#supported-formats"""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return "image/heic"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return "image/heif"
    raise InputError("it is no PNG, JPEG, WebP, HEIC or HEIF picture" if data else "it is empty")
