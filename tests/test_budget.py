"""Money is reserved before it is spent, and the limit holds at any concurrency."""

from __future__ import annotations

from collections import deque
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from batchgen.budget import Budget, Estimate, Reservation

AMOUNTS = st.decimals(0, 3, places=6)
PICTURE = Decimal("0.067200")


def reserve(budget: Budget, amount: Decimal) -> Reservation:
    reservation = budget.reserve(amount, amount)
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
        self.held: list[Decimal] = []

    @rule(target=in_flight, likely=AMOUNTS, more=AMOUNTS)
    def begin(self, likely: Decimal, more: Decimal) -> Reservation:
        most, taken = likely + more, self.spent + sum(self.held)
        reservation = self.budget.reserve(most, likely)
        if taken + most <= self.limit:
            assert reservation is not None
            assert reservation.amount == most
        elif not self.held and taken + likely <= self.limit:
            assert reservation is not None
            assert reservation.amount == likely
        else:
            assert reservation is None
            assert self.budget.could_fit_later(likely) == (self.spent + likely <= self.limit)
            reservation = reserve(self.budget, Decimal(0))
        self.held.append(reservation.amount)
        assert reservation.unanswered <= reservation.amount
        return reservation

    @rule(reservation=consumes(in_flight), share=st.decimals(0, 1, places=3))
    def settle(self, reservation: Reservation, share: Decimal) -> None:
        self.budget.settle(reservation, reservation.amount * share)
        self.held.remove(reservation.amount)
        self.spent += reservation.amount * share

    @rule(reservation=consumes(in_flight))
    def release(self, reservation: Reservation) -> None:
        self.budget.release(reservation)
        self.held.remove(reservation.amount)

    @invariant()
    def the_limit_holds_and_the_books_are_exact(self) -> None:
        assert self.budget.spent == self.spent <= self.limit
        assert self.budget.reserved == sum(self.held)
        assert self.budget.left == self.limit - self.spent - sum(self.held) >= 0


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
    assert budget.reserve(Decimal("0.2"), Decimal("0.2")) is None
    assert budget.could_fit_later(Decimal(1))
    assert not budget.could_fit_later(Decimal("1.1"))
    budget.settle(first, Decimal("0.9"))
    assert budget.reserve(Decimal("0.2"), Decimal("0.2")) is None
    assert not budget.could_fit_later(Decimal("0.2"))


def test_a_limit_that_is_just_reached_is_not_passed() -> None:
    budget = Budget(Decimal("0.3"))
    for _ in range(3):
        budget.settle(reserve(budget, Decimal("0.1")), Decimal("0.1"))
    assert budget.left == 0
    assert budget.reserve(Decimal("0.000001"), Decimal("0.000001")) is None


def test_what_costs_more_than_reserved_is_booked_in_full() -> None:
    budget = Budget(Decimal(1))
    budget.settle(reserve(budget, Decimal(1)), Decimal("1.5"))
    assert budget.spent == Decimal("1.5")
    assert budget.left == 0
    assert budget.reserve(Decimal(0), Decimal(0)) is None


def test_a_run_taken_up_again_begins_with_what_was_spent() -> None:
    budget = Budget(Decimal(1), Decimal("0.95"))
    assert budget.reserve(Decimal("0.1"), Decimal("0.1")) is None
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
        lambda: budget.reserve(Decimal(amount), Decimal(1)),
        lambda: budget.reserve(Decimal(1), Decimal(amount)),
        lambda: budget.settle(reservation, Decimal(amount)),
        lambda: Estimate(Decimal(amount)),
        lambda: Estimate(Decimal(1)).observe(Decimal(amount)),
    ):
        with pytest.raises(ValueError, match="zero or more"):
            attempt()
    assert budget.reserved == Decimal("0.5")
    assert budget.spent == 0


def bought(budget: Budget, estimate: Estimate, costs: list[Decimal], *, in_flight: int) -> list[Decimal]:
    """Buy pictures of these costs, so many at once, while the budget allows; return what was bought."""
    flying: deque[tuple[Reservation, Decimal]] = deque()
    done: list[Decimal] = []

    def land() -> None:
        reservation, cost = flying.popleft()
        budget.settle(reservation, cost)
        estimate.observe(cost)
        done.append(cost)

    for cost in costs:
        if len(flying) == in_flight:
            land()
        while (reservation := budget.reserve(estimate.most, estimate.likely)) is None:
            if not flying or not budget.could_fit_later(estimate.likely):
                break
            land()
        if reservation is None:
            break
        flying.append((reservation, cost))
    while flying:
        land()
    return done


