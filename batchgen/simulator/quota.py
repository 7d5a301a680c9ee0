"""Is there room for one more request this minute, and what is said of it?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDING = 1e-9
"""A caller pacing by the same clock exactly at the limit must not fail on the last bit of a float."""


class Bucket:
    """A token bucket: `burst` at once, then `per_minute` evenly."""

    def __init__(self, per_minute: float, burst: int) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._burst = burst
        self._level = float(burst)
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until one more fits; 0.0 when it fits now."""
        if self._at is not None:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        missing = 1 - self._level
        return 0.0 if missing <= ROUNDING else missing / self._rate

    def take(self) -> None:
        """Use one; only after `wait` said 0.0."""
        self._level -= 1

    @property
    def left(self) -> int:
        """How many fit at once, as of the last `wait` or `take`."""
        return max(0, math.floor(self._level + ROUNDING))

    @property
    def full_in(self) -> float:
        """Seconds until as many fit as ever do."""
        return (self._burst - self._level) / self._rate


def openai(buckets: Mapping[str, Bucket]) -> dict[str, str]:
    """
    Headers as OpenAI and LiteLLM's proxy send them: https://platform.openai.com/docs/guides/rate-limits

    :param buckets: by what is counted in them: `requests`, `images`.
    """
    headers: dict[str, str] = {}
    for name, bucket in buckets.items():
        minutes, seconds = divmod(bucket.full_in, 60)
        reset = f"{minutes:.0f}m{seconds:.0f}s" if minutes else f"{seconds:.3f}s"
        said = {"limit": f"{bucket.per_minute:g}", "remaining": str(bucket.left), "reset": reset}
        headers |= {f"x-ratelimit-{aspect}-{name}": value for aspect, value in said.items()}
    return headers


def ietf(buckets: Mapping[str, Bucket]) -> dict[str, str]:
    """
    Headers as the IETF's draft has them; the parameter is that of `openai`.

    https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-10.txt
    """
    policies = [f'"{name}";q={bucket.per_minute:g};w=60' for name, bucket in buckets.items()]
    states = [f'"{name}";r={bucket.left};t={math.ceil(bucket.full_in)}' for name, bucket in buckets.items()]
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(states)} if buckets else {}


STYLES: Mapping[str, Callable[[Mapping[str, Bucket]], dict[str, str]]] = {
    "none": lambda _: {},
    "openai": openai,
    "ietf": ietf,
}
"""The ways in which gateways say how much is left."""
