"""
What did a dead run buy and not live to note?

A process may be killed after a picture has its name on disk and before the ledger knows the answer. Such a
picture is paid for, and its file name leads back to its task: the task is given it instead of another one.
"""

from __future__ import annotations

import shlex
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

from batchgen import imaging
from batchgen.errors import CorruptImageError, DamagedError, StorageError
from batchgen.imaging import EXTENSIONS, Check
from batchgen.ledger import Reader
from batchgen.records import Image, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchgen.ledger import Ledger, Totals, Unanswered
    from batchgen.store import Pictures


def check_not_lost(ledger: Path) -> None:
    """
    Refuse a run directory that has pictures or a table and no ledger: a new one would pay for them again.

    :raises DamagedError: the ledger is gone or empty.
    """
    if ledger.is_file() and ledger.stat().st_size:
        return
    directory = ledger.parent
    files = (ledger.with_name(f"{ledger.name}-wal"), directory / "results.parquet")
    found = [path.name for path in files if path.is_file()]
    pictures = directory / "images"
    found += ["images"] if pictures.is_dir() and any(pictures.iterdir()) else []
    if found:
        there = f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} still there"
        command = f"batchgen verify {shlex.quote(str(directory))} --repair"
        anew = f" make it anew from the last table with `{command}`,"
        remedy = f"restore it from a copy,{anew if 'results.parquet' in found else ''} or choose another"
        raise DamagedError(f"{ledger}: the ledger is gone, {there}; {remedy} run directory with -o")


def adopt(ledger: Ledger, reader: Reader, store: Pictures, *, now: int) -> int:
    """
    Give unfinished tasks the pictures that a dead run left for them; how many those were.

    The caller has settled what that run left unsettled.
    """
    found = [*recognised(reader, store)]
    for _, picture in found:
        store.sync(picture.file_name)
    ledger.adopt(found, now=now)
    return len(found)


def gone(totals: Totals, store: Pictures) -> int:
    """
    How many pictures fewer there are than rows that have one; those done in words have none.

    They are counted, not looked at: a second for a million. Which ones, and whether all others are what they
    should be, is what an audit tells.
    """
    there = sum(not name.rpartition("/")[2].startswith(".") for name in store.names("images"))
    return max(0, totals.tasks.get(Status.SUCCEEDED, 0) - totals.in_words - there)


def left_by(ledger: Path, store: Pictures, key: str, stem: str) -> Image | None:
    """
    The picture that a lost worker made durable for a task, if it came to that.

    What it began to write is deleted. Any thread may ask.
    """
    store.sweep([stem])
    with closing(Reader(ledger)) as reader:
        for _, picture in recognised(reader, store, key):
            store.sync(picture.file_name)
            return picture
    return None


def recognised(reader: Reader, store: Pictures, key: str | None = None) -> Iterator[tuple[Unanswered, Image]]:
    """
    The tasks without an answer whose picture is there, whole, and of no earlier purchase.

    :param key: of the one task that is meant; None is all.
    """
    for task in reader.unanswered(key):
        pictures = [picture for picture in _standing(task, store) if _is_new(task, picture)]
        if len(pictures) == 1:
            yield task, pictures[0]


def _standing(task: Unanswered, store: Pictures) -> Iterator[Image]:
    for extension in EXTENSIONS:
        file_name = f"images/{task.stem}.{extension}"
        try:
            data = store.read(file_name)
            seen = None if data is None else imaging.examine(data, Check.FULL)
        except (CorruptImageError, StorageError):
            continue  # nobody's picture; `verify` tells of it
        if data is not None and seen is not None and seen.extension == extension:
            yield Image(
                file_name=file_name,
                sha256=sha256(data).hexdigest(),
                mime=seen.mime,
                width=seen.width,
                height=seen.height,
                bytes=len(data),
            )


def _is_new(task: Unanswered, picture: Image) -> bool:
    """With `--again` the file may be the old one: known by its hash, or not to be told apart any more."""
    if not task.bought_before:
        return True
    return bool(task.images) and picture.sha256 not in {image.sha256 for image in task.images}
