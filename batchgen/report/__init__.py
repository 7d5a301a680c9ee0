"""
How does a person look at what a run bought?

One HTML file that needs no network and no server: a gallery to search, sort and mark in, the figures of the
night, and small pictures beside the file or inside it. It is derived from manifest and ledger, also while a
run is at work, and replaces the one before whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from batchgen import depot, recovery
from batchgen.errors import InputError, StorageError
from batchgen.job import JOB, LEDGER, MANIFEST, Job
from batchgen.layout import COUNTED
from batchgen.ledger import History
from batchgen.manifest import Manifest
from batchgen.records import Value
from batchgen.report import charts, page
from batchgen.report.gallery import Gallery
from batchgen.report.thumbnails import Thumbnails, is_one
from batchgen.store import put_in_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from batchgen.depot import Seen
    from batchgen.report.gallery import Piece

_SEEN = 1000
"""Files of a folder that are looked at."""


class Built(Value, frozen=True, kw_only=True):
    """What a report came to."""

    page: str
    """Its path."""
    bytes: int
    """Of the page."""
    thumbnails: str | None
    """The folder beside it; None where they are inside."""
    rows: int
    """Rows of the manifest."""
    shown: int
    """Those in the gallery."""
    pictures: int
    """Those with a picture that can be shown."""
    problems: tuple[tuple[str, int, str], ...]
    """What is wrong with pictures: what, how many, the first one's file name."""
    cut: int
    """Texts that are too long to be there as a whole."""


def build(
    place: Path | str,
    target: Path,
    *,
    pixels: int = 256,
    limit: int = 10_000,
    inline: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Built:
    """
    Make the page of a run.

    :param place: its directory, or the URL of its place in a bucket; links to whole pictures lead to where
        they would be if they were beside its ledger on this machine.
    :param target: the page; ends in .html. Thumbnails go into the folder of the same name without that.
    :param pixels: of a thumbnail's longer side.
    :param limit: rows in the gallery at most; the figures count all of them.
    :param inline: whether the thumbnails are inside the page.
    :param on_progress: called with how many of how many rows are done.
    :raises InputError: this is no run directory, its ledger is damaged, or the target is no name or no place
        for a page.
    :raises StorageError: something cannot be read or written; an earlier page is untouched.
    """
    if target.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{target}: a report is a page; end its name in .html")
    with depot.seen(str(place)) as seen:
        return _built(seen, target, pixels=pixels, limit=limit, inline=inline, on_progress=on_progress)


def _built(
    seen: Seen,
    target: Path,
    *,
    pixels: int,
    limit: int,
    inline: bool,
    on_progress: Callable[[int, int], None] | None,
) -> Built:
    directory = seen.directory
    recovery.check_not_lost(directory / LEDGER)
    if (directory / LEDGER).is_file() and not (directory / MANIFEST).is_file():
        raise InputError(
            f"{seen.name}: no run has begun here; name the run directory that `batchgen run` made"
        )
    with contextlib.closing(History(directory / LEDGER)) as reader, contextlib.ExitStack() as stack:
        manifest = Manifest(directory / MANIFEST)
        beside = target.with_suffix("")
        _check_place(seen.local, target, None if inline else beside)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if inline else beside
        _make(folder)
        thumbnails = Thumbnails(seen.pictures, folder, pixels)
        gallery = Gallery(seen.local, target.parent, thumbnails, reader, inline=inline)
        spooled = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        _spool(gallery.pieces(manifest, limit, on_progress), spooled)
        about = page.About(
            directory=seen.local,
            job=_job(directory),
            totals=reader.totals(),
            last=reader.last_run(),
            began=reader.began(),
            charts=charts.drawn(reader),
            counts=gallery.counts(),
            columns=tuple(gallery.columns),
            shown=gallery.shown,
            cut=gallery.cut,
            folder=None if inline else folder.name,
            pixels=pixels,
        )
        size = _write(target, page.parts(about, _lines(spooled)))
    return Built(
        page=str(target),
        bytes=size,
        thumbnails=None if inline else str(folder),
        rows=manifest.tasks,
        shown=gallery.shown,
        pictures=gallery.pictures,
        problems=tuple((what, count, gallery.first[what]) for what, count in gallery.problems.most_common()),
        cut=gallery.cut,
    )


def _check_place(directory: Path, target: Path, beside: Path | None) -> None:
    """
    Refuse a place where page or thumbnails would lie among other files.

    :param beside: the folder of the thumbnails.
    """
    for name in COUNTED:
        if any(
            each.resolve().is_relative_to((directory / name).resolve()) for each in (target, beside or target)
        ):
            raise InputError(
                f"{target}: {directory / name} has pictures of rows and nothing else; choose another with -o"
            )
    if beside is None or not beside.is_dir():
        return
    with _placed(beside):
        found = [path.name for path in islice(beside.iterdir(), _SEEN)]
    if found and not any(map(is_one, found)):
        raise InputError(
            f"{target}: its thumbnails would go into {beside}, among other files; give the page another name"
            " with -o, or put them inside it with --inline"
        )


def _make(folder: Path) -> None:
    with _placed(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _placed(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise StorageError(f"{folder}: {cause.strerror}; name another place with -o") from cause


def _job(directory: Path) -> Job | None:
    """What the last run was told, where that is still there to be read."""
    try:
        return msgspec.json.decode((directory / JOB).read_bytes(), type=Job)
    except (OSError, msgspec.MsgspecError):
        return None


def _spool(pieces: Iterable[Piece], file: IO[str]) -> None:
    """Put the gallery aside, line by line: what comes before it in the page counts all of it."""
    try:
        file.writelines(f"{page.as_json(piece)}\n" for piece in pieces)
        file.seek(0)
    except OSError as cause:
        raise StorageError(
            f"{tempfile.gettempdir()}: {cause.strerror}; make room, or name another place with TMPDIR"
        ) from cause


def _lines(file: IO[str]) -> Iterator[str]:
    return (line.rstrip("\n") for line in file)


def _write(target: Path, parts: Iterable[str]) -> int:
    """Write the page beside its place and put it there; its size in bytes."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(parts)
        put_in_place(temporary, target)
        return target.stat().st_size
    except OSError as cause:
        raise StorageError(
            f"{target}: {cause.strerror}; make room or name another place with -o, then run the same command"
        ) from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
