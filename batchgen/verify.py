"""
Does every row have its one picture, and every picture its row?

Manifest, ledger, files and table are held against each other: each succeeded row has one whole file of the
recorded hash and one answer in the ledger that brought it; no file is left over; the sums add up. What can be
put right without losing a picture or a cent of the account is put right where that is asked for.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from batchgen import depot as depots
from batchgen import providers, recovery, results
from batchgen.address import is_url
from batchgen.bookmark import Bookmark
from batchgen.errors import DamagedError, InputError, StorageError
from batchgen.imaging import Check
from batchgen.inspection import Inspection, Kind
from batchgen.job import LEDGER, MANIFEST, TABLE
from batchgen.ledger import EXAMPLES, Audit, Ledger, Reader, Stray, restore, usd
from batchgen.manifest import Manifest
from batchgen.records import Status, Value
from batchgen.store import is_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from decimal import Decimal

    from batchgen.ledger import Lost, Record, Tasks
    from batchgen.store import Pictures

T = TypeVar("T")

_THREADS = 4
"""As many as a run decodes with; each holds one picture."""
_AT_ONCE = 256


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
    repaired: int
    """How many of them are no more."""
    first: tuple[Finding, ...]
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
    place: Path | str,
    *,
    repair: bool = False,
    check: Check = Check.FULL,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """
    Audit a run; it may be at work, unless it is to be repaired.

    :param place: its directory, or the URL of its place in a bucket.
    :param repair: give misplaced pictures their names back, adopt unrecorded ones, put rows without their
        picture back to pending, and write the table anew. Nothing is deleted but temporary files.
    :param check: decode every picture, or look at its structure.
    :param on_progress: called with how many of how many pictures are done.
    :raises InputError: this is no run directory, or its ledger is damaged.
    :raises LockedError: it is to be repaired and a run is at work.
    :raises StorageError: the disk refuses.
    """
    name = str(place)
    if not repair:
        with depots.seen(name) as seen:
            recovery.check_not_lost(seen.directory / LEDGER)
            whole = _Run(name=seen.name, directory=seen.directory, pictures=seen.pictures, live=seen.held)
            return _audited(whole, check, on_progress)
    if not is_url(name):
        _check_begun(Path(name))
    with depots.owned(name) as (directory, depot), Bookmark(directory):
        _check_begun(directory)
        restored = _restored(directory)
        whole = _Run(name=depot.name, directory=directory, pictures=depot.pictures, live=False)
        with closing(Ledger(directory / LEDGER, shipped=depot.shipped)) as ledger, depot.copied():
            report = _audited(whole, check, on_progress, ledger=ledger, restored=restored)
            depot.keep(TABLE)
            return report


def _check_begun(directory: Path) -> None:
    """:raises InputError: there never was a run."""
    path = directory / LEDGER
    if not (path.is_file() or (directory / TABLE).is_file()):
        recovery.check_not_lost(path)
        raise InputError(f"{directory}: no ledger here; is this a run directory?")


def _restored(directory: Path) -> Finding | None:
    """Make a ledger anew that cannot be read any more; None where it can."""
    path, table = directory / LEDGER, directory / TABLE
    try:
        recovery.check_not_lost(path)
        with closing(Reader(path)) as reader:
            reader.check()
    except DamagedError:
        provider = next((row.result.provider for row in results.read(table)), "")
        known = providers.catalogue().get(provider)
        written = datetime.fromtimestamp(table.stat().st_mtime, UTC)
        kept = restore(
            path,
            lambda: results.read(table),
            provider=provider,
            simulated=known is not None and known.simulated,
            now=_now(),
        )
        aside = f"; the old one is kept as {kept.name}" if kept is not None else ""
        detail = f"what was asked for after {written:%Y-%m-%d %H:%M:%S} UTC is not in its account{aside}"
        return Finding(file=LEDGER, detail=detail)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What is audited."""

    name: str
    directory: Path
    pictures: Pictures
    live: bool


def _audited(
    run: _Run,
    check: Check,
    on_progress: Callable[[int, int], None] | None,
    *,
    ledger: Ledger | None = None,
    restored: Finding | None = None,
) -> Report:
    with closing(Audit(run.directory / LEDGER)) as audit:
        audit.check()
        inquiry = _Inquiry(run, audit, check)
        inquiry.leftovers(ledger)
        inquiry.restored(restored)
        inquiry.account()
        inquiry.pictures(on_progress)
        inquiry.others(ledger)
        inquiry.told()
        manifest = inquiry.table()
        if ledger is not None:
            inquiry.repair(ledger, manifest)
        return inquiry.report()


