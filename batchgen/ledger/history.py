"""
How did the runs of a ledger go, in time?

A million attempts are added up where they lie; what comes out is a few hundred lines, whatever their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.ledger.reader import Reader, told
from batchgen.ledger.schema import usd
from batchgen.ledger.sums import UNKNOWN
from batchgen.records import Value

if TYPE_CHECKING:
    from decimal import Decimal

# When an attempt was over. What a crash left open is settled by the next run, maybe days later, and has no
# latency; it counts where it began.
_ENDED = "(started_at + CAST(ifnull(latency, 0) * 1000000 AS INTEGER))"


class Stretch(Value, frozen=True, kw_only=True):
    """The time that one run was at work: from its first request to the end of its last."""

    run: int
    began: int
    ended: int


class Slice(Value, frozen=True, kw_only=True):
    """Attempts of one run that were over in the same slice of time, and ended in the same way."""

    run: int
    at: int
    """Where the slice begins."""
    error_class: str | None
    """None for those that brought what was asked for."""
    count: int
    cost_usd: Decimal
    uncertain_usd: Decimal
    """What those of unknown cost may have cost."""


class Latencies(Value, frozen=True, kw_only=True):
    """Good attempts of one run in one slice of time that took about as long."""

    run: int
    at: int
    seconds: float
    """To two digits."""
    count: int


class History(Reader):
    """The attempts of a ledger, added up."""

    @told
    def began(self) -> int:
        """When the first run of this ledger began."""
        (began,) = self._connection.execute("SELECT ifnull(min(started_at), 0) FROM runs").fetchone()
        return int(began)

    @told
    def stretches(self) -> list[Stretch]:
        """The runs that sent something, in their order."""
        rows = self._connection.execute(
            f"SELECT run, min(started_at), max({_ENDED}) FROM attempts GROUP BY run ORDER BY run"  # noqa: S608
        )
        return [Stretch(run=run, began=began, ended=ended) for run, began, ended in rows]

    @told
    def slices(self, width: int) -> list[Slice]:
        """
        All settled attempts.

        :param width: of a slice, in microseconds.
        """
        rows = self._connection.execute(
            f"SELECT run, {_ENDED} / :width * :width AS at, error_class, count(*),"  # noqa: S608
            f" sum(cost), sum(CASE WHEN {UNKNOWN.format('')} THEN reserved END)"
            " FROM attempts WHERE settled_at IS NOT NULL GROUP BY run, at, error_class",
            {"width": width},
        )
        return [
            Slice(
                run=run,
                at=at,
                error_class=error_class,
                count=count,
                cost_usd=usd(cost),
                uncertain_usd=usd(uncertain),
            )
            for run, at, error_class, count, cost, uncertain in rows
        ]

    @told
    def latencies(self, width: int) -> list[Latencies]:
        """
        How long good attempts took, to two digits: a hundred values a slice at most, in practice.

        :param width: of a slice, in microseconds.
        """
        rows = self._connection.execute(
            # Rounding by text: not every SQLite has logarithms.
            f"SELECT run, {_ENDED} / :width * :width AS at, printf('%.1e', latency) AS about, count(*)"  # noqa: S608
            " FROM attempts WHERE settled_at IS NOT NULL AND error_class IS NULL AND latency IS NOT NULL"
            " GROUP BY run, at, about",
            {"width": width},
        )
        return [
            Latencies(run=run, at=at, seconds=float(about), count=count) for run, at, about, count in rows
        ]
