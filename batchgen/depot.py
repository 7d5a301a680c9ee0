"""
Where do the pictures and the account of a run lie?

Either all in one run directory, or pictures, table and a copy of the account in a bucket, with the account
itself in a directory of this machine that stands for it. Whoever carries out a run is given one of the two
and need not know which.
"""

from __future__ import annotations

import logging
import re
import secrets
import tempfile
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchgen import copies, lease, lock
from batchgen.address import is_url, parsed
from batchgen.bucket import Bucket
from batchgen.errors import DamagedError, InputError, StorageError
from batchgen.layout import JOB, LEDGER, MANIFEST, TABLE
from batchgen.lock import RunLock
from batchgen.objects import Objects
from batchgen.records import Value
from batchgen.store import Store, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Protocol

    from batchgen.address import Address
    from batchgen.bucket import Version
    from batchgen.store import Pictures

    class Depot(Protocol):
        """What a run has been given for itself alone."""

        @property
        def name(self) -> str:
            """How its owner calls it."""

        @property
        def pictures(self) -> Pictures:
            """Where the pictures are."""

        @property
        def shipped(self) -> bool:
            """Whether pictures and copies leave this machine."""

        def copied(self) -> AbstractContextManager[object]:
            """Keep a copy of the ledger up to date meanwhile, where there is to be one."""

        @property
        def fetch(self) -> Callable[[str], bytes | None] | None:
            """Reads a picture of the run by its URL, None when it is gone; None where those have none."""

        def keep(self, name: str) -> None:
            """See that a file of the directory is where it is looked for."""

        def check(self) -> None:
            """:raises StorageError: nothing more may be bought, as nobody could be sure to find it."""


logger = logging.getLogger("batchgen")

NOTE = "bucket.json"
_GENERATIONS = 2


class _Note(Value, frozen=True, kw_only=True):
    """What a directory that stands for a bucket knows of it."""

    address: str
    token: str
    """Names the state of this directory, in the bucket's lock."""
    generations: tuple[str, ...] = ()
    """That of its ledger that counts, as far as is known here, and the one that is to count next."""


class Here:
    """A run directory that has it all."""

    shipped = False
    fetch = None

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self.pictures = Store(directory)

    @contextmanager
    def copied(self) -> Iterator[None]:
        """There is no copy."""
        yield

    def keep(self, name: str) -> None:
        """It is there."""

    def check(self) -> None:
        """Nothing can be in the way."""


class There:
    """A bucket, and the directory that stands for it."""

    shipped = True

    def __init__(self, directory: Path, bucket: Bucket, held: lease.Lease) -> None:
        self.name = str(bucket.address)
        self.pictures = Objects(bucket)
        self.fetch = self.pictures.fetch
        self._bucket = bucket
        self._directory = directory
        self._lease = held
        self._copies: copies.Copies | None = None
        self._version: Version | None = None

    def find(self) -> None:
        """
        See that the directory has the latest account: its own, or the copy where another machine has gone on.

        :raises DamagedError: there are pictures, and no account of them.
        """
        ledger, found = self._directory / LEDGER, copies.head(self._bucket)
        if found is None:
            if not ledger.is_file():
                self._check_not_lost()
            return
        self._version = found[1]
        if ledger.is_file():
            note = _noted(self._directory)
            if note is not None and found[0].generation in note.generations:
                # The one that counts is never pushed out by those that did not come to count.
                _write_note(
                    self._directory, msgspec.structs.replace(note, generations=(found[0].generation,))
                )
                return
            aside = _set_aside(ledger)
            logger.warning(
                "%s: another machine has gone on with this run (%s, %s); the ledger that was here is kept as"
                " %s, and the copy takes its place",
                self.name,
                re.sub(r"[^\w.-]", "?", found[0].host),
                f"{found[0].at:%Y-%m-%d %H:%M:%S %Z}",
                aside,
            )
        generation = _bring(self._bucket, self._directory)
        if generation is not None:
            self._note_generation(generation)

    def _check_not_lost(self) -> None:
        there = [TABLE] if self._bucket.head(TABLE) is not None else []
        there += ["images"] if next(self._bucket.list("images"), None) is not None else []
        if there:
            raise DamagedError(
                f"{self.name}: there is no copy of the ledger beside {' and '.join(there)}, and to begin anew"
                " would pay for it all again. Run this where it was run before, restore"
                f" {copies.HEAD} and what it names from versions of these objects, or choose another place"
                " with -o"
            )

    @contextmanager
    def copied(self) -> Iterator[None]:
        """Copy the ledger as it is written; see `Copies`."""
        with copies.Copies(
            self._bucket, self._directory / LEDGER, version=self._version, noted=self._note_generation
        ) as self._copies:
            yield

    def keep(self, name: str) -> None:
        """Put a file of the directory into the bucket, unless another machine has gone on there."""
        self._lease.confirm()
        self._bucket.put(name, self._directory / name)

    def check(self) -> None:
        """Whether this machine still owns the place, and what is bought is on record there."""
        self._lease.check()
        if self._copies is not None:
            self._copies.check()

    def _note_generation(self, generation: str) -> None:
        note = _own_note(self._directory, self._bucket.address)
        kept = (*note.generations, generation)[-_GENERATIONS:]
        _write_note(self._directory, msgspec.structs.replace(note, generations=kept))


