"""
May this be bought?

Money is reserved before a request leaves and booked when its cost is known, so that however many are in
flight, they cannot overshoot the limit together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.records import ZERO

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """Money held back for one attempt."""

    amount: Decimal


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

    def reserve(self, amount: Decimal) -> Reservation | None:
        """Hold `amount` back; None when it does not fit, for now or for good: see `could_fit_later`."""
        _check(amount)
        if self._limit is not None and self._spent + self._reserved + amount > self._limit:
            return None
        reservation = Reservation(amount)
        self._open.add(reservation)
        self._reserved += amount
        return reservation

    def could_fit_later(self, amount: Decimal) -> bool:
        """
        Tell whether `amount` fits if everything in flight turns out to cost nothing.

        After `reserve` said no: True is "ask again when an attempt has settled", False is "the budget is used
        up".
        """
        return self._limit is None or self._spent + amount <= self._limit

    def settle(self, reservation: Reservation, actual: Decimal) -> None:
        """Book what an attempt really cost, in full, even above its reservation; KeyError when done."""
        _check(actual)
        self._open.remove(reservation)
        self._reserved -= reservation.amount
        self._spent += actual

    def release(self, reservation: Reservation) -> None:
        """Give back what was held for an attempt that cost nothing. KeyError when done."""
        self.settle(reservation, ZERO)


class Estimate:
    """
    What to reserve for one picture of one model.

    At first `first`, a careful price; after a few pictures the largest of the recent costs plus a quarter of
    their spread. Where all cost the same, a limit of so many pictures therefore buys that many.
    """

    RECENT = 100
    ENOUGH = 3
    """Pictures after which the first price is forgotten."""

    def __init__(self, first: Decimal) -> None:
        _check(first)
        self._first = first
        self._costs: deque[Decimal] = deque(maxlen=self.RECENT)

    @property
    def amount(self) -> Decimal:
        """USD to reserve for the next attempt."""
        if not self._costs:
            return self._first
        most = max(self._costs)
        careful = most + (most - min(self._costs)) / 4
        return careful if len(self._costs) >= self.ENOUGH else max(self._first, careful)

    def observe(self, cost: Decimal) -> None:
        """Learn from an attempt that made a picture; what a refusal costs says nothing of the next."""
        _check(cost)
        self._costs.append(cost)


def _check(amount: Decimal) -> None:
    """Refuse what would give money back: the token counts behind a cost are the endpoint's claim."""
    if not (amount.is_finite() and amount >= 0):
        raise ValueError(f"an amount of money is zero or more, not {amount}")
