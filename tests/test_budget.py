"""Money is reserved before it is spent, and the limit holds at any concurrency."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from batchgen.budget import Budget, Estimate, Reservation

AMOUNTS = st.decimals(0, 3, places=6)
PICTURE = Decimal("0.067200")


def reserve(budget: Budget, amount: Decimal) -> Reservation:
    reservation = budget.reserve(amount)
    assert reservation is not None
    return reservation


class Spending(RuleBasedStateMachine):
    """Any number of attempts in flight, none of which costs more than was reserved."""

    in_flight = Bundle[Reservation]("in_flight")

    def __init__(self) -> None:
        super().__init__()
        self.limit = Decimal(5)
        self.budget = Budget(self.limit, Decimal(1))
        self.spent = Decimal(1)
        self.reserved = Decimal(0)

    @rule(target=in_flight, amount=AMOUNTS)
    def begin(self, amount: Decimal) -> Reservation:
        fits = self.spent + self.reserved + amount <= self.limit
        reservation = self.budget.reserve(amount)
        assert (reservation is not None) == fits
        if reservation is None:
            assert self.budget.could_fit_later(amount) == (self.spent + amount <= self.limit)
            reservation = reserve(self.budget, Decimal(0))
        self.reserved += reservation.amount
        return reservation

    @rule(reservation=consumes(in_flight), share=st.decimals(0, 1, places=3))
    def settle(self, reservation: Reservation, share: Decimal) -> None:
        self.budget.settle(reservation, reservation.amount * share)
        self.reserved -= reservation.amount
        self.spent += reservation.amount * share

    @rule(reservation=consumes(in_flight))
    def release(self, reservation: Reservation) -> None:
        self.budget.release(reservation)
        self.reserved -= reservation.amount

    @invariant()
    def the_limit_holds_and_the_books_are_exact(self) -> None:
        assert self.budget.spent == self.spent <= self.limit
        assert self.budget.reserved == self.reserved
        assert self.budget.left == self.limit - self.spent - self.reserved >= 0


TestSpending = Spending.TestCase


def test_without_a_limit_everything_fits_and_is_booked() -> None:
    budget = Budget(None)
    budget.settle(reserve(budget, Decimal(10**9)), Decimal(10**9))
    assert budget.left is None
    assert budget.could_fit_later(Decimal(10**12))
    assert budget.spent == Decimal(10**9)


def test_a_full_budget_says_whether_waiting_can_help() -> None:
    budget = Budget(Decimal(1))
    first = reserve(budget, Decimal("0.9"))
    assert budget.reserve(Decimal("0.2")) is None
    assert budget.could_fit_later(Decimal(1))
    assert not budget.could_fit_later(Decimal("1.1"))
    budget.settle(first, Decimal("0.9"))
    assert budget.reserve(Decimal("0.2")) is None
    assert not budget.could_fit_later(Decimal("0.2"))


def test_a_limit_that_is_just_reached_is_not_passed() -> None:
    budget = Budget(Decimal("0.3"))
    for _ in range(3):
        budget.settle(reserve(budget, Decimal("0.1")), Decimal("0.1"))
    assert budget.left == 0
    assert budget.reserve(Decimal("0.000001")) is None


def test_what_costs_more_than_reserved_is_booked_in_full() -> None:
    budget = Budget(Decimal(1))
    budget.settle(reserve(budget, Decimal(1)), Decimal("1.5"))
    assert budget.spent == Decimal("1.5")
    assert budget.left == 0
    assert budget.reserve(Decimal(0)) is None


def test_a_run_taken_up_again_begins_with_what_was_spent() -> None:
    budget = Budget(Decimal(1), Decimal("0.95"))
    assert budget.reserve(Decimal("0.1")) is None
    assert not budget.could_fit_later(Decimal("0.1"))


def test_a_reservation_ends_once() -> None:
    budget = Budget(Decimal(1))
    reservation = reserve(budget, Decimal("0.5"))
    budget.settle(reservation, Decimal("0.4"))
    with pytest.raises(KeyError):
        budget.settle(reservation, Decimal("0.4"))
    with pytest.raises(KeyError):
        budget.release(reservation)
    assert budget.spent == Decimal("0.4")
    assert budget.reserved == 0


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "Infinity", "-Infinity", "sNaN"])
def test_no_amount_gives_money_back_or_has_no_size(amount: str) -> None:
    budget = Budget(Decimal(1))
    reservation = reserve(budget, Decimal("0.5"))
    for attempt in (
        lambda: budget.reserve(Decimal(amount)),
        lambda: budget.settle(reservation, Decimal(amount)),
        lambda: Estimate(Decimal(amount)),
        lambda: Estimate(Decimal(1)).observe(Decimal(amount)),
    ):
        with pytest.raises(ValueError, match="zero or more"):
            attempt()
    assert budget.reserved == Decimal("0.5")
    assert budget.spent == 0


def buy_all(budget: Budget, estimate: Estimate, cost: Decimal) -> int:
    """Buy one after the other while the budget allows; return how many."""
    count = 0
    while (reservation := budget.reserve(estimate.amount)) is not None:
        budget.settle(reservation, cost)
        estimate.observe(cost)
        count += 1
    return count


@given(st.integers(4, 300), st.integers(0, 67199).map(lambda micros: Decimal(micros) / 1_000_000))
def test_a_limit_of_so_many_pictures_buys_that_many(count: int, rest: Decimal) -> None:
    budget = Budget(PICTURE * count + rest)
    assert buy_all(budget, Estimate(first=PICTURE * 2), PICTURE) == count


def test_a_careful_first_price_is_forgotten_after_a_few_pictures() -> None:
    estimate = Estimate(first=Decimal(1))
    for _ in range(Estimate.ENOUGH):
        assert estimate.amount == 1
        estimate.observe(PICTURE)
    assert estimate.amount == PICTURE


def test_a_cost_above_the_estimate_raises_it_at_once() -> None:
    estimate = Estimate(first=PICTURE)
    estimate.observe(PICTURE * 3)
    assert estimate.amount >= PICTURE * 3


@given(st.lists(AMOUNTS, min_size=Estimate.ENOUGH, max_size=150))
def test_the_estimate_covers_the_recent_costs_and_no_more_than_their_spread(costs: list[Decimal]) -> None:
    estimate = Estimate(first=Decimal(100))
    for cost in costs:
        estimate.observe(cost)
    recent = costs[-Estimate.RECENT :]
    assert max(recent) <= estimate.amount <= max(recent) + (max(recent) - min(recent)) / 4


def test_costs_that_vary_are_given_room() -> None:
    estimate = Estimate(first=Decimal(9))
    for cost in (1, 2, 1):
        estimate.observe(Decimal(cost))
    assert estimate.amount == Decimal("2.25")


def test_an_outlier_is_forgotten() -> None:
    estimate = Estimate(first=PICTURE)
    estimate.observe(Decimal(9))
    for _ in range(Estimate.RECENT):
        estimate.observe(PICTURE)
    assert estimate.amount == PICTURE
