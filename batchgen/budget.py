"""
May this be bought?

Money is reserved before a request leaves and booked when its cost is known, so that however many are in
flight, they cannot overshoot the limit together. Near the limit, where the worst case no longer fits, the
last pictures are bought one at a time, at what pictures have cost so far.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.records import ZERO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """Money held back for one attempt."""

    amount: Decimal
    unanswered: Decimal
    """What the attempt counts for if its cost is never told."""


class Budget:
    """
    What may be spent, has been spent and is held back, in USD.

    `spent` passes `limit` only by what an attempt costs above its reservation. None is no limit.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal = ZERO) -> None:
        self._limit = limit
        self._spent = spent
        self._reserved = ZERO
        self._open: set[Reservation] = set()

    @property
    def spent(self) -> Decimal:
        """Booked so far, what was given at the start included."""
        return self._spent

    @property
    def reserved(self) -> Decimal:
        """Held back for what is in flight."""
        return self._reserved

    @property
    def left(self) -> Decimal | None:
        """What can still be reserved, never below zero; None without a limit."""
        return None if self._limit is None else max(ZERO, self._limit - self._spent - self._reserved)

    def reserve(self, most: Decimal, likely: Decimal) -> Reservation | None:
        """
        Hold `most` back or, if that is too much and nothing is in flight, `likely`.

        None when neither fits, for now or for good: see `could_fit_later`.
        """
        _check(most)
        _check(likely)
        if self._fits(most):
            amount = most
        elif not self._open and self._fits(likely):
            amount = likely
        else:
            return None
        reservation = Reservation(amount, unanswered=min(amount, likely))
        self._open.add(reservation)
        self._reserved += amount
        return reservation

    def could_fit_later(self, likely: Decimal) -> bool:
        """
        Tell whether `likely` fits if everything in flight turns out to cost nothing.

        After `reserve` said no: True is "ask again when an attempt has settled", False is "the budget is used
        up".
        """
        return self._limit is None or self._spent + likely <= self._limit

    def settle(self, reservation: Reservation, actual: Decimal) -> None:
        """Book what an attempt really cost, in full, even above its reservation; KeyError when done."""
        _check(actual)
        self._open.remove(reservation)
        self._reserved -= reservation.amount
        self._spent += actual

    def release(self, reservation: Reservation) -> None:
        """Give back what was held for an attempt that cost nothing. KeyError when done."""
        self.settle(reservation, ZERO)

    def _fits(self, amount: Decimal) -> bool:
        return self._limit is None or self._spent + self._reserved + amount <= self._limit


class Estimate:
    """
    What one picture of one model may cost, by what the recent ones did.

    `most` is the worst case: what was given at first, or more if more was seen. `likely` is the worst case
    too until there were a few pictures; then it is the dearest of them and a margin, which begins as wide as
    their spread and narrows to a quarter of it. Where all cost the same, both together therefore let a limit
    of so many pictures buy that many.
    """

    RECENT = 100
    ENOUGH = 3
    """Pictures from which on something is likely."""

    def __init__(self, most: Decimal, costs: Iterable[Decimal] = ()) -> None:
        """:param costs: what earlier pictures cost, the latest last."""
        _check(most)
        self._most = self._likely = most
        self._costs: deque[Decimal] = deque(maxlen=self.RECENT)
        for cost in costs:
            self.observe(cost)

    @property
    def most(self) -> Decimal:
        """USD, in the worst case."""
        return max(self._most, self.likely)

    @property
    def likely(self) -> Decimal:
        """USD that the next picture will hardly pass."""
        return self._likely

    def observe(self, cost: Decimal) -> None:
        """Learn from an attempt that made a picture; what a refusal costs says nothing of the next."""
        _check(cost)
        self._costs.append(cost)
        count, dearest = len(self._costs), max(self._costs)
        self._likely = (
            max(self._most, dearest)
            if count < self.ENOUGH
            else dearest + (dearest - min(self._costs)) * 3 / min(count, 12)
        )


def _check(amount: Decimal) -> None:
    """Refuse what would give money back: the token counts behind a cost are the endpoint's claim."""
    if not (amount.is_finite() and amount >= 0):
        raise ValueError(f"an amount of money is zero or more, not {amount}")
