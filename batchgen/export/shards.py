"""
How does an export come to be whole, or to be gone on with?

Each file is written beside its place, synced and renamed; what is finished is noted in `.unfinished.jsonl`,
and `.export.json` is written last and takes its place. Both are hidden: a reader that is given the folder
takes any other JSON in it for data. Whatever the new export does not have is removed before its first file is
written: an interrupted one is a part of the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import msgspec

from batchgen.errors import BatchgenError, InputError, LockedError, StorageError
from batchgen.records import Value
from batchgen.store import put_in_place, sync_folder, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

RECORD = ".export.json"
CARD = "README.md"
"""The one file that people are asked to edit."""
_EDITED = "README.edited"
_JOURNAL = ".unfinished.jsonl"
_LOCK = ".lock"
_PIECE = 1 << 20
_NAME = re.compile(r"([a-z]+/)?[A-Za-z0-9][A-Za-z0-9-]*\.[a-z]+")
_ODD = "this is not the record of an export; empty the folder, or choose another with -o"


class Shard(Value, frozen=True, kw_only=True):
    """A file of an export."""

    file: str
    rows: int = 0
    bytes: int = 0
    sha256: str = ""
    fingerprint: str = ""
    """Of what went into it; empty where that is not known to be all that belongs there."""


class _Known(Value, frozen=True, kw_only=True):
    """What an earlier export says of itself."""

    format: str
    files: tuple[Shard, ...] = ()


class _Sink(io.RawIOBase):
    """A file that knows its hash."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.hash = sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        self.hash.update(data)
        with memoryview(data) as view:
            self._file.write(view)
            self.size += view.nbytes
            return view.nbytes

    def tell(self) -> int:
        return self.size