CARDS = st.integers(67_950, 68_700).map(lambda micros: Decimal(micros) / 1_000_000)
"""What a 1K picture of Gemini 3.1 Flash Image costs, with 150 to 400 tokens of thinking."""


@given(st.integers(6, 300), st.integers(0, 67199).map(lambda micros: Decimal(micros) / 1_000_000))
def test_a_limit_of_so_many_pictures_buys_that_many(count: int, rest: Decimal) -> None:
    budget = Budget(PICTURE * count + rest)
    assert len(bought(budget, Estimate(PICTURE * 2), [PICTURE] * 400, in_flight=1)) == count


@given(st.lists(CARDS, min_size=90, max_size=90), st.integers(1, 200), st.sampled_from([1, 2]))
def test_costs_that_vary_fill_the_limit_to_its_last_picture_and_never_pass_it(
    costs: list[Decimal], in_flight: int, limit: int
) -> None:
    budget = Budget(Decimal(limit))
    spent = sum(bought(budget, Estimate(Decimal("0.1655")), costs, in_flight=in_flight))
    assert limit - Decimal("0.0715") <= spent <= limit


@given(
    st.lists(st.integers(1, 165_500).map(lambda micros: Decimal(micros) / 1_000_000), max_size=120),
    st.integers(1, 200),
)
def test_whatever_pictures_cost_only_the_last_one_alone_can_pass_the_limit(
    costs: list[Decimal], in_flight: int
) -> None:
    most, limit = Decimal("0.1655"), Decimal(3)
    done = bought(Budget(limit), Estimate(most), costs, in_flight=in_flight)
    assert sum(done[:-1]) <= limit
    if sum(done) > limit:
        assert done[-1] > max(done[-101:-1]), "by being dearer than any before it"


def test_a_worst_case_is_kept_to_while_anything_else_is_in_flight() -> None:
    budget = Budget(Decimal(1))
    first = budget.reserve(Decimal("0.6"), Decimal("0.1"))
    assert first is not None
    assert budget.reserve(Decimal("0.6"), Decimal("0.1")) is None, "although 0.1 would fit"
    assert budget.could_fit_later(Decimal("0.1"))
    budget.settle(first, Decimal("0.6"))
    last = budget.reserve(Decimal("0.6"), Decimal("0.1"))
    assert last is not None
    assert (last.amount, last.unanswered) == (Decimal("0.1"), Decimal("0.1"))


def test_an_attempt_without_an_answer_counts_for_a_dear_picture_and_not_for_the_worst() -> None:
    reservation = Budget(Decimal(1)).reserve(Decimal("0.6"), Decimal("0.1"))
    assert reservation is not None
    assert (reservation.amount, reservation.unanswered) == (Decimal("0.6"), Decimal("0.1"))


def test_nothing_is_likely_before_there_were_a_few_pictures() -> None:
    estimate = Estimate(Decimal(1))
    for _ in range(Estimate.ENOUGH):
        assert estimate.likely == estimate.most == 1
        estimate.observe(PICTURE)
    assert estimate.likely == PICTURE
    assert estimate.most == 1


def test_a_cost_above_the_worst_case_raises_it_at_once() -> None:
    estimate = Estimate(PICTURE)
    estimate.observe(PICTURE * 3)
    assert estimate.most == estimate.likely == PICTURE * 3


@given(st.lists(AMOUNTS, min_size=Estimate.ENOUGH, max_size=150))
def test_what_is_likely_covers_the_recent_costs_and_no_more_than_their_spread(costs: list[Decimal]) -> None:
    estimate = Estimate(Decimal(100))
    for cost in costs:
        estimate.observe(cost)
    recent = costs[-Estimate.RECENT :]
    assert max(recent) <= estimate.likely <= max(recent) * 2 - min(recent)
    assert estimate.most == 100


def test_the_margin_narrows_with_what_is_known() -> None:
    estimate = Estimate(Decimal(9))
    for cost in (1, 2, 1):
        estimate.observe(Decimal(cost))
    assert estimate.likely == 3
    for _ in range(9):
        estimate.observe(Decimal(1))
    assert estimate.likely == Decimal("2.25")


def test_an_outlier_is_forgotten() -> None:
    estimate = Estimate(PICTURE)
    estimate.observe(Decimal(9))
    for _ in range(Estimate.RECENT):
        estimate.observe(PICTURE)
    assert estimate.likely == estimate.most == PICTURE
