"""
Does every row have its one picture, and every picture its row?

Manifest, ledger, files and table are held against each other: each succeeded row has one whole file of the
recorded hash and one answer in the ledger that brought it; no file is left over; the sums add up. What can be
put right without losing a picture or a cent of the account is put right where that is asked for.
"""

from __future__ import annotations

import os
import re
import stat
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

from batchgen import imaging, lock, recovery, results
from batchgen.errors import CorruptImageError, InputError, StorageError
from batchgen.imaging import EXTENSIONS, Check
from batchgen.ledger import EXAMPLES, Audit, Ledger, Lost, Stray, usd
from batchgen.manifest import Manifest
from batchgen.records import Status, Value
from batchgen.runner import LEDGER, MANIFEST, TABLE
from batchgen.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal
    from pathlib import Path

    from batchgen.ledger import Record, Tasks
    from batchgen.records import Image

_THREADS = 4
"""As many as a run decodes with; each holds one picture."""
_AT_ONCE = 256
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
    MANIFEST = "manifest"
    """The copy of the manifest cannot be read: the table can be neither compared nor written."""


class Finding(Value, frozen=True, kw_only=True):
    """One thing that is wrong."""

    id: str = ""
    """The row's, where one is meant."""
    file: str = ""
    """Relative to the run directory."""
    detail: str = ""


class Problem(Value, frozen=True, kw_only=True):
    """All that is wrong in one way."""

    count: int
    repaired: int = 0
    """How many of them are no more."""
    first: tuple[Finding, ...] = ()
    """At most 20."""


class Report(Value, frozen=True, kw_only=True):
    """What an audit came to."""

    directory: str
    live: bool
    """Whether a run was at work meanwhile: what is in flight is no problem then."""
    tasks: Mapping[str, int]
    """Rows of the manifest by status; without a manifest those of the ledger."""
    pictures: int
    """Pictures that are as they were bought."""
    again_usd: Decimal
    """What the lost pictures' rows have cost: about what they cost once more."""
    problems: Mapping[str, Problem]
    """By `Kind`; empty when all is well."""
    exit_status: int
    """0 all is well, 1 there are problems, or were and some are left."""


