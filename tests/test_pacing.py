"""What paces starts never passes a declared limit and uses it to the full, and finds one nobody declared."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchgen.pacing import Pacer, Ramp

if TYPE_CHECKING:
    from collections.abc import Sequence

# Eighths are exact in binary, so that sums of weights can be compared with `<=`.
LIMITS = st.integers(1, 400).map(lambda eighths: eighths / 8) | st.sampled_from([60.0, 600.0, 3000.0])
PAUSES = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.05, 0.5, 3.0, 20.0, 61.0, 500.0]), max_size=150)


def within(starts: Sequence[tuple[float, float]], span: float) -> float:
    """Return the largest weight in any half-open window of `span` seconds."""
    most = total = 0.0
    first = 0
    for at, weight in starts:
        total += weight
        while starts[first][0] <= at - span:
            total -= starts[first][1]
            first += 1
        most = max(most, total)
    return most


def start_all(pacer: Pacer, pauses: Sequence[float], weight: float = 1.0) -> list[float]:
    """Start as early as allowed, each `pause` late."""
    now, starts = 0.0, []
    for pause in pauses:
        now = pacer.earliest(now, weight) + pause
        pacer.take(now, weight)
        starts.append(now)
    return starts


# --- Pacer ------------------------------------------------------------------------------------------------


@given(LIMITS, PAUSES)
def test_no_minute_holds_more_starts_than_declared(limit: float, pauses: list[float]) -> None:
    starts = start_all(Pacer(limit), pauses)
    span = 60 / min(limit, 1)
    assert within([(at, 1.0) for at in starts], span) <= max(limit, 1)


@given(
    st.integers(10, 500),
    st.lists(st.tuples(st.integers(0, 500), st.sampled_from([0.0, 0.0, 0.01, 2.0, 40.0]))),
)
def test_no_minute_holds_more_tokens_than_declared(limit: int, requests: list[tuple[int, float]]) -> None:
    pacer, now, starts = Pacer(limit), 0.0, []
    for weight, pause in requests:
        capped = min(weight, limit)
        now = pacer.earliest(now, capped) + pause
        pacer.take(now, capped)
        starts.append((now, float(capped)))
    assert within(starts, 60.0) <= limit


@given(LIMITS, PAUSES)
@example(600.0, [0.0, 0.5, 0.0, 0.0, 0.0])
@example(30.0, [0.0, 1.5, 0.0, 0.0, 0.0])
def test_a_strict_bucket_of_two_never_runs_dry(limit: float, pauses: list[float]) -> None:
    level, last = 2.0, 0.0
    for at in start_all(Pacer(limit), pauses):
        level = min(2.0, level + (at - last) * limit / 60)
        last = at
        assert level >= 1
        level -= 1


@given(LIMITS, PAUSES)
def test_the_earliest_time_is_exact(limit: float, pauses: list[float]) -> None:
    pacer = Pacer(limit)
    now = start_all(pacer, pauses)[-1] if pauses else 0.0
    at = pacer.earliest(now)
    assert pacer.earliest(at) == at
    if at > now:
        before = now + (at - now) * 0.999
        assert pacer.earliest(before) == at


def test_nothing_bursts_not_even_at_the_beginning_or_after_an_idle_hour() -> None:
    starts = start_all(Pacer(60), [0, 0, 0, 3600, 0, 0])
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert [gap >= 1 for gap in gaps] == [True] * 5


@pytest.mark.parametrize("limit", [1, 7.5, 60, 600, 2400, 6000])
def test_late_timers_cost_less_than_a_hundredth_of_the_limit(limit: float) -> None:
    rng = random.Random(7)
    count = int(limit * 5)
    starts = start_all(Pacer(limit), [rng.uniform(0, 0.004) for _ in range(count + 1)])
    assert count / (starts[-1] - starts[0]) * 60 >= 0.99 * math.floor(limit)


@pytest.mark.parametrize(("limit", "gap"), [(0.5, 120), (0.1, 600), (1, 60)])
def test_a_limit_below_one_a_minute_is_kept_and_used(limit: float, gap: float) -> None:
    starts = start_all(Pacer(limit), [0.9, 0.0, 0.0, 0.9, 0.0])
    for before, after in itertools.pairwise(starts):
        assert gap <= after - before <= gap * 1.01 + 0.9


def test_a_weight_above_the_limit_passes_alone_after_an_empty_minute() -> None:
    pacer = Pacer(100)
    pacer.take(0.0, 10)
    huge = pacer.earliest(0.0, 250)
    assert 60 <= huge <= 61
    pacer.take(huge, 250)
    assert 150 <= pacer.earliest(huge, 1) - huge <= 151


def test_starts_that_share_a_slot_leave_the_window_with_the_last_of_them() -> None:
    pacer = Pacer(1000)
    pacer.take(0.0, 500)
    pacer.take(0.05, 500)
    assert pacer.earliest(0.05, 1000) == pytest.approx(60.35)


def test_a_correction_downwards_frees_the_window_and_the_pace() -> None:
    pacer = Pacer(1000)
    reservation = pacer.take(0.0, 1000)
    assert pacer.earliest(0.0, 500) >= 60
    pacer.correct(reservation, 100)
    assert pacer.earliest(0.0, 500) == pytest.approx(6, abs=0.1)


def test_a_correction_upwards_counts_from_the_start_of_the_request() -> None:
    pacer = Pacer(1000)
    reservation = pacer.take(0.0, 100)
    pacer.correct(reservation, 900)
    assert pacer.earliest(10.0, 50) == pytest.approx(54, abs=0.5)
    assert 60 <= pacer.earliest(10.0, 200) <= 61


def test_a_correction_after_the_minute_is_owed_but_not_in_the_window() -> None:
    pacer = Pacer(1000)
    reservation = pacer.take(0.0, 100)
    pacer.take(70.0, 100)
    pacer.correct(reservation, 600)
    assert pacer.earliest(70.0, 900) == pytest.approx(70 + 6 + 30, abs=0.5)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), min_size=1, max_size=80))
def test_corrected_weights_never_pass_the_limit_when_reserved_with_care(pairs: list[tuple[int, int]]) -> None:
    pacer, now, starts = Pacer(300), 0.0, []
    for one, other in pairs:
        reserved, actual = max(one, other), min(one, other)
        now = pacer.earliest(now, reserved)
        pacer.correct(pacer.take(now, reserved), actual)
        starts.append((now, float(actual)))
    assert within(starts, 60.0) <= 300


@pytest.mark.parametrize("limit", [60, 1_000_000])
def test_the_window_remembers_no_more_than_a_minute_in_bounded_memory(limit: float) -> None:
    pacer = Pacer(limit)
    start_all(pacer, [0.0] * 20_000)
    assert len(pacer._window) <= min(limit, 1001)


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_that_allows_nothing_is_an_error(limit: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        Pacer(limit)


# --- Ramp -------------------------------------------------------------------------------------------------


def ramp_after(starts_a_second: float, share: float) -> Ramp:
    ramp = Ramp(declared=True)
    for k in range(40):
        ramp.start(k / starts_a_second)
    now = 40 / starts_a_second
    ramp.cut(now, share)
    ramp.hold(now)
    return ramp


def test_without_a_429_nobody_is_held() -> None:
    ramp = Ramp(declared=True)
    for _ in range(100):
        assert ramp.earliest(5.0) == 5.0
        ramp.start(5.0)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_cut_goes_to_its_share_and_the_rate_returns_level_and_beyond(share: float) -> None:
    ramp = ramp_after(10, share)
    assert ramp.rate(4.0) == pytest.approx(10 * share, rel=0.05)
    assert ramp.rate(3.0) == ramp.rate(4.0)  # nothing grows while the gate is closed
    rates = [ramp.rate(4.0 + after) for after in range(120)]
    assert rates == sorted(rates)
    assert 9.5 <= rates[20] <= 10.5
    assert rates[60] >= 20


def test_starts_return_spread_at_the_rate() -> None:
    ramp = ramp_after(10, 0.5)
    now, starts = 4.0, []
    for _ in range(50):
        now = ramp.earliest(now)
        ramp.start(now)
        starts.append(now)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert 0.18 <= gaps[0] <= 0.22
    assert min(gaps) >= 0.1


def test_a_second_cut_goes_on_from_the_first() -> None:
    ramp = ramp_after(10, 0.5)
    ramp.cut(4.0, 0.5)
    assert ramp.rate(4.0) == pytest.approx(2.5, rel=0.05)


def test_however_many_cuts_the_rate_stays_alive_and_returns() -> None:
    ramp = ramp_after(10, 0.5)
    now = 4.0
    for _ in range(100):
        now += 60
        ramp.start(now)
        ramp.cut(now, 0.5)
        ramp.hold(now)
    assert ramp.rate(now) == Ramp.FLOOR
    assert ramp.rate(now + 900) > 10


def test_what_is_felt_between_two_429s_is_what_was_taken() -> None:
    ramp = Ramp(declared=False)
    for k in range(40):
        ramp.start(k / 10)
    ramp.refused()
    ramp.cut(4.0, 0.7)
    assert ramp.felt(4.0) == pytest.approx(29 / 4), "without what a full bucket gave at first"
    for k in range(31):
        ramp.start(4 + k / 3)
    ramp.refused()
    ramp.cut(14.0, 0.7)
    assert ramp.felt(14.0) == pytest.approx(3.0)
    ramp.start(14.5)
    ramp.refused()
    ramp.cut(14.6, 0.5)
    assert ramp.felt(14.6) == pytest.approx(3.0), "a few starts tell nothing"


def test_a_bucket_that_was_full_at_first_is_no_rate() -> None:
    ramp = Ramp(declared=False, known=5.0)
    for k in range(100):
        ramp.start(k / 10)
    ramp.refused()
    ramp.cut(10.0, 0.7)
    assert ramp.felt(10.0) == pytest.approx(5 * (1 + (10 / 30) ** 3)), "as fast as it was allowed"


def test_what_a_bucket_held_at_first_is_told_as_no_limit() -> None:
    ramp = Ramp(declared=False)
    for _ in range(12):
        ramp.start(0.0)
    ramp.refused()
    ramp.cut(1.0, share=0.7)
    assert ramp.felt(1.0) is None
    for second in range(1, 11):
        ramp.start(float(second))
    ramp.cut(11.0, share=0.7)
    assert ramp.felt(11.0) == pytest.approx(1.0), "ten in ten seconds"


def test_what_is_taken_for_long_without_a_429_is_felt_as_the_least_there_is() -> None:
    ramp = ramp_after(10, 0.7)
    before = ramp.felt(4.0)
    assert before is not None
    for k in range(1, 1201):
        ramp.start(4 + k / 20)
    assert ramp.felt(60.0) == before
    assert ramp.felt(64.0) == pytest.approx(20)
    assert Ramp(declared=False).felt(100.0) is None


def test_what_was_known_is_begun_with_and_not_kept_to() -> None:
    ramp, now, starts = Ramp(declared=False, known=10.0), 0.0, []
    while now < 60:
        now = ramp.earliest(now)
        ramp.start(now)
        starts.append(now)
    assert sum(at < 5 for at in starts) == pytest.approx(50, rel=0.02)
    assert ramp.rate(60.0) == pytest.approx(90)


def test_after_a_rest_an_opening_begins_anew_and_old_answers_open_nothing() -> None:
    ramp, other = Ramp(declared=False), Ramp(declared=False)
    for _ in range(60):
        ramp.start(0.0)
    ramp.rest(1.0, 30.0)
    for rested in (ramp, other):
        for _ in range(Ramp.OPENING):
            assert rested.earliest(30.0) == 30.0
            rested.start(30.0)
    for _ in range(60):
        ramp.answered(0.0)
    assert ramp.earliest(30.0) == other.earliest(30.0) > 30.0
    ramp.answered(30.0)
    assert ramp.earliest(30.0) == 30.0


def test_a_rest_takes_nothing_of_the_rate() -> None:
    ramp, other = ramp_after(10, 0.7), ramp_after(10, 0.7)
    ramp.rest(14.0, 20.0)
    assert ramp.earliest(15.0) == 20.0
    assert ramp.rate(25.0) == pytest.approx(other.rate(19.0))


def test_an_overload_holds_the_growth_for_a_moment_and_cuts_nothing() -> None:
    ramp, other = ramp_after(10, 0.7), ramp_after(10, 0.7)
    before = ramp.rate(10.0)
    ramp.pause(10.0)
    assert ramp.rate(10.0) == ramp.rate(12.0) == before
    assert ramp.rate(20.0) == pytest.approx(other.rate(18.0))


def test_overloads_without_end_halve_the_growth_and_do_not_stop_it() -> None:
    ramp, other = ramp_after(10, 0.7), ramp_after(10, 0.7)
    for eighths in range(8 * 4, 8 * 124):
        ramp.pause(eighths / 8)
    assert ramp.rate(124.0) == pytest.approx(other.rate(64.0), rel=0.1)
    assert ramp.rate(124.0) > 2 * 10
