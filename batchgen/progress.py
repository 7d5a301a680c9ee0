"""How far is a run, and why does it end before its tasks do?"""

from __future__ import annotations

import signal
from decimal import Decimal  # noqa: TC003  msgspec reads the annotations at run time

from batchgen.records import ZERO, Limit, Value

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a person or a machine ends a run with."""


class Progress(Value, frozen=True, kw_only=True):
    """How far a run is, for whoever watches it."""

    total: int
    """Tasks of the manifest."""
    skipped: int
    """Tasks this run came by and left as they were."""
    succeeded: int
    failed: int
    in_flight: int
    waiting: int
    """Tasks between two attempts."""
    hedges: int
    """Requests that asked once more beside a late one."""
    spent_usd: Decimal
    """Ever, in this run directory."""
    cooling: float
    """Seconds until the endpoint takes requests again."""
    rate_limit: Limit
    """Requests a minute that it takes, as was found out where none is declared."""
    stopping: str | None
    """Why nothing new is started, while what is in flight ends."""


class Stop(Value, frozen=True, kw_only=True):
    """Why a run ended before its tasks did, and what to do about it."""

    reason: str
    message: str
    remedy: str
    exit_status: int = 3

    @property
    def by_signal(self) -> bool:
        """Whether somebody wanted it to end."""
        return self.exit_status > 128

    @classmethod
    def of_signal(cls, number: int, what: str) -> Stop:
        """What a signal stops, and that the same command goes on with it."""
        name = signal.Signals(number).name
        return cls(
            reason=name,
            message=f"{name}: {what}",
            remedy="run the same command to go on",
            exit_status=128 + (signal.SIGTERM if number == signal.SIGHUP else number),
        )


class Counts:
    """What a run has done so far."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.requests = 0
        self.run_usd = ZERO
        self.hedges = 0
        """Requests that asked once more beside a late one, or are about to."""
        self.hedges_won = 0
        """Those of them that brought what was asked for first."""
        self.hedges_usd = ZERO
        """What the losers count for, whichever of two that was."""