def verify(
    directory: Path,
    *,
    repair: bool = False,
    check: Check = Check.FULL,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """
    Audit a run directory; it may belong to a run at work, unless it is to be repaired.

    :param repair: give misplaced pictures their names back, adopt unrecorded ones, put rows without their
        picture back to pending, and write the table anew. Nothing is deleted but temporary files.
    :param check: decode every picture, or look at its structure.
    :param on_progress: called with how many of how many pictures are done.
    :raises InputError: this is no run directory, or its ledger is damaged.
    :raises LockedError: it is to be repaired and a run is at work.
    :raises StorageError: the disk refuses.
    """
    recovery.check_not_lost(directory / LEDGER)
    if not repair:
        return _audited(directory, check, on_progress, live=lock.is_held(directory))
    if not (directory / LEDGER).is_file():
        raise InputError(f"{directory}: no ledger here; is this a run directory?")
    with lock.RunLock(directory), closing(Ledger(directory / LEDGER)) as ledger:
        return _audited(directory, check, on_progress, live=False, ledger=ledger)


def _audited(
    directory: Path,
    check: Check,
    on_progress: Callable[[int, int], None] | None,
    *,
    live: bool,
    ledger: Ledger | None = None,
) -> Report:
    with closing(Audit(directory / LEDGER)) as audit:
        audit.check()
        inquiry = _Inquiry(directory, audit, check, live=live)
        inquiry.leftovers(ledger)
        inquiry.account()
        inquiry.pictures(on_progress)
        inquiry.others(ledger)
        inquiry.told(ledger)
        inquiry.table(ledger)
        return inquiry.report()


class _Inquiry:
    """One audit on its way; each step finds what is wrong and, given the ledger to write, repairs it."""

    def __init__(self, directory: Path, audit: Audit, check: Check, *, live: bool) -> None:
        self._directory = directory
        self._audit = audit
        self._store = Store(directory)
        self._check = check
        self._live = live
        self._counts: dict[Kind, int] = {}
        self._repaired: dict[Kind, int] = {}
        self._first: dict[Kind, list[Finding]] = {}
        self._recognised: frozenset[str] = frozenset()
        self._tasks: Mapping[str, int] = {}
        self._good = 0
        self._again = 0

    def report(self) -> Report:
        problems: dict[str, Problem] = {
            kind: Problem(
                count=count, repaired=self._repaired.get(kind, 0), first=tuple(self._first.get(kind, ()))
            )
            for kind, count in sorted(self._counts.items(), key=lambda item: [*Kind].index(item[0]))
        }
        left = any(problem.repaired < problem.count for problem in problems.values())
        return Report(
            directory=str(self._directory),
            live=self._live,
            tasks=self._tasks,
            pictures=self._good,
            again_usd=usd(self._again),
            problems=problems,
            exit_status=int(left),
        )

    def leftovers(self, ledger: Ledger | None) -> None:
        """What a dead run was about when it died."""
        if self._live:
            return
        self._count(Kind.LOG, self._audit.torn)
        self._mend(Kind.LOG, self._audit.torn)
        unsettled = self._audit.unsettled()
        self._add_tasks(Kind.UNSETTLED, unsettled, "submitted and never answered: maybe billed")
        found = [*recovery.recognised(self._audit, self._store)]
        for task, picture in found:
            self._add(Kind.UNRECORDED, id=task.id, file=picture.file_name)
        self._recognised = frozenset(picture.file_name for _, picture in found)
        if ledger is not None:
            self._store.sweep(ledger.recover(now=_now()))
            self._mend(Kind.UNSETTLED, unsettled.count)
            self._mend(Kind.UNRECORDED, recovery.adopt(ledger, self._audit, self._store, now=_now()))

    def account(self) -> None:
        """Whether the ledger agrees with itself."""
        self._add_tasks(Kind.UNANSWERED, self._audit.without_answer(), "")
        self._add_tasks(Kind.SUMS, self._audit.wrong_sums(), "")

    def pictures(self, on_progress: Callable[[int, int], None] | None) -> None:
        """Every picture the ledger has recorded."""
        done, total = 0, self._audit.totals().tasks.get(Status.SUCCEEDED, 0)
        with ThreadPoolExecutor(_THREADS) as threads:
            for records in self._audit.bought():
                for record, found in zip(records, threads.map(self._look, records), strict=True):
                    self._note(record, found)
                done += len(records)
                if on_progress is not None:
                    on_progress(done, max(done, total))

    def others(self, ledger: Ledger | None) -> None:
        """Every file that is not one of those."""
        for folder in ("images", "drafts"):
            names = self._store.names(folder)
            while some := [*islice(names, _AT_ONCE)]:
                self._sort(some, ledger)
        if self._audit.any_lost():
            names = self._store.names("corrupt")
            while some := [*islice(names, _AT_ONCE)]:
                self._audit.note(
                    (), (Stray(file=os.fsencode(name), sha256=self._hash(name)) for name in some)
                )
        self._audit.match()

    def told(self, ledger: Ledger | None) -> None:
        """All that was found of files, now that it is known what belongs where."""
        for lost in self._audit.lost(found=True):
            was = os.fsdecode(lost.source or b"")
            self._add(Kind.MISPLACED, id=lost.id, file=lost.file, detail=f"its picture is {was}")
        for lost in self._audit.lost(found=False):
            self._add(Kind(lost.kind), id=lost.id, file=lost.file, detail=self._explained(lost))
            self._again += 0 if lost.draft else lost.cost
        for stray in self._audit.strays(recorded=False):
            if stray.kind:
                self._add(Kind(stray.kind), id=stray.id, file=os.fsdecode(stray.file), detail=stray.detail)
        if ledger is not None:
            self._restore(ledger)

    def table(self, ledger: Ledger | None) -> None:
        """The manifest and the table made from it."""
        self._tasks = self._audit.totals().tasks
        path = self._directory / TABLE
        try:
            manifest = Manifest(self._directory / MANIFEST)
            found = results.compare(manifest, self._audit, path, most=EXAMPLES)
        except StorageError as cause:
            self._add(Kind.MANIFEST, file=MANIFEST, detail=str(cause))
            return
        self._tasks = found.tally.tasks
        if self._live:
            return
        if found.why:
            self._add(Kind.TABLE, file=TABLE, detail=found.why)
        for row in found.first:
            self._add(Kind.TABLE, id=row, file=TABLE)
        self._count(Kind.TABLE, found.rows - len(found.first))
        if ledger is not None and self._counts:
            self._tasks = results.write(manifest, self._audit, path).tasks
            self._mend(Kind.TABLE, self._counts.get(Kind.TABLE, 0))

    def _restore(self, ledger: Ledger) -> None:
        """
        Put files and tasks right.

        Whatever stands where it should not goes aside before anything takes its place, and nothing is ever
        renamed onto something else: wherever this is interrupted, every picture is there under some name, and
        the next repair finds it by its hash.
        """
        for stray in self._audit.strays(recorded=True):
            aside = self._store.move_aside(os.fsdecode(stray.file))
            self._audit.park(stray.file, os.fsencode(aside))
        for lost in self._audit.lost(found=True):
            self._store.move(os.fsdecode(self._audit.whereabouts(lost.source or b"")), lost.file)
            self._mend(Kind.MISPLACED, 1)
        gone = self._audit.lost(found=False)
        while some := [*islice(gone, _AT_ONCE)]:
            ledger.put_back(((lost.key, lost.file, lost.draft) for lost in some), now=_now())
            for lost in some:
                self._mend(Kind(lost.kind), 1)
        if Kind.SUMS in self._counts:
            ledger.recount()
            self._mend(Kind.SUMS, self._counts[Kind.SUMS])

    def _look(self, record: Record) -> list[tuple[Lost, Stray | None]]:
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
            mode = self._store.path(name).lstat().st_mode
            if not stat.S_ISREG(mode):
                return lost(Kind.IRREGULAR, _irregular(mode)), stray()
            data = self._store.read(name)
        except (FileNotFoundError, NotADirectoryError):
            data = None
        except (OSError, StorageError) as cause:
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

    def _note(self, record: Record, found: list[tuple[Lost, Stray | None]]) -> None:
        if found and self._live:
            # The run may have gone on since the record was read, to another picture of this row.
            now = self._audit.record(record.key)
            if now is None or now.status != Status.SUCCEEDED:
                return
            found = found if now == record else self._look(now)
        self._good += len(record.images) - len(found)
        lost = [one for one, _ in found if one.kind != Kind.UNREADABLE]
        for one, _ in found:
            if one.kind == Kind.UNREADABLE:
                self._add(Kind.UNREADABLE, id=one.id, file=one.file, detail=one.detail)
        self._audit.note(lost, [stray for _, stray in found if stray is not None])

    def _sort(self, names: list[str], ledger: Ledger | None) -> None:
        """Find out whose the files in `images/` and `drafts/` are."""
        stems = {name: stem for name in names if (stem := _stem(name)) is not None}
        owners = self._audit.owners(stems.values())
        strays = []
        for name in names:
            last = name.rpartition("/")[2]
            if last.startswith("."):
                if last.endswith(".part") and not self._live:
                    self._unfinished(name, ledger)
                continue
            owner = owners.get(stems.get(name, ""))
            if not self._belongs(name, owner):
                content = self._hash(name) if self._audit.any_lost() else None
                strays.append(_orphan(name, owner, content))
        self._audit.note((), strays)

    def _unfinished(self, name: str, ledger: Ledger | None) -> None:
        self._add(Kind.UNFINISHED, file=name)
        if ledger is not None:
            self._store.remove(name)
            self._mend(Kind.UNFINISHED, 1)

    def _belongs(self, name: str, owner: Record | None) -> bool:
        if owner is None:
            return False
        # An interim picture is of no account, and what a live run has not noted yet will be.
        if name.startswith("drafts/") or (self._live and owner.status == Status.PENDING):
            return True
        recorded = {unicodedata.normalize("NFC", image.file_name) for image in owner.images}
        return unicodedata.normalize("NFC", name) in recorded | self._recognised

    def _hash(self, name: str) -> str | None:
        try:
            data = self._store.read(name)
        except StorageError:
            return None  # a link or the like: it is told of by its name
        return None if data is None else sha256(data).hexdigest()

    def _explained(self, lost: Lost) -> str:
        """What an edited file holds, where that is another row's picture; asked for the first ones alone."""
        if lost.kind != Kind.EDITED or lost.detail or self._counts.get(Kind.EDITED, 0) >= EXAMPLES:
            return lost.detail
        content = self._hash(lost.file)
        holder = None if content is None else self._audit.holder(content)
        return "still a picture" if holder is None else f"a copy of the picture of row {holder}"

    def _add_tasks(self, kind: Kind, tasks: Tasks, detail: str) -> None:
        for row, stem in tasks.first:
            self._add(kind, id=row, file=f"images/{stem}", detail=detail)
        self._count(kind, tasks.count - len(tasks.first))

    def _add(self, kind: Kind, *, id: str = "", file: str = "", detail: str = "") -> None:  # noqa: A002
        self._count(kind, 1)
        first = self._first.setdefault(kind, [])
        if len(first) < EXAMPLES:
            shown = os.fsencode(file).decode(errors="replace")
            first.append(Finding(id=id, file=shown, detail=detail))

    def _count(self, kind: Kind, count: int) -> None:
        if count:
            self._counts[kind] = self._counts.get(kind, 0) + count

    def _mend(self, kind: Kind, count: int) -> None:
        self._repaired[kind] = self._repaired.get(kind, 0) + count


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


def _irregular(mode: int) -> str:
    return "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no plain file"


def _now() -> int:
    return int(time.time() * 1_000_000)
