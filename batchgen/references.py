"""
Which pictures go along with a prompt?

A file is looked at once, before anything is sent: what it is, by content, and its hash. Its base64 is kept
for all the rows that bring it along, as far as there is room; a file that is read again must be the same.
"""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pybase64

from batchgen.address import is_url
from batchgen.errors import InputError
from batchgen.records import Attached, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = 256 * 2**20
"""Bytes of base64 that are kept."""
LARGEST = 64 * 2**20
"""Bytes of a file that are read at most: no endpoint takes more."""
KNOWN = 65_536
"""Files whose content is remembered; those that many rows share are among the last that were asked for."""
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_HEIF = (b"mif1", b"msf1")


class References:
    """The pictures of one run. Any thread may ask."""

    def __init__(
        self,
        *,
        room: int = ROOM,
        read: Callable[[Path], bytes] = Path.read_bytes,
        fetch: Callable[[str], bytes | None] | None = None,
    ) -> None:
        """
        Begin without any.

        :param room: bytes of base64 that are kept; the ones used longest ago make way.
        :param read: reads a file.
        :param fetch: reads a picture of the run itself where those are in a bucket, by its URL; None when it
            is gone.
        """
        self._room = room
        self._read = read
        self._fetch = fetch
        self._known: OrderedDict[str, Reference] = OrderedDict()
        # By hash: a path may come to hold another picture.
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
                found = Reference(
                    source=path, sha256=sha256(data).hexdigest(), mime=_mime(data), bytes=len(data)
                )
                self._keep(found, data)
                self._known[path] = found
                if len(self._known) > KNOWN:
                    self._known.popitem(last=False)
            self._known.move_to_end(path)
            return self._known[path]

    def attach(self, reference: Reference) -> Attached:
        """
        A reference as it travels.

        :raises InputError: its file is gone, or is no longer what it was when it was looked at.
        """
        if not reference.mime:
            return Attached(url=reference.source)
        # Over a network, others do not wait for what is mostly one row's business.
        ahead = self._again(reference) if self._is_far(reference) else None
        with self._lock:
            found = self._kept.get(reference.sha256)
            if found is None:
                found = self._keep(reference, self._again(reference) if ahead is None else ahead)
            self._kept.move_to_end(reference.sha256)
            return Attached(mime=reference.mime, base64=found)

    def _is_far(self, reference: Reference) -> bool:
        return is_url(reference.source) and reference.sha256 not in self._kept

    def _again(self, reference: Reference) -> bytes:
        try:
            data = self._data(reference.source)
        except InputError as cause:
            raise InputError(f"{reference.source}: {cause}") from cause
        if sha256(data).hexdigest() != reference.sha256:
            raise InputError(f"{reference.source} is no longer the picture that was looked at; run again")
        return data

    def _data(self, path: str) -> bytes:
        if self._fetch is not None and is_url(path):
            return self._fetched(self._fetch(path))
        try:
            found = Path(path).stat()
            # A pipe or a device might never come to an end.
            if not stat.S_ISREG(found.st_mode):
                raise InputError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no file")
            if found.st_size > LARGEST:
                raise InputError(f"it is larger than {LARGEST >> 20} MB, and no endpoint takes that")
            return self._read(Path(path))
        except OSError as cause:
            raise InputError((cause.strerror or str(cause)).lower()) from cause

    @staticmethod
    def _fetched(data: bytes | None) -> bytes:
        if data is None:
            raise InputError("it is gone")
        return data

    def _keep(self, reference: Reference, data: bytes) -> bytes:
        encoded = pybase64.b64encode(data)
        if reference.sha256 not in self._kept:
            self._held += len(encoded)
        self._kept[reference.sha256] = encoded
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