@contextmanager
def opened(directory: Path, address: Address | None) -> Iterator[Depot]:
    """
    Take possession of where a run's pictures go; the caller holds the lock of the directory.

    :param address: of the bucket; None where all is in the directory.
    :raises InputError: what speaks to buckets is not installed, or the directory stands for another place.
    :raises LockedError: another machine is at work there.
    :raises DamagedError: there are pictures, and no account of them.
    :raises StorageError: the bucket does not answer, or takes nothing.
    """
    if address is None:
        _check_no_stand_in(directory)
        yield Here(directory)
        return
    bucket = Bucket(address)
    note = _own_note(directory, address)
    with lease.Lease(bucket, token=note.token) as held:
        there = There(directory, bucket, held)
        there.find()
        yield there


@contextmanager
def owned(place: str) -> Iterator[tuple[Path, Depot]]:
    """
    Take possession of an existing run, wherever it lies: the directory of its ledger, and the depot.

    :param place: a run directory or a URL, as somebody typed it.
    :raises BatchgenError: see `opened`, and `RunLock`.
    """
    address = parsed(place) if is_url(place) else None
    directory = Path(place) if address is None else address.local
    if address is not None:
        made(directory)
    with RunLock(directory), opened(directory, address) as depot:
        yield directory, depot


class Seen(Value, frozen=True, kw_only=True):
    """An existing run, to be looked at."""

    name: str
    """As somebody calls it."""
    directory: Path
    """Where its ledger is, or a copy of that."""
    local: Path
    """Where on this machine what is made of it is looked for."""
    bucket: Bucket | None = None

    @property
    def pictures(self) -> Pictures:
        """Where its pictures are."""
        return Store(self.directory) if self.bucket is None else Objects(self.bucket)

    @property
    def held(self) -> bool:
        """Whether a run is at work, as far as can be told from here."""
        if self.bucket is None or self.directory == self.local:
            return lock.is_held(self.directory)
        return lease.seen(self.bucket) is not None


@contextmanager
def seen(place: str, *, new: bool = False) -> Iterator[Seen]:
    """
    Find an existing run: in its directory, or for a URL in the directory of this machine that stands for it.

    Where another machine has it, or had it last, a copy is fetched that is gone afterwards.

    :param new: whether there may be none yet.
    :raises InputError: there is no run in the bucket, or the directory stands for one.
    :raises StorageError: the bucket does not answer.
    """
    if not is_url(place):
        _check_no_stand_in(Path(place))
        yield Seen(name=place, directory=Path(place), local=Path(place))
        return
    address = parsed(place)
    local, bucket = address.local, Bucket(address)
    with ExitStack() as stack:
        directory = local
        if not lock.is_held(local) and not _is_latest(local, bucket):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            there = _bring(bucket, directory) is not None
            if not there and new:
                directory = local
            elif not there:
                raise InputError(f"{address}: no run has begun here; `batchgen run … -o {address}` makes one")
        yield Seen(name=str(address), directory=directory, local=local, bucket=bucket)


def beside(place: str) -> Path:
    """Where on this machine what is made of a run is looked for, unless somebody says where."""
    return parsed(place).local if is_url(place) else Path(place)


def made(directory: Path) -> None:
    """
    Make a directory for a run, or see that there is one.

    :raises InputError: there can be none.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise InputError(f"{directory}: {cause.strerror}; choose another run directory with -o") from cause


def _is_latest(directory: Path, bucket: Bucket) -> bool:
    """Whether the ledger in a directory is the latest account of what is in a bucket."""
    if not (directory / LEDGER).is_file():
        return False
    found, note = copies.head(bucket), _noted(directory)
    return found is None or (note is not None and found[0].generation in note.generations)


def _bring(bucket: Bucket, directory: Path) -> str | None:
    """Fetch the copy of the account, and what was read and written beside it; None where there is no copy."""
    generation = copies.restored(bucket, directory)
    for name in (MANIFEST, JOB, TABLE) if generation is not None else ():
        path = directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as cause:
            raise StorageError(f"{path}: {cause.strerror}; make its folder writable") from cause
        if bucket.head(name) is not None:
            bucket.fetch(name, path)
    return generation


def _set_aside(ledger: Path) -> str:
    """Give a ledger that is not the latest account any more another name, with its log; returns that name."""
    aside = ledger.with_name(f"{ledger.name}.outdated-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    try:
        # The log first: without its file it is no ledger, and the next try ends this.
        for end in ("-wal", ""):
            path = ledger.with_name(f"{ledger.name}{end}")
            if path.is_file():
                path.rename(aside.with_name(f"{aside.name}{end}"))
        ledger.with_name(f"{ledger.name}-shm").unlink(missing_ok=True)
    except OSError as cause:
        raise StorageError(f"{ledger}: {cause.strerror}; make its folder writable") from cause
    return aside.name


def _check_no_stand_in(directory: Path) -> None:
    """:raises InputError: its pictures are in a bucket, and here all would pass for lost."""
    note = _noted(directory)
    if note is not None:
        raise InputError(
            f"{directory}: this directory stands for {note.address}, where the pictures are; name that"
        )


def _own_note(directory: Path, address: Address) -> _Note:
    """What a directory knows of the bucket that it stands for; written there where it knew of none."""
    note = _noted(directory)
    if note is None:
        note = _Note(address=str(address), token=secrets.token_hex(8))
        _write_note(directory, note)
    if note.address != str(address):
        raise InputError(
            f"{directory / NOTE}: this directory stands for {note.address} and not for {address}; run this in"
            " another folder, or choose another place with -o"
        )
    return note


def _noted(directory: Path) -> _Note | None:
    path = directory / NOTE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Note)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as cause:
        raise InputError(
            f"{path}: {cause}; move it away, and the copy in the bucket is taken for the latest"
        ) from cause


def _write_note(directory: Path, note: _Note) -> None:
    write_whole(directory / NOTE, msgspec.json.encode(note))