class Target:
    """The folder of one export, for one writer at a time."""

    def __init__(self, out: Path, kind: str, *, folder: str | None = None) -> None:
        """
        Take a folder that is empty, not there, or an export of this kind.

        :param folder: one in it of which no list of files is kept.
        """
        self.out = out
        self._kind = kind
        self._folder = folder
        self._lock = -1
        self._known: dict[str, Shard] = {}

    def __enter__(self) -> Self:
        with _reported(self.out):
            if self.out.is_symlink() or (self.out.exists() and not self.out.is_dir()):
                raise InputError(f"{self.out}: this is no folder; choose another with -o")
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.out / _LOCK)
        try:
            self._known = {shard.file: shard for shard in self._former()}
            self._check()
        except BatchgenError:
            self._leave()
            raise
        return self

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # who finds the lock finds it free
            (self.out / _LOCK).unlink()
        with contextlib.suppress(OSError):  # unless there is nothing in it
            self.out.rmdir()
        os.close(self._lock)

    def __exit__(self, *_: object) -> None:
        for path in self._temporary():
            with contextlib.suppress(OSError):  # the next export removes it
                path.unlink()
        self._leave()

    def _former(self) -> Iterator[Shard]:
        """What earlier exports have put here, finished or not."""
        for name, read in ((RECORD, _whole), (_JOURNAL, _journal)):
            path = self.out / name
            with _reported(path):
                if not path.is_file():
                    continue
                known = read(path)
            if not all(map(_is_inside, known.files)):
                raise InputError(f"{path}: {_ODD}")
            if known.format != self._kind:
                raise InputError(
                    f"{self.out}: an export to {known.format} is here; choose another folder with -o"
                )
            yield from known.files

    def _check(self) -> None:
        """Refuse a folder in which there is anything else."""
        ours = set(self._known)
        ours |= {file.partition("/")[0] for file in self._known}
        if self._known and self._folder is not None:
            ours.add(self._folder)
        with _reported(self.out):
            for path in self._visible():
                name = path.relative_to(self.out).as_posix()
                kept = name.startswith(_EDITED) and CARD in self._known
                if (name not in ours and not kept) or path.is_symlink():
                    raise InputError(
                        f"{self.out}: {name} is there, and no export to {self._kind} has put it there;"
                        " move it away, or choose another folder with -o"
                    )

    def _visible(self) -> Iterator[Path]:
        for path in sorted(self.out.iterdir()):
            if path.name.startswith("."):
                continue
            yield path
            if path.is_dir() and not path.is_symlink() and path.name != self._folder:
                yield from (inner for inner in sorted(path.iterdir()) if not inner.name.startswith("."))

    def _temporary(self) -> Iterator[Path]:
        folders = [self.out, *{(self.out / file).parent for file in self._known} - {self.out}]
        for folder in folders:
            yield from folder.glob(".*.part")

    @property
    def spool(self) -> Path:
        """Where rows may wait; gone in the end."""
        return self.out / ".rows.part"

    def whole(self, fingerprints: Mapping[str, str]) -> frozenset[str]:
        """Which of these files are here, as they would be written: by what went in, and by what is there."""
        found = set()
        for file, fingerprint in fingerprints.items():
            known = self._known.get(file)
            if known is not None and known.fingerprint == fingerprint and self._is_as_noted(known):
                found.add(file)
        return frozenset(found)

    def _is_as_noted(self, shard: Shard) -> bool:
        path, content = self.out / shard.file, sha256()
        with _reported(path):
            if not path.is_file() or path.stat().st_size != shard.bytes:
                return False
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    content.update(piece)
        return content.hexdigest() == shard.sha256

    def freed(self, kept: frozenset[str]) -> int:
        """Bytes that are free once the other files are gone."""
        others = (self.out / file for file in self._known if file not in kept)
        with _reported(self.out):
            return sum(path.stat().st_size for path in others if path.is_file())

    def is_done(self, fingerprints: Mapping[str, str], kept: frozenset[str]) -> bool:
        """Whether a finished export of just these files is here."""
        files = {file for file, shard in self._known.items() if shard.fingerprint}
        others = [file for file in self._known if file not in files]
        return (
            (self.out / RECORD).is_file()
            and not (self.out / _JOURNAL).is_file()
            and files == kept == fingerprints.keys()
            and all((self.out / file).is_file() for file in others)
        )

    def begin(self, files: Iterable[str], kept: frozenset[str]) -> str | None:
        """Note what will be written, and remove all that is no part of it; where an edited card is now."""
        stale = [file for file in self._known if file not in kept]
        planned = {file: Shard(file=file) for file in (*stale, *files)}
        planned |= {file: self._known[file] for file in kept}
        journal = [{"format": self._kind}, *planned.values()]
        edited = self._edited()
        write_whole(self.out / _JOURNAL, b"".join(msgspec.json.encode(line) + b"\n" for line in journal))
        self._known = planned
        with _reported(self.out):
            for file in (RECORD, *stale):
                (self.out / file).unlink(missing_ok=True)
            for path in self._temporary():
                if path != self.spool:
                    path.unlink()
            sync_folder(self.out)
        return edited

    def _edited(self) -> str | None:
        """Give a card another name that is not as it was written."""
        known, card = self._known.get(CARD), self.out / CARD
        if known is None or not known.sha256 or self._is_as_noted(known) or not card.is_file():
            return None
        names = (f"{_EDITED}{number}.md" for number in ("", *(f".{count}" for count in range(2, 1000))))
        with _reported(card):
            name = next(name for name in names if not (self.out / name).exists())
            card.rename(self.out / name)
        return name

    def noted(self, file: str) -> Shard:
        """What is known of a file."""
        return self._known[file]

    def write(self, file: str, write: Callable[[BinaryIO], tuple[int, str]]) -> Shard:
        """
        Put a file in its place, whole.

        :param write: gives how many rows it has written, and their fingerprint.
        :raises StorageError: the disk refuses.
        """
        path = self.out / file
        temporary = path.with_name(f".{path.name}.part")
        with _reported(path):
            path.parent.mkdir(exist_ok=True)
            with temporary.open("wb") as raw:
                sink = _Sink(raw)
                rows, fingerprint = write(sink)  # type: ignore[arg-type]
            put_in_place(temporary, path)
            shard = Shard(
                file=file,
                rows=rows,
                bytes=sink.size,
                sha256=sink.hash.hexdigest(),
                fingerprint=fingerprint,
            )
            with (self.out / _JOURNAL).open("ab") as journal:
                journal.write(msgspec.json.encode(shard) + b"\n")
                journal.flush()
                os.fsync(journal.fileno())
        self._known[file] = shard
        return shard

    def finish(self, record: bytes) -> None:
        """Say that all is there."""
        write_whole(self.out / RECORD, record)
        with _reported(self.out):
            (self.out / _JOURNAL).unlink()


def _locked(path: Path) -> int:
    """Take a lock file that is deleted by whoever held it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
        except BlockingIOError:
            os.close(file)
            raise LockedError(f"{path.parent}: another export is at work here; wait for its end") from None
        os.close(file)


def _whole(path: Path) -> _Known:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Known)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InputError(f"{path}: {_ODD}") from None


def _journal(path: Path) -> _Known:
    """What was noted; the last line may be torn."""
    header, *lines = path.read_bytes().split(b"\n")[:-1] or [b""]
    try:
        known = msgspec.json.decode(header, type=_Known)
        files = [msgspec.json.decode(line, type=Shard) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InputError(f"{path}: {_ODD}") from None
    return _Known(format=known.format, files=tuple(files))


def _is_inside(shard: Shard) -> bool:
    """Whether a name leads nowhere else; what has it may be deleted."""
    return _NAME.fullmatch(shard.file) is not None


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise StorageError(
            f"{path}: {reason}; make room or make it writable, and the same command goes on,"
            " or choose another folder with -o"
        ) from cause
