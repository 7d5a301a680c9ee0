"""A request is late when it has taken longer than nearly all of its kind, once enough of those are known."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.stragglers import ENOUGH, RECENT, SHARE, Stragglers, percentile

SECONDS = st.floats(min_value=0, max_value=1e6)


@settings(max_examples=40)
@given(values=st.lists(SECONDS, min_size=1, max_size=60), share=st.floats(min_value=0, max_value=1))
def test_a_percentile_is_the_least_value_that_is_not_passed_by_more_than_the_rest(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in values
    at_most = sum(value <= found for value in values) / len(values)
    below = sum(value < found for value in values) / len(values)
    assert at_most >= share
    assert below < share or found == ordered[0]


@settings(max_examples=20)
@given(values=st.lists(SECONDS, min_size=ENOUGH, max_size=2 * ENOUGH))
def test_no_more_than_a_twentieth_of_what_is_known_was_late(values: list[float]) -> None:
    patience = Stragglers(("model", seconds) for seconds in values).patience("model")
    assert sum(seconds > patience for seconds in values) <= SHARE * len(values)
    assert patience <= max(values)


def test_nothing_is_late_before_enough_good_answers_of_its_kind_are_known() -> None:
    known = Stragglers([("pro", 1.0)] * ENOUGH)
    for _ in range(ENOUGH - 1):
        known.answered("flash", 3.0)
    assert (known.patience("flash"), known.patience("pro")) == (math.inf, 1.0)
    known.answered("flash", 3.0)
    assert known.patience("flash") == 3.0


@pytest.mark.parametrize("spread", [0.1, 0.35, 0.9])
def test_of_log_normal_answers_one_in_a_hundred_is_late(spread: float) -> None:
    dice = random.Random(1)
    latencies = [dice.lognormvariate(math.log(12), spread) for _ in range(RECENT)]
    expected = 12 * math.exp(spread * statistics.NormalDist().inv_cdf(0.99))
    assert Stragglers(("m", one) for one in latencies).patience("m") == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("slow", [0.01, 0.03])
def test_slow_answers_do_not_hide_themselves_by_being_frequent(slow: float) -> None:
    dice = random.Random(2)
    usual = [dice.lognormvariate(math.log(12), 0.35) for _ in range(RECENT)]
    known = Stragglers(("m", 20 * one if dice.random() < slow else one) for one in usual)
    assert known.patience("m") < 60


def test_what_was_long_ago_is_forgotten() -> None:
    known = Stragglers([("m", 100.0)] * RECENT)
    for _ in range(RECENT):
        known.answered("m", 5.0)
    assert known.patience("m") == 5.0


@settings(max_examples=20)
@given(requests=st.integers(0, 1000))
def test_hedges_are_few(requests: int) -> None:
    hedges = 0
    while Stragglers.allows(hedges, requests):
        hedges += 1
    assert hedges == max(1, math.ceil(SHARE * requests))
