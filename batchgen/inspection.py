"""
Is a file what the ledger has recorded of it, and whose is it?

Nothing is changed here, and nothing is followed that is no plain file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from batchgen import imaging
from batchgen.errors import CorruptImageError, StorageError
from batchgen.imaging import EXTENSIONS
from batchgen.ledger import Lost, Stray
from batchgen.records import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.imaging import Check
    from batchgen.ledger import Audit, Record
    from batchgen.records import Image
    from batchgen.store import Pictures

_DRAFT = re.compile(r"(?P<stem>.*)-[0-9]+")


class Kind(StrEnum):
    """What can be wrong."""

    MISSING = "missing"
    """A recorded picture is not there."""
    EDITED = "edited"
    """A file is not the recorded one any more."""
    UNDECODABLE = "undecodable"
    """A file is the recorded one and no whole picture."""
    IRREGULAR = "irregular"
    """A link, a folder or the like stands where a picture should be."""
    UNREADABLE = "unreadable"
    """A file cannot be read; nothing is known of it."""
    MISPLACED = "misplaced"
    """A picture is under another name: swapped with another row's, or moved."""
    UNRECORDED = "unrecorded"
    """A picture came and the run died before its answer was noted."""
    ORPHAN = "orphan"
    """A file that belongs to no row."""
    UNFINISHED = "unfinished"
    """A temporary file of a run that died."""
    UNSETTLED = "unsettled"
    """A request of a run that died: maybe billed."""
    UNANSWERED = "unanswered"
    """A row that counts as succeeded, without a picture or an answer that brought one."""
    SUMS = "sums"
    """A row whose tokens or money are not the sum of its requests."""
    TABLE = "table"
    """`results.parquet` does not say what the ledger says."""
    LOG = "log"
    """The end of the ledger's log was not committed, or damaged: SQLite went back to the commit before."""
    LEDGER = "ledger"
    """The ledger was damaged or gone."""
    MANIFEST = "manifest"
    """The copy of the manifest cannot be read: the table can be neither compared nor written."""


class Inspection:
    """The files of one run directory, held against its ledger; from any number of threads."""

    def __init__(self, store: Pictures, check: Check) -> None:
        self._store = store
        self._check = check

    def pictures(self, record: Record) -> list[tuple[Lost, Stray | None]]:
        """Which recorded pictures of a task are not what they should be, and what stands in their place."""
        looked = (self._compare(record, image) for image in record.images)
        return [found for found in looked if found is not None]

    def _compare(self, record: Record, image: Image) -> tuple[Lost, Stray | None] | None:
        """Hold a recorded picture against its file; None when it is what it should be."""
        name = image.file_name

        def lost(kind: Kind, detail: str = "") -> Lost:
            return Lost(
                file=name,
                key=record.key,
                id=record.id,
                sha256=image.sha256,
                kind=kind,
                detail=detail,
                draft=image.draft,
                cost=record.cost,
            )

        def stray(content: str | None = None) -> Stray:
            return Stray(file=os.fsencode(name), id=record.id, sha256=content, recorded=True)

        try:
            what = self._store.irregular(name)
            if what:
                return lost(Kind.IRREGULAR, what), stray()
            data = self._store.read(name)
        except StorageError as cause:
            return lost(Kind.UNREADABLE, str(cause)), None
        if data is None:
            return lost(Kind.MISSING), None
        content, fault = sha256(data).hexdigest(), self._fault(data)
        if content != image.sha256:
            return lost(Kind.EDITED, fault and f"no picture any more: {fault}"), stray(content)
        return (lost(Kind.UNDECODABLE, fault), stray()) if fault else None

    def _fault(self, data: bytes) -> str:
        try:
            imaging.examine(data, self._check)
        except CorruptImageError as cause:
            return str(cause)
        return ""

    def content(self, name: str) -> str | None:
        """The sha256 of a file; None where it cannot be read."""
        try:
            data = self._store.read(name)
        except StorageError:
            return None  # a link or the like, told of by its name
        return None if data is None else sha256(data).hexdigest()

    def others(
        self, names: Sequence[str], audit: Audit, *, also: frozenset[str], live: bool, hashed: bool
    ) -> list[Stray]:
        """
        Those of some files that belong to no task.

        :param also: files that belong to their tasks though they are not recorded yet.
        :param live: whether a run may yet record more.
        :param hashed: whether their content is asked for.
        """
        stems = {name: stem for name in names if (stem := _stem(name)) is not None}
        owners = audit.owners(stems.values())
        strays = []
        for name in names:
            owner = owners.get(stems.get(name, ""))
            if name not in also and (owner is None or not _belongs(name, owner, live=live)):
                strays.append(_orphan(name, owner, self.content(name) if hashed else None))
        return strays


def _belongs(name: str, owner: Record, *, live: bool) -> bool:
    # An interim picture is of no account, and what a live run has not noted yet will be.
    if name.startswith("drafts/") or (live and owner.status == Status.PENDING):
        return True
    composed = unicodedata.normalize("NFC", name)
    return any(composed == unicodedata.normalize("NFC", image.file_name) for image in owner.images)


def _stem(name: str) -> str | None:
    """The file name of a task, without extension, of which this may be a picture; None when of none."""
    folder, _, rest = name.partition("/")
    stem, _, extension = rest.rpartition(".")
    if extension not in EXTENSIONS or not _is_text(name):
        return None
    draft = _DRAFT.fullmatch(stem) if folder == "drafts" else None
    return draft["stem"] if draft else stem


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _orphan(name: str, owner: Record | None, content: str | None) -> Stray:
    detail = ""
    if owner is not None:
        what = "an earlier picture of it or a copy" if owner.status == Status.SUCCEEDED else owner.status
        detail = f"named like the picture of row {owner.id} ({what})"
    return Stray(
        file=os.fsencode(name), id=owner.id if owner else "", sha256=content, kind=Kind.ORPHAN, detail=detail
    )
