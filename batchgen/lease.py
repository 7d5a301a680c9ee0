"""
Which machine owns a place in a bucket?

The one whose name is in `run.lock` there. It comes to be by a write that fails where the object exists, is
written anew every half minute by a write that fails where another one has written since, and counts no more
when it is three minutes old by the bucket's own clock. Whoever could not renew it for two minutes buys
nothing more, so nobody takes over while it does.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Self

import msgspec

from batchgen.errors import LockedError, StorageError
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.bucket import Bucket, Found, Version

NAME = "run.lock"
EVERY = 30.0
"""Seconds from one renewal to the next."""
GIVEN_UP = 120.0
"""Seconds without one after which its holder buys nothing more."""
STALE = 180.0
"""Seconds without one after which another may take it."""


class Holder(Value, frozen=True, kw_only=True):
    """Who owns it."""

    token: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
    """Of the state that the holder keeps on its own disk."""
    pid: Annotated[int, msgspec.Meta(gt=0)]
    # The pattern keeps what a stranger wrote there from speaking to the terminal.
    host: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]{1,255}\Z")]
    started: Annotated[datetime, msgspec.Meta(tz=True)]
    beats: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started:%Y-%m-%d %H:%M:%S %Z}"


def may_take(holder: Holder | None, age: float, *, token: str, host: str) -> bool:
    """
    Whether a lease that is there may be taken by somebody else.

    A holder with the same state on the same machine is dead: its lock there has been given to the asker.

    :param holder: None where nobody can tell who it is.
    :param age: seconds since its last renewal.
    """
    if holder is not None and (holder.token, holder.host) == (token, host):
        return True
    return age > STALE


def seen(bucket: Bucket) -> Holder | None:
    """Who seems to be at work, by this machine's clock, for whoever only looks on."""
    found = bucket.look(NAME)
    if found is None or time.time() - found[0].at > STALE:
        return None
    return _holder(found[1])


def _holder(note: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(note, type=Holder)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class Lease:
    """
    Ownership of a place in a bucket, for as long as the `with` block lasts.

    `LockedError` when another one has it, `StorageError` when nothing can be written there.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        token: str,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param token: of the state on this disk, whose lock the caller holds."""
        self._bucket = bucket
        self._clock = clock
        self._holder = Holder(
            token=token,
            pid=os.getpid(),
            host=os.uname().nodename,
            started=datetime.fromtimestamp(wall(), UTC),
        )
        self._version: Version | None = None
        self._renewed = 0.0
        self._lost = ""
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        asked = self._clock()
        self._version = self._bucket.create(NAME, self._note()) or self._taken()
        self._renewed = asked
        if self._bucket.create(NAME, b"") is not None:
            self._bucket.remove([NAME])
            raise StorageError(
                f"{self._bucket.address}: this server overwrites what is there though it is asked not to"
                " (If-None-Match), so two machines could buy the same; upgrade it, or choose another with -o"
            )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            found = self._bucket.head(NAME)
            if found is not None and found.version == self._version:
                self._bucket.remove([NAME])
        except StorageError:
            self._lost = self._lost or "it could not be given back"  # it grows old by itself

    def check(self) -> None:
        """:raises StorageError: another one has it, or may have it soon: nothing more may be bought."""
        if self._lost:
            raise StorageError(f"{self._bucket.address}: {self._lost}")
        silent = self._clock() - self._renewed
        if silent > GIVEN_UP:
            raise StorageError(
                f"{self._bucket.address}/{NAME}: it could not be renewed for {silent:.0f} s, and another"
                " machine may soon take this one for dead; nothing more is bought. When the bucket answers"
                " again, run the same command again"
            )

    def confirm(self) -> None:
        """:raises StorageError: another one has it, or nobody can tell."""
        self.renew()
        self.check()

    def renew(self) -> None:
        """
        Say that its holder lives; from any thread.

        :raises StorageError: the bucket does not take it.
        """
        with self._turn:
            if self._version is not None and not self._lost:
                self._renew(self._version)

    def _renew(self, last: Version) -> None:
        asked = self._clock()
        self._holder = msgspec.structs.replace(self._holder, beats=self._holder.beats + 1)
        version = self._bucket.replace(NAME, self._note(), last)
        found = self._bucket.look(NAME) if version is None else None
        other = None if found is None else _holder(found[1])
        if found is not None and self._is_mine(other):
            # An earlier renewal was carried out, and its answer lost.
            version = self._bucket.replace(NAME, self._note(), found[0].version)
        if version is None:
            self._lost = (
                f"another run has taken over ({other or 'it does not say which'}); nothing more is bought"
                f" here. See how that one is: `batchgen status {shlex.quote(str(self._bucket.address))}`"
            )
            return
        self._version, self._renewed = version, asked

    def _is_mine(self, holder: Holder | None) -> bool:
        return (
            holder is not None and msgspec.structs.replace(holder, beats=self._holder.beats) == self._holder
        )

    def _beat(self) -> None:
        while not self._over.wait(EVERY) and not self._lost:
            try:
                self.renew()
            except StorageError:
                continue  # `check` tells when it has lasted too long

    def _note(self) -> bytes:
        return msgspec.json.encode(self._holder)

    def _taken(self) -> Version:
        """Take what is there in the place of a holder that is dead."""
        found = self._bucket.look(NAME)
        version, holder, age = None, None, 0.0
        if found is None:  # given back since
            version = self._bucket.create(NAME, self._note())
        else:
            holder, age = _holder(found[1]), self._age(found[0])
            if may_take(holder, age, token=self._holder.token, host=self._holder.host):
                version = self._bucket.replace(NAME, self._note(), found[0].version)
        if version is None:
            raise LockedError(self._refusal(holder, age))
        return version

    def _age(self, found: Found) -> float:
        """Seconds since an object was written, by the clock that says when."""
        asked = f"{NAME}.{self._holder.token}"
        self._bucket.put(asked, b"")
        try:
            now = self._bucket.head(asked)
        finally:
            self._bucket.remove([asked])
        return now.at - found.at if now is not None else 0.0

    def _refusal(self, holder: Holder | None, age: float) -> str:
        address = self._bucket.address
        return (
            f"{address}: another run is at work here ({holder or f'{NAME} does not say which'}; it was"
            f" heard of {age:.0f} s ago). Wait for its end or stop it; if its machine is gone, wait until it"
            f" has not been heard of for {STALE:.0f} s. Then run the same command again."
            f" `batchgen status {shlex.quote(str(address))}` works meanwhile"
        )
