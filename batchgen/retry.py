"""
What does a failed attempt do to its task and to the run?

`RULES` is the whole answer, one row per error class; `decide` adds the waiting. A rate limit is the gate's
business and costs the task no attempt. What would fail every row alike stops the run and burns none.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from batchgen.records import ErrorClass, Status, Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random


class Action(StrEnum):
    """What happens next."""

    RETRY = "retry"
    """The task is tried again after a delay."""
    COOL = "cool"
    """Everybody waits at the gate; the task then goes on as if nothing had happened."""
    STOP = "stop"
    """No further request is sent; what is in flight is finished; the run can be resumed."""
    FAIL = "fail"
    """The task ends; the run goes on."""


class Rule(Value, frozen=True, kw_only=True):
    """What one class of failure does."""

    action: Action
    status: Status
    """Of a task whose last attempt ended so; `PENDING` is taken up by the next run."""
    remedy: str
    """For the person at the terminal: what to do about it."""
    most: int | None = None
    """Attempts of a task that may end so; None: as many as the job allows."""
    then: Action = Action.FAIL
    """What replaces a `RETRY` when there are no attempts left."""


class Policy(Value, frozen=True, kw_only=True):
    """How often and how patiently."""

    attempts: int = 5
    """Of one task, the first included."""
    initial: float = 1.0
    """Seconds; the upper end of the first delay."""
    cap: float = 60.0
    """Seconds; no delay of our own is longer."""


class Decision(Value, frozen=True, kw_only=True):
    """What to do about one failed attempt."""

    action: Action
    delay: float = 0.0
    """Seconds to wait before a `RETRY`."""


RULES: Mapping[ErrorClass, Rule] = {
    ErrorClass.RATE: Rule(
        action=Action.COOL,
        status=Status.PENDING,
        remedy="Nothing to do; lower --rpm or --concurrency if it keeps happening.",
    ),
    ErrorClass.DAILY_QUOTA: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="Run the same command after the quota's reset (Google: midnight Pacific), or raise the quota.",
    ),
    ErrorClass.TRANSIENT: Rule(
        action=Action.RETRY,
        status=Status.FAILED,
        remedy="The endpoint was overloaded or broken; run again later with --retry-failed.",
    ),
    ErrorClass.UNREACHABLE: Rule(
        action=Action.RETRY,
        status=Status.FAILED,
        remedy="Nothing was bought; check network, proxy and base URL, then run with --retry-failed.",
    ),
    ErrorClass.UNCERTAIN: Rule(
        action=Action.RETRY,
        status=Status.UNCERTAIN,
        most=2,
        remedy="These may have been billed; compare with the provider's account before buying them anew.",
    ),
    ErrorClass.NO_CHANNEL: Rule(
        action=Action.RETRY,
        status=Status.PENDING,
        then=Action.STOP,
        remedy="The gateway has no upstream for the model; run again later or use another model.",
    ),
    ErrorClass.AUTH: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="Check the API key and what it is allowed to use, then run the same command.",
    ),
    ErrorClass.ACCOUNT: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="Enable billing for the account (these models have no free tier) or use another one.",
    ),
    ErrorClass.CREDITS: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="Top up the account, then run the same command.",
    ),
    ErrorClass.MODEL: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="Check --model (`batchgen models` lists the known ids) and --base-url.",
    ),
    ErrorClass.ENDPOINT_INCAPABLE: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="This endpoint returns no pictures on chat completions; use another --base-url or --provider.",
    ),
    ErrorClass.BAD_REQUEST: Rule(
        action=Action.FAIL,
        status=Status.FAILED,
        remedy="Change the prompt or the parameters as the message says.",
    ),
    ErrorClass.BLOCKED: Rule(
        action=Action.FAIL,
        status=Status.REFUSED,
        remedy="The model or its filter refuses this prompt; rephrase it.",
    ),
    ErrorClass.NO_IMAGE: Rule(
        action=Action.RETRY,
        status=Status.NO_IMAGE,
        most=3,
        remedy="The model answered without a picture; ask for an image in so many words.",
    ),
    ErrorClass.LENGTH: Rule(
        action=Action.FAIL,
        status=Status.NO_IMAGE,
        remedy="Raise max_tokens or drop it: it covers text and picture together.",
    ),
    ErrorClass.CORRUPT: Rule(
        action=Action.RETRY,
        status=Status.CORRUPT,
        most=2,
        remedy="The picture came damaged; run again later with --retry-failed.",
    ),
    ErrorClass.BAD_ANSWER: Rule(
        action=Action.RETRY,
        status=Status.FAILED,
        most=2,
        remedy="The endpoint's answer could not be read; check that the base URL speaks chat completions.",
    ),
    ErrorClass.DOWNLOAD: Rule(
        action=Action.FAIL,
        status=Status.FAILED,
        remedy="The picture was bought, its link failed; fetch it by hand before the link expires.",
    ),
}


def decide(
    kind: ErrorClass, *, attempts: int, same: int, policy: Policy, retry_after: float | None, rng: Random
) -> Decision:
    """
    What to do after an attempt that ended in `kind`.

    :param kind: How it ended.
    :param attempts: The task's attempts that count, this one included.
    :param same: Those of them that ended in `kind`.
    :param policy: The job's patience.
    :param retry_after: Seconds the endpoint asked to wait, if it did.
    :param rng: Where the jitter comes from.
    """
    rule = RULES[kind]
    if rule.action is not Action.RETRY:
        return Decision(action=rule.action)
    if attempts >= policy.attempts or (rule.most is not None and same >= rule.most):
        return Decision(action=rule.then)
    return Decision(action=Action.RETRY, delay=(retry_after or 0.0) + _backoff(attempts, policy, rng))


def _backoff(attempts: int, policy: Policy, rng: Random) -> float:
    """
    Exponential with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    doublings = min(attempts - 1, 32)
    return rng.uniform(0, min(policy.cap, policy.initial * 2**doublings))