class _Inquiry:
    """One audit on its way; each step finds what is wrong and, given the ledger to write, repairs it."""

    def __init__(self, run: _Run, audit: Audit, check: Check) -> None:
        self._name = run.name
        self._directory = run.directory
        self._audit = audit
        self._store = run.pictures
        self._files = Inspection(self._store, check)
        self._live = run.live
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
            directory=self._name,
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
            self._store.sweep(self._audit.unfinished())
            ledger.recover(now=_now())
            self._mend(Kind.UNSETTLED, unsettled.count)
            self._mend(Kind.UNRECORDED, recovery.adopt(ledger, self._audit, self._store, now=_now()))

    def restored(self, ledger: Finding | None) -> None:
        """That the ledger was lost, and is there again."""
        if ledger is not None:
            self._add(Kind.LEDGER, file=ledger.file, detail=ledger.detail)
            self._mend(Kind.LEDGER, 1)

    def account(self) -> None:
        """Whether the ledger agrees with itself."""
        self._add_tasks(Kind.UNANSWERED, self._audit.without_answer(), "")
        self._add_tasks(Kind.SUMS, self._audit.wrong_sums(), "")
        wrong = self._audit.wrong_totals()
        if wrong:
            self._add(Kind.SUMS, file=LEDGER, detail=f"{wrong} sums over all rows are not those of the rows")

    def pictures(self, on_progress: Callable[[int, int], None] | None) -> None:
        """Every picture the ledger has recorded."""
        done, total = 0, self._audit.totals().tasks.get(Status.SUCCEEDED, 0)
        with ThreadPoolExecutor(_THREADS) as threads:
            for records in self._audit.bought():
                for record, found in zip(records, threads.map(self._files.pictures, records), strict=True):
                    self._note(record, found)
                done += len(records)
                if on_progress is not None:
                    on_progress(done, max(done, total))

    def others(self, ledger: Ledger | None) -> None:
        """Every file that is not one of those."""
        hashed = self._audit.any_lost()
        for folder in ("images", "drafts"):
            for some in _by(_AT_ONCE, self._store.names(folder)):
                # Other hidden files are the system's.
                visible = [name for name in some if not name.rpartition("/")[2].startswith(".")]
                found = self._files.others(
                    visible, self._audit, also=self._recognised, live=self._live, hashed=hashed
                )
                self._audit.note((), found)
                self._unfinished([name for name in some if is_temporary(name)], ledger)
        if hashed:
            for some in _by(_AT_ONCE, self._store.names("corrupt")):
                aside = (Stray(file=os.fsencode(name), sha256=self._files.content(name)) for name in some)
                self._audit.note((), aside)
        self._audit.match()

    def told(self) -> None:
        """All that was found of files, now that it is known what belongs where."""
        for lost in self._audit.lost(found=True):
            was = _shown(os.fsdecode(lost.source or b""))
            self._add(Kind.MISPLACED, id=lost.id, file=lost.file, detail=f"its picture is {was}")
        for lost in self._audit.lost(found=False):
            self._add(Kind(lost.kind), id=lost.id, file=lost.file, detail=self._explained(lost))
            self._again += 0 if lost.draft else lost.cost
        for stray in self._audit.strays(recorded=False):
            if stray.kind:
                self._add(Kind(stray.kind), id=stray.id, file=os.fsdecode(stray.file), detail=stray.detail)

    def table(self) -> Manifest | None:
        """The manifest, and the table made from it; returns the manifest if it can be read."""
        self._tasks = self._audit.totals().tasks
        try:
            manifest = Manifest(self._directory / MANIFEST)
            found = results.compare(manifest, self._audit, self._directory / TABLE, most=EXAMPLES)
        except StorageError as cause:
            self._add(Kind.MANIFEST, file=MANIFEST, detail=str(cause))
            return None
        self._tasks = found.tally.tasks
        if self._live:
            return manifest
        if found.why:
            self._add(Kind.TABLE, file=TABLE, detail=found.why)
        for row in found.first:
            self._add(Kind.TABLE, id=row, file=TABLE)
        self._count(Kind.TABLE, found.rows - len(found.first))
        return manifest

    def repair(self, ledger: Ledger, manifest: Manifest | None) -> None:
        """Put right what was found."""
        self._restore(ledger)
        if Kind.SUMS in self._counts:
            ledger.recount()
            self._mend(Kind.SUMS, self._counts[Kind.SUMS])
        if manifest is not None and self._counts:
            self._tasks = results.write(manifest, self._audit, self._directory / TABLE).tasks
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
            self._good += 1
        for some in _by(_AT_ONCE, self._audit.lost(found=False)):
            ledger.put_back([(lost.key, lost.file, lost.draft) for lost in some], now=_now())
            for lost in some:
                self._mend(Kind(lost.kind), 1)

    def _unfinished(self, names: list[str], ledger: Ledger | None) -> None:
        for name in names if not self._live else ():
            self._add(Kind.UNFINISHED, file=name)
            if ledger is not None:
                self._store.remove(name)
                self._mend(Kind.UNFINISHED, 1)

    def _note(self, record: Record, found: list[tuple[Lost, Stray | None]]) -> None:
        if found and self._live:
            # The run may have gone on since the record was read, to another picture of this row.
            now = self._audit.record(record.key)
            if now is None or now.status != Status.SUCCEEDED:
                return
            found = found if now == record else self._files.pictures(now)
        self._good += len(record.images) - len(found)
        lost = [one for one, _ in found if one.kind != Kind.UNREADABLE]
        for one, _ in found:
            if one.kind == Kind.UNREADABLE:
                self._add(Kind.UNREADABLE, id=one.id, file=one.file, detail=one.detail)
        self._audit.note(lost, [stray for _, stray in found if stray is not None])

    def _explained(self, lost: Lost) -> str:
        """What an edited file holds, where that is another row's picture; asked for the first ones alone."""
        if lost.kind != Kind.EDITED or lost.detail or self._counts.get(Kind.EDITED, 0) >= EXAMPLES:
            return lost.detail
        content = self._files.content(lost.file)
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
            first.append(Finding(id=id, file=_shown(file), detail=detail))

    def _count(self, kind: Kind, count: int) -> None:
        if count:
            self._counts[kind] = self._counts.get(kind, 0) + count

    def _mend(self, kind: Kind, count: int) -> None:
        self._repaired[kind] = self._repaired.get(kind, 0) + count


def _by(count: int, several: Iterator[T]) -> Iterator[list[T]]:
    while some := [*islice(several, count)]:
        yield some


def _shown(name: str) -> str:
    """A file name as text, whatever its bytes are."""
    return os.fsencode(name).decode(errors="replace")


def _now() -> int:
    return int(time.time() * 1_000_000)
