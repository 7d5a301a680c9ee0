"""Is there room for one more request this minute?"""

from __future__ import annotations

ROUNDING = 1e-9
"""A caller pacing by the same clock exactly at the limit must not fail on the last bit of a float."""


class Bucket:
    """A token bucket: `burst` at once, then `per_minute` evenly."""

    def __init__(self, per_minute: float, burst: int) -> None:
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
