"""
What does a failed attempt do to its task and to the run?

`RULES` is the whole answer, one row per error class; `decide` adds the waiting. A rate limit is the gate's
business and costs the task no attempt. What would fail every row alike stops the run and burns none.
"""

from __future__ import annotations

from collections import deque
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
    PARK = "park"
    """Everybody waits until the quota's reset; the task then goes on as if nothing had happened."""
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
    counts: bool = True
    """Whether such an attempt is one of those that the job allows."""
    suspect: bool = False
    """Whether it speaks against the endpoint or the job rather than against the row."""


class Policy(Value, frozen=True, kw_only=True):
    """How often and how patiently."""

    attempts: int = 5
    """Of one task, the first included."""
    initial: float = 1.0
    """Seconds; the upper end of the first delay."""
    cap: float = 60.0
    """Seconds; no delay of our own is longer."""
    daily_quota: Action = Action.STOP
    """`PARK` or `STOP`, once the day's quota is used up."""


class Decision(Value, frozen=True, kw_only=True):
    """What to do about one failed attempt."""

    action: Action
    delay: float = 0.0
    """Seconds to wait before a `RETRY`."""


RULES: Mapping[ErrorClass, Rule] = {
    ErrorClass.RATE: Rule(
        action=Action.COOL,
        status=Status.PENDING,
        counts=False,
        remedy="Wait for the quota or raise it, then run the same command; --rpm keeps below a known one.",
    ),
    ErrorClass.DAILY_QUOTA: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        counts=False,
        remedy="Run the same command after the quota's reset (Google: midnight Pacific), or raise the quota;"
        " --on-daily-quota wait goes on by itself.",
    ),
    ErrorClass.TRANSIENT: Rule(
        action=Action.RETRY,
        status=Status.FAILED,
        suspect=True,
        remedy="The endpoint was overloaded or broken; run again later with --retry-failed.",
    ),
    ErrorClass.UNREACHABLE: Rule(
        action=Action.RETRY,
        status=Status.PENDING,
        counts=False,
        remedy="These cost nothing; check network, proxy and base URL, then run the same command.",
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
        remedy="Ask in Gemini's own format: --dialect gemini (with a --base-url of your own, the one of that"
        " format). If that is what was asked, the model draws no pictures: use another --model.",
    ),
    ErrorClass.BAD_REQUEST: Rule(
        action=Action.FAIL,
        status=Status.FAILED,
        suspect=True,
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
        suspect=True,
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
        suspect=True,
        remedy="The endpoint's answer could not be read; check that --dialect is what --base-url speaks.",
    ),
    ErrorClass.DOWNLOAD: Rule(
        action=Action.FAIL,
        status=Status.FAILED,
        remedy="The picture was bought, its link failed; fetch it by hand before the link expires.",
    ),
    ErrorClass.REFERENCE: Rule(
        action=Action.FAIL,
        status=Status.FAILED,
        counts=False,
        remedy="Nothing was sent for these; put the pictures back and run the same command.",
    ),
    ErrorClass.PARENT_FAILED: Rule(
        action=Action.FAIL,
        status=Status.FAILED,
        counts=False,
        remedy="Nothing was sent for these; once the row they continue has its picture, they follow.",
    ),
    ErrorClass.UNWRITTEN: Rule(
        action=Action.STOP,
        status=Status.PENDING,
        remedy="Make room, or make the run directory writable, then run the same command.",
    ),
    ErrorClass.LATE: Rule(
        action=Action.FAIL,
        status=Status.FAILED,  # of none: another request has ended the task
        remedy="The row has its picture from another request; without --hedge it is asked for once.",
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
    if kind is ErrorClass.DAILY_QUOTA:
        return Decision(action=policy.daily_quota)
    if rule.action is not Action.RETRY:
        return Decision(action=rule.action)
    if not rule.counts:
        return Decision(action=Action.RETRY, delay=(retry_after or 0.0) + _backoff(same, policy, rng))
    if attempts >= policy.attempts or (rule.most is not None and same >= rule.most):
        return Decision(action=rule.then)
    return Decision(action=Action.RETRY, delay=(retry_after or 0.0) + _backoff(attempts, policy, rng))


class Health:
    """
    Whether it makes sense to go on, by how the latest tasks ended.

    It does not when the first ones all failed in a way that speaks against the endpoint, and when more than a
    given share of the last hundred failed for good, in whatever way.
    """

    FIRST = 10
    WINDOW = 100

    def __init__(self, most: float) -> None:
        """:param most: the share of failures that is still borne, from 0 to 1."""
        self._most = most
        self._latest: deque[bool] = deque(maxlen=self.WINDOW)
        self._suspect = 0

    def ended(self, kind: ErrorClass | None) -> str | None:
        """Note how a task ended (None: with its picture); return what speaks against going on."""
        self._latest.append(kind is not None)
        ended, failed = len(self._latest), sum(self._latest)
        self._suspect += kind is not None and RULES[kind].suspect
        if ended == failed == self._suspect == self.FIRST:
            return f"the first {self.FIRST} tasks all failed"
        if ended == self.WINDOW and failed > self._most * self.WINDOW:
            return f"{failed} of the last {self.WINDOW} tasks failed"
        return None


def _backoff(attempts: int, policy: Policy, rng: Random) -> float:
    """
    Exponential with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    doublings = min(attempts - 1, 32)
    return rng.uniform(0, min(policy.cap, policy.initial * 2**doublings))
