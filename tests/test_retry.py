"""Each class of failure does to its task and to the run what the table says, and waits politely."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.records import ErrorClass, Status
from batchgen.retry import RULES, Action, Decision, Health, Policy, decide

RETRIED = [kind for kind, rule in RULES.items() if rule.action is Action.RETRY]


def after(kind: ErrorClass, attempts: int = 1, same: int | None = None, **changes: float) -> Decision:
    retry_after = changes.pop("retry_after", None)
    policy = Policy(**changes)  # type: ignore[arg-type]
    same = attempts if same is None else same
    return decide(kind, attempts=attempts, same=same, policy=policy, retry_after=retry_after, rng=Random(0))


def test_every_error_class_has_a_rule_with_a_remedy() -> None:
    assert set(RULES) == set(ErrorClass)
    assert all(rule.remedy.endswith(".") for rule in RULES.values())


def test_no_task_that_failed_counts_as_succeeded() -> None:
    assert Status.SUCCEEDED not in {rule.status for rule in RULES.values()}


def test_what_stops_the_run_leaves_its_task_pending() -> None:
    stopping = {kind for kind, rule in RULES.items() if Action.STOP in {rule.action, rule.then}}
    assert stopping == {
        ErrorClass.AUTH,
        ErrorClass.ACCOUNT,
        ErrorClass.CREDITS,
        ErrorClass.MODEL,
        ErrorClass.ENDPOINT_INCAPABLE,
        ErrorClass.DAILY_QUOTA,
        ErrorClass.NO_CHANNEL,
        ErrorClass.UNWRITTEN,
    }
    assert {RULES[kind].status for kind in stopping} == {Status.PENDING}


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        (ErrorClass.RATE, Action.COOL),
        (ErrorClass.DAILY_QUOTA, Action.STOP),
        (ErrorClass.AUTH, Action.STOP),
        (ErrorClass.ACCOUNT, Action.STOP),
        (ErrorClass.CREDITS, Action.STOP),
        (ErrorClass.MODEL, Action.STOP),
        (ErrorClass.ENDPOINT_INCAPABLE, Action.STOP),
        (ErrorClass.BAD_REQUEST, Action.FAIL),
        (ErrorClass.BLOCKED, Action.FAIL),
        (ErrorClass.LENGTH, Action.FAIL),
        (ErrorClass.DOWNLOAD, Action.FAIL),
        (ErrorClass.UNWRITTEN, Action.STOP),
    ],
)
def test_some_failures_are_never_tried_again(kind: ErrorClass, action: Action) -> None:
    assert after(kind, retry_after=30) == Decision(action=action)


def test_a_rate_limit_cools_everybody_however_often_it_comes() -> None:
    assert after(ErrorClass.RATE, attempts=1000).action is Action.COOL


@pytest.mark.parametrize(
    ("kind", "most", "then"),
    [
        (ErrorClass.TRANSIENT, 5, Action.FAIL),
        (ErrorClass.NO_CHANNEL, 5, Action.STOP),
        (ErrorClass.NO_IMAGE, 3, Action.FAIL),
        (ErrorClass.UNCERTAIN, 2, Action.FAIL),
        (ErrorClass.CORRUPT, 2, Action.FAIL),
        (ErrorClass.BAD_ANSWER, 2, Action.FAIL),
    ],
)
def test_the_others_are_tried_again_so_many_times(kind: ErrorClass, most: int, then: Action) -> None:
    actions = [after(kind, attempts).action for attempts in range(1, most + 1)]
    assert actions == [Action.RETRY] * (most - 1) + [then]

    assert after(ErrorClass.UNCERTAIN, attempts=4, same=1).action is Action.RETRY
    assert after(ErrorClass.UNCERTAIN, attempts=5, same=1).action is Action.FAIL
    once = Policy(attempts=1)
    decision = decide(ErrorClass.TRANSIENT, attempts=1, same=1, policy=once, retry_after=None, rng=Random(0))
    assert decision == Decision(action=Action.FAIL)


@given(
    st.sampled_from(RETRIED),
    st.integers(1, 10_000),
    st.floats(0, 900) | st.none(),
    st.integers(),
)
def test_a_delay_is_never_below_what_was_asked_nor_longer_than_the_backoff_adds(
    kind: ErrorClass, attempts: int, retry_after: float | None, seed: int
) -> None:
    policy = Policy(attempts=100_000)
    decision = decide(
        kind, attempts=attempts, same=1, policy=policy, retry_after=retry_after, rng=Random(seed)
    )
    asked = retry_after or 0
    assert decision.action is Action.RETRY
    assert asked <= decision.delay <= asked + min(policy.cap, policy.initial * 2.0 ** min(attempts - 1, 99))


def test_the_jitter_is_full_so_that_tasks_do_not_return_in_step() -> None:
    rng = Random(1)
    delays = [
        decide(ErrorClass.TRANSIENT, attempts=4, same=4, policy=Policy(), retry_after=None, rng=rng).delay
        for _ in range(2000)
    ]
    assert min(delays) < 0.1
    assert max(delays) > 7.9
    assert sum(delays) / len(delays) == pytest.approx(4, rel=0.05)


def test_what_was_never_sent_costs_no_attempt() -> None:
    uncounted = {kind for kind, rule in RULES.items() if not rule.counts}
    assert uncounted == {
        ErrorClass.RATE,
        ErrorClass.DAILY_QUOTA,
        ErrorClass.UNREACHABLE,
        ErrorClass.REFERENCE,
        ErrorClass.PARENT_FAILED,
    }
    assert after(ErrorClass.UNREACHABLE, attempts=10_000).action is Action.RETRY


@pytest.mark.parametrize("kind", [ErrorClass.TRANSIENT, ErrorClass.NO_IMAGE, ErrorClass.BAD_ANSWER])
def test_a_run_whose_first_tasks_all_fail_the_endpoint_s_way_ends(kind: ErrorClass) -> None:
    health = Health(1.0)
    assert [health.ended(kind) is not None for _ in range(10)] == [False] * 9 + [True]


@given(st.lists(st.sampled_from([None, ErrorClass.BLOCKED, ErrorClass.TRANSIENT]), max_size=300))
def test_a_run_is_given_up_by_its_first_ten_tasks_or_by_its_last_hundred(
    ends: list[ErrorClass | None],
) -> None:
    health = Health(0.5)
    for count, kind in enumerate(ends, 1):
        said = health.ended(kind)
        latest = ends[max(0, count - 100) : count]
        failed = sum(end is not None for end in latest)
        first = count == 10 and all(end is ErrorClass.TRANSIENT for end in ends[:10])
        assert (said is not None) == (first or (count >= 100 and failed > 50))
