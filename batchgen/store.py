"""
How do bytes become files that survive a crash?

The order on disk is the promise: temporary file in the target folder → fsync → rename → fsync of the folder.
Only then does the caller tell the ledger. An fsync that failed is never tried again: the kernel has dropped
the pages by then, and the second try would succeed without them.

Folders are entered one by one through descriptors that follow no symbolic link, so nothing planted in the run
directory can lead a write out of it.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import unicodedata
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchgen.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Protocol

    class Pictures(Protocol):
        """Where the pictures of one run are: files (`Store`) or objects; see there."""

        def put(
            self, stem: str, extension: str, data: bytes | bytearray | memoryview, *, folder: str = "images"
        ) -> str:
            """See `Store.put`."""

        def set_aside(self, stem: str, data: bytes | bytearray | memoryview) -> str:
            """See `Store.set_aside`."""

        def remove(self, file_name: str) -> None:
            """See `Store.remove`."""

        def read(self, file_name: str) -> bytes | None:
            """See `Store.read`."""

        def size(self, file_name: str) -> int | None:
            """See `Store.size`."""

        def irregular(self, file_name: str) -> str:
            """See `Store.irregular`."""

        def address(self, file_name: str) -> str:
            """See `Store.address`."""

        def sync(self, file_name: str) -> None:
            """See `Store.sync`."""

        def names(self, folder: str) -> Iterator[str]:
            """See `Store.names`."""

        def move(self, source: str, target: str) -> None:
            """See `Store.move`."""

        def move_aside(self, file_name: str) -> str:
            """See `Store.move_aside`."""

        def sweep(self, stems: Iterable[str]) -> int:
            """See `Store.sweep`."""


MAX_COMPONENT = 100
MAX_STEM = 400
MAX_DEPTH = 8

MAX_BYTES = 256 << 20
"""No picture is larger: an answer may have a quarter of it."""

# Control, bidirectional control and undecodable characters, and what Windows keeps for itself.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
# A folder must not take the name a picture may have beside it.
_PICTURE = re.compile(r"\.(png|jpg|webp|gif|bin)$", re.IGNORECASE)
_MARKED = re.compile(r"~[0-9a-f]{16}$")

# A crash leaves at most one temporary file of a stem behind and `sweep` takes it away; the further slots are
# for crashes that nobody swept up after. Few names are what spares `sweep` a look through a million files.
_SLOTS = 8
_TEMPORARY = re.compile(r"/\.[^/]+\.[0-7]\.part$")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_INSIDE = _FOLDER | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDERS_KNOWN = 4096

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs that hold many files open",
    errno.EACCES: "check who owns the run directory and its permissions",
    errno.EPERM: "check who owns the run directory and its permissions",
    errno.EROFS: "choose a run directory that can be written",
    errno.ENOENT: "check that the run directory is still there",
    errno.EEXIST: "delete the hidden .part files beside it, or what has its name",
    errno.ENOTDIR: "a file or a symbolic link stands where a folder must be; move it away",
    errno.ELOOP: "a symbolic link stands where a folder must be; move it away",
    errno.EISDIR: "a folder stands where the file must be; move it away",
    errno.ENAMETOOLONG: "choose a run directory with a shorter path",
    errno.EIO: "the disk may be failing; check it before anything else",
}


def safe_stem(name: str) -> str:
    r"""
    Turn a row's name into a relative path, without extension, that is harmless on every file system.

    Only `/` separates folders; `\` becomes `_` like any other unsafe character. What had to be altered or cut
    ends in `~` and 16 hex digits of the name's BLAKE2b, and so does what looks like that already: two names
    never fold into one. (With 8 digits a million long names of one beginning would fold in a hundred pairs.)
    A clean name stays as it is, in NFC; names that differ in case or composition alone stay twins.
    """
    composed = unicodedata.normalize("NFC", name)
    parts = composed.split("/")
    stem = _joined(parts, MAX_COMPONENT)
    fits = all(parts) and len(parts) <= MAX_DEPTH and len(stem.encode()) <= MAX_STEM
    if fits and stem == composed and not _MARKED.search(stem):
        return stem
    mark = "~" + blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    *folders, last = [part for part in parts if _clean(part, MAX_COMPONENT)] or ["unnamed"]
    kept = [*folders[: MAX_DEPTH - 1], last]
    return _joined(kept, min(MAX_COMPONENT, MAX_STEM // len(kept) - 1), mark)


def _joined(parts: list[str], limit: int, mark: str = "") -> str:
    *folders, last = parts
    cleaned = [_PICTURE.sub(r"_\1", _clean(folder, limit)) for folder in folders]
    return "/".join([*cleaned, _clean(last, limit - len(mark)) + mark])


def _clean(component: str, limit: int) -> str:
    text = _cut(_UNSAFE.sub("_", component).strip(". "), limit)
    return _cut(f"_{text}", limit) if _RESERVED.match(text) else text


def _cut(component: str, limit: int) -> str:
    return component.encode()[:limit].decode(errors="ignore").rstrip(". ")


class Store:
    """
    The pictures of one run, in `images/`, `drafts/` and `corrupt/` of its directory `root`, which exists.

    Everything blocks and may be called from many threads at once, one writer a stem. Whoever writes holds the
    run's lock. All failures are `StorageError`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Folders whose own entry is known to be on disk. To find one there is not enough: the process that
        # made it may have died before its fsync, and another thread may not have come to it yet.
        self._durable: set[str] = set()

    def put(
        self, stem: str, extension: str, data: bytes | bytearray | memoryview, *, folder: str = "images"
    ) -> str:
        """Write `<folder>/<stem>.<extension>`, replacing what is there; return that name once durable."""
        file_name = f"{folder}/{stem}.{extension}"
        with _reported(self.root / file_name), self._folder(file_name, make=True) as (within, name):
            _replace(within, name, name.removesuffix(f".{extension}"), data)
        return file_name

    def set_aside(self, stem: str, data: bytes | bytearray | memoryview) -> str:
        """
        Keep a corrupt picture as `corrupt/<stem>.bin`, then `.2.bin` and so on; return its name once durable.

        It is for a person to look at, so it is written in place: a crash may leave it short.
        """
        start = f"corrupt/{stem}"
        with _reported(self.root / start), self._folder(start, make=True) as (folder, name):
            suffix = next(suffix for suffix in _numbered(".bin") if _create(folder, name + suffix, data))
            _sync_folder(folder)
        return start + suffix

    def remove(self, file_name: str) -> None:
        """Delete a file of this store; one that is not there is fine."""
        with (
            _reported(self.root / file_name),
            suppress(FileNotFoundError),
            self._folder(file_name, make=False) as (folder, name),
        ):
            os.unlink(name, dir_fd=folder)

    def read(self, file_name: str) -> bytes | None:
        """Give the bytes of a file of this store, None when it is not there; only a plain file is read."""
        with (
            _reported(self.root / file_name),
            suppress(FileNotFoundError),
            self._folder(file_name, make=False) as (folder, name),
        ):
            return _read(folder, name, file_name)
        return None

    def sync(self, file_name: str) -> None:
        """Make sure that a file, whole since it has its name, keeps that name after a power failure."""
        with _reported(self.root / file_name), self._folder(file_name, make=False) as (folder, _):
            _sync_folder(folder)

    def names(self, folder: str) -> Iterator[str]:
        """Whatever is in a folder of this store and is no folder itself, in no order; nothing is followed."""
        inside = [folder]
        while inside:
            name = inside.pop()
            with (
                _reported(self.root / name),
                suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(self.root / name) as found,
            ):
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        inside.append(f"{name}/{entry.name}")
                    else:
                        yield f"{name}/{entry.name}"

    def move(self, source: str, target: str) -> None:
        """Give a file of this store another name, for good; the new name must be free."""
        with (
            _reported(self.root / source),
            self._folder(source, make=False) as (from_folder, old),
            self._folder(target, make=True) as (to_folder, new),
        ):
            if _is_taken(to_folder, new):
                raise FileExistsError(errno.EEXIST, f"{target} is there already")
            os.rename(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder)
            _sync_folder(to_folder)
            _sync_folder(from_folder)

    def move_aside(self, file_name: str) -> str:
        """Move what has a picture's name to `corrupt/`, whatever it is; return its new name."""
        path, dot, extension = file_name.partition("/")[2].rpartition(".")
        start = f"corrupt/{path}"
        with _reported(self.root / start), self._folder(start, make=True) as (folder, name):
            suffix = next(end for end in _numbered(dot + extension) if not _is_taken(folder, name + end))
        self.move(file_name, start + suffix)
        return start + suffix

    def sweep(self, stems: Iterable[str]) -> int:
        """Delete what a crash left of unfinished `put`s to `images/`; return how many files that were."""
        return sum(self._sweep_stem(f"images/{stem}") for stem in stems)

    def _sweep_stem(self, start: str) -> int:
        with (
            _reported(self.root / start),
            suppress(FileNotFoundError),
            self._folder(start, make=False) as (folder, name),
        ):
            return _sweep(folder, name)
        return 0

    def address(self, file_name: str) -> str:
        """How a file of this store is named to whoever is to read it: its path."""
        return str(self._path(file_name))

    def size(self, file_name: str) -> int | None:
        """Bytes of what has a file's name, None when nothing has."""
        about = self._about(file_name)
        return None if about is None else about.st_size

    def irregular(self, file_name: str) -> str:
        """What has a file's name if that is no plain file; empty where it is, or nothing is there."""
        about = self._about(file_name)
        if about is None or stat.S_ISREG(about.st_mode):
            return ""
        mode = about.st_mode
        return (
            "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no plain file"
        )

    def _about(self, file_name: str) -> os.stat_result | None:
        path = self._path(file_name)
        with _reported(path), suppress(FileNotFoundError, NotADirectoryError):
            return path.lstat()
        return None

    def _path(self, file_name: str) -> Path:
        return self.root.joinpath(*self._parts(file_name))

    def _parts(self, file_name: str) -> list[str]:
        parts = file_name.split("/")
        if len(parts) < 2 or "\0" in file_name or not {"", ".", ".."}.isdisjoint(parts):
            raise StorageError(
                f"{file_name!r} is not the name of a file in {self.root}; was it edited by hand?"
            )
        return parts

    @contextmanager
    def _folder(self, file_name: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """Open the folder of a file; give its descriptor and the file's own name."""
        *folders, name = self._parts(file_name)
        folder = os.open(self.root, _FOLDER)
        try:
            for depth, component in enumerate(folders, 1):
                inner = self._enter(folder, component, "/".join(folders[:depth]), make=make)
                os.close(folder)
                folder = inner
            yield folder, name
        finally:
            os.close(folder)

    def _enter(self, folder: int, component: str, path: str, *, make: bool) -> int:
        if make and path not in self._durable:
            self._make(folder, component, path)
        try:
            return os.open(component, _FOLDER_INSIDE, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        # Somebody deleted the folder in the middle of the run.
        self._make(folder, component, path)
        return os.open(component, _FOLDER_INSIDE, dir_fd=folder)

    def _make(self, folder: int, component: str, path: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(component, dir_fd=folder)
        _sync_folder(folder)
        if len(self._durable) >= _FOLDERS_KNOWN:
            self._durable.clear()
        self._durable.add(path)


def write_whole(path: Path, data: bytes) -> None:
    """
    Replace a file so that after a crash it holds the old bytes or the new ones, and the new ones for good.

    Its folder must exist and have one owner: what an earlier crash left beside the file is deleted.
    """
    with _reported(path):
        folder = os.open(path.parent, _FOLDER)
        try:
            _sweep(folder, path.name)
            _replace(folder, path.name, path.name, data)
        finally:
            os.close(folder)


def put_in_place(temporary: Path, path: Path) -> None:
    """
    Give a file its name, so that after a crash that leads to the old bytes or to the new ones.

    For what is too large to be held: `write_whole` does the same with bytes.

    :param temporary: whole, in the same folder.
    :raises OSError: the disk refuses.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """
    See that the names in a folder outlive a crash.

    :raises OSError: the disk refuses.
    """
    folder = os.open(path, _FOLDER)
    try:
        _sync_folder(folder)
    finally:
        os.close(folder)


def _read(folder: int, name: str, file_name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(file, "rb") as opened:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            raise StorageError(f"{file_name}: this is no picture; move it away")
        return opened.read()


def _is_taken(folder: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def _replace(folder: int, name: str, component: str, data: bytes | bytearray | memoryview) -> None:
    temporary = next((slot for slot in _slots(component) if _create(folder, slot, data)), None)
    if temporary is None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    _sync_folder(folder)


def _create(folder: int, name: str, data: bytes | bytearray | memoryview) -> bool:
    """Write a new file to the disk; False when one of this name is there already."""
    try:
        file = os.open(name, _NEW_FILE, 0o666, dir_fd=folder)
    except FileExistsError:
        return False
    try:
        try:
            _write(file, data)
            os.fsync(file)
            _let_go(file)
        finally:
            os.close(file)
    except OSError:
        with suppress(OSError):  # what went wrong first is what counts
            os.unlink(name, dir_fd=folder)
        raise
    return True


def _write(file: int, data: bytes | bytearray | memoryview) -> None:
    # A disk that fills up takes a part without an error; the next write tells.
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(file, view[done:])


def _let_go(file: int) -> None:
    """
    Have the kernel forget what is on disk for good.

    A night's pictures would fill the memory of the machine, which then looks for room with each of them: to
    take the pages of the last one again costs half as much CPU. Advice only, and not every system takes it.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        # Some file systems (SMB, FUSE) cannot sync a folder and say so: there the rename is all there is.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise


def _sweep(folder: int, component: str) -> int:
    count = 0
    for temporary in _slots(component):
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
            count += 1
    return count


def is_temporary(file_name: str) -> bool:
    """Whether a file is what an unfinished `put` leaves."""
    return _TEMPORARY.search(file_name) is not None


def _slots(component: str) -> Iterator[str]:
    return (f".{component}.{slot}.part" for slot in range(_SLOTS))


def _numbered(suffix: str) -> Iterator[str]:
    return itertools.chain([suffix], (f".{number}{suffix}" for number in itertools.count(2)))


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the disk and the file system")
        raise StorageError(f"{path}: {error.strerror}; {remedy}, then run the same command again") from error
