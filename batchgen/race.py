"""
Which of the requests for a task is the one that counts?

A task has one request in flight, or two where the first is late and was asked once more (a hedge). The first
one that ends the task is the one that counts; the other is a loser, whose picture nobody needs.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import msgspec

from batchgen.records import ErrorClass, Outcome, Status

if TYPE_CHECKING:
    from batchgen.budget import Reservation
    from batchgen.feed import Offer
    from batchgen.ledger import Attempt


class Item:
    """A task on its way, with what happened to it in this run."""

    __slots__ = (
        "_landed", "_writer", "attempts", "by_kind", "decided", "flights", "hedge", "hedged", "parent_sha",
        "requests", "task",
    )  # fmt: skip

    def __init__(self, offer: Offer) -> None:
        self.task = offer.task
        self.parent_sha = offer.parent_sha
        self.attempts = 0
        """Those that count."""
        self.requests = 0
        self.by_kind: Counter[ErrorClass] = Counter()
        state = offer.state
        if state is not None and (state.status, state.parent_sha) == (Status.PENDING, offer.parent_sha):
            self.by_kind[ErrorClass.UNCERTAIN] = state.uncertain
        self.flights: list[Flight] = []
        """Its requests that have no outcome yet."""
        self.decided: Flight | None = None
        """The request that ended it."""
        self.hedge: Reservation | None = None
        """Held back for the hedge that a hand is about to begin."""
        self.hedged = False
        self._writer: Flight | None = None
        self._landed = anyio.Event()

    @property
    def is_settled(self) -> bool:
        """Whether nothing that is in flight can end it any more, or nothing is."""
        return self.decided is not None or not self.flights

    def could_be_hedged(self, attempts: int) -> bool:
        """
        Whether it may be asked for once more beside its request, which is done once.

        :param attempts: a task may have so many.
        """
        return (
            not self.hedged
            and not self.is_settled
            and self.attempts + 1 < attempts
            # One whose answer was lost is asked for once more, and that is what is in flight.
            and not self.by_kind[ErrorClass.UNCERTAIN]
        )

    def note(self, kind: ErrorClass | None, *, counts: bool) -> None:
        """Count an attempt that may be followed by others."""
        self.attempts += counts
        if kind is not None:
            self.by_kind[kind] += 1

    def landed(self, flight: Flight) -> None:
        """Take a request out of the race; fine if it is out already."""
        if flight in self.flights:
            self.flights.remove(flight)
        if self._writer is flight:
            self._writer = None
        self._landed.set()
        self._landed = anyio.Event()

    async def claim_file(self, flight: Flight) -> bool:
        """Wait until no other request writes the task's file; False if one has, and it counts."""
        while self.decided is None and self._writer not in {None, flight}:
            await self._landed.wait()
        if self.decided is not None:
            return False
        self._writer = flight
        return True


class Flight:
    """One request for a task, from the intent in the ledger to its outcome."""

    __slots__ = ("attempt", "began", "hedge", "item", "lost", "number", "scope", "sent")

    def __init__(self, item: Item, attempt: Attempt, *, hedge: bool) -> None:
        """:param hedge: whether another one is in flight and late."""
        item.requests += 1
        item.flights.append(self)
        self.item = item
        self.attempt = attempt
        self.hedge = hedge
        self.number = item.requests
        self.began = anyio.current_time()
        self.sent = False
        """Whether its body has left, or may have."""
        self.lost = False
        """Whether another one ended the task before it came back."""
        self.scope = anyio.CancelScope()
        """What may be cancelled of it, once it has lost."""

    async def stem(self) -> str | None:
        """The file it fills; None when another request has brought the picture: nobody needs this one."""
        return self.attempt.stem if await self.item.claim_file(self) else None

    def cut(self) -> Outcome:
        """What it comes to when it is cut off because it has lost."""
        told = "another request for the same row ended it"
        if self.sent:
            return Outcome(kind=ErrorClass.UNCERTAIN, message=f"{told}; this one was not waited for")
        return Outcome(kind=ErrorClass.UNREACHABLE, message=f"{told}; this one was not sent any more")


def late(outcome: Outcome) -> Outcome:
    """What a good answer comes to that nobody needs any more: its cost, and no picture."""
    told = "it came after another request for the same row had brought what was asked for"
    return msgspec.structs.replace(outcome, kind=ErrorClass.LATE, message=told, images=())
