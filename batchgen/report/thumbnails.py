"""
What does a picture look like, small?

Thumbnails are named by the hash of the picture and their size: what was made once is used again, and a
picture that was bought anew has another name.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as Pillow
from PIL import ImageOps

from batchgen import imaging
from batchgen.errors import CorruptImageError, StorageError
from batchgen.imaging import Check
from batchgen.records import Value
from batchgen.references import LARGEST

if TYPE_CHECKING:
    from batchgen.records import Image, Reference
    from batchgen.store import Pictures

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"\.?[0-9a-f]{64}-[0-9]+\.webp.*")
_QUALITY = 80


class Seen(Value, frozen=True, kw_only=True):
    """What became of one picture's thumbnail."""

    name: str | None = None
    """The hash that it is named by; None where there is none."""
    problem: str = ""
    """What is wrong with the picture; empty where nothing is."""


class Thumbnails:
    """The small pictures of one page. Any thread may ask."""

    def __init__(self, store: Pictures, folder: Path, pixels: int) -> None:
        """
        Begin with those that an earlier call has left.

        :param folder: where they are; it exists.
        :param pixels: of the longer side at most.
        """
        self._store = store
        self._folder = folder
        self._pixels = pixels
        self._without: set[str] = set()
        """References of which there is none."""

    def file_name(self, name: str) -> str:
        """The file of a thumbnail, in its folder."""
        return f"{name}-{self._pixels}.webp"

    def read(self, name: str) -> bytes:
        """
        The bytes of a thumbnail that was made.

        :raises StorageError: it is there no more.
        """
        path = self._folder / self.file_name(name)
        try:
            return path.read_bytes()
        except OSError as cause:
            raise StorageError(f"{path}: {cause.strerror}; make the report again") from cause

    def of(self, image: Image) -> Seen:
        """
        The thumbnail of a picture of the run directory; one that is missing or damaged is told as a problem.

        Blocks, some 10 ms for a picture that is new.

        :raises StorageError: the thumbnail cannot be written.
        """
        try:
            # A file that was changed since mostly has another size; which ones were, an audit tells.
            if self._is_there(image.sha256) and self._store.size(image.file_name) == image.bytes:
                return Seen(name=image.sha256)
            data = self._store.read(image.file_name)
        except StorageError as cause:
            return Seen(problem=f"the picture cannot be read: {cause}")
        if data is None:
            return Seen(problem="the picture is gone")
        name = sha256(data).hexdigest()
        changed = "" if name == image.sha256 else "the file was changed after it was bought"
        try:
            self._make(name, data)
        except CorruptImageError as cause:
            return Seen(problem=f"the file is no whole picture: {cause}")
        return Seen(name=name, problem=changed)

    def of_reference(self, reference: Reference) -> str | None:
        """
        The thumbnail of a picture that went along, if that is still where it was and what it was.

        :raises StorageError: the thumbnail cannot be written.
        """
        name = reference.sha256
        if not reference.mime or name in self._without:
            return None
        if not self._is_there(name):
            try:
                self._make(name, _unchanged(reference))
            except CorruptImageError:
                self._without.add(name)  # for all the rows that brought it along
                return None
        return name

    def _is_there(self, name: str) -> bool:
        return _HASH.fullmatch(name) is not None and (self._folder / self.file_name(name)).is_file()

    def _make(self, name: str, data: bytes) -> None:
        path = self._folder / self.file_name(name)
        if not path.is_file():
            _write(path, _shrunk(data, self._pixels))


def is_one(name: str) -> bool:
    """Whether a file is called as a thumbnail is, finished or not."""
    return _NAME.fullmatch(name) is not None


def _unchanged(reference: Reference) -> bytes:
    """The bytes of a picture that went along; `CorruptImageError` where they are no longer to be had."""
    path = Path(reference.source)
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise CorruptImageError("it is gone")
        data = path.read_bytes()
    except (OSError, ValueError) as cause:
        raise CorruptImageError("it cannot be read") from cause
    if sha256(data).hexdigest() != reference.sha256:
        raise CorruptImageError("it is another picture now")
    return data


def _shrunk(data: bytes, pixels: int) -> bytes:
    """A picture's first frame as WebP, upright, no side longer than `pixels`."""
    seen = imaging.examine(data, Check.QUICK)  # no decoder sees what is too large or no picture
    with imaging.opened(data, (seen.width, seen.height), "PNG", "JPEG", "WEBP", "GIF") as image:
        image.draft("RGB", (2 * pixels, 2 * pixels))
        coloured = image.convert("RGBA" if image.has_transparency_data else "RGB")
    coloured.thumbnail((pixels, pixels), Pillow.Resampling.LANCZOS, reducing_gap=2.0)
    small = BytesIO()
    ImageOps.exif_transpose(coloured).save(small, "WEBP", quality=_QUALITY, method=2)
    return small.getvalue()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as cause:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: {cause.strerror}; make room or name another place with -o, then run the same command"
        ) from cause
