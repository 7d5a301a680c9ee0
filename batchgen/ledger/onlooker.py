"""What does whoever looks on want to know of a run at this moment?"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from decimal import Decimal  # noqa: TC003
from typing import NamedTuple

from batchgen.ledger.reader import Failed, Reader, Run, Totals, told
from batchgen.ledger.schema import usd
from batchgen.records import ErrorClass, Limit, Value

LATEST = 1024
"""Attempts that are looked at one by one, at most, beside those in flight: so many tell how fast it goes."""


class Latest(NamedTuple):
    """One of the latest attempts, times in UTC microseconds."""

    started_at: int
    settled_at: int | None
    good: bool


class Moment(Value, frozen=True, kw_only=True):
    """A run directory as the ledger had it between two commits."""

    totals: Totals
    failures: tuple[Failed, ...]
    run: Run | None
    """The newest one, ended or not."""
    answered: Mapping[str, int]
    """Settled attempts of that run by error class; '' where they were good."""
    run_usd: Decimal
    """What they cost."""
    late_usd: Decimal
    """The part of it for answers that came after another request's for the same task."""
    open: int
    """Attempts that are not settled: in flight, or left by a run that died."""
    reserved_usd: Decimal
    """What those may cost at most."""
    latest: tuple[Latest, ...]
    """Of that run, the newest first; `LATEST` of them at most, and as many as are open."""
    limit: Limit
    """Requests a minute that the endpoint takes, as that run found out."""


class Onlooker(Reader):
    """A reader that sees all of it at one moment, in a time that does not depend on the rows."""

    @told
    def moment(self) -> Moment:
        """Everything as it is now."""
        self._connection.execute("BEGIN")
        try:
            return self._moment()
        finally:
            self._connection.execute("ROLLBACK")

    def _moment(self) -> Moment:
        run = self.last_run()
        number = 0 if run is None else run.id
        ask = self._connection.execute
        answered = ask(
            "SELECT class, attempts, cost FROM attempt_sums WHERE run = ? AND attempts > 0", (number,)
        ).fetchall()
        unsettled, reserved = ask(
            "SELECT count(*), sum(reserved) FROM attempts WHERE settled_at IS NULL"
        ).fetchone()
        latest = ask(
            "SELECT started_at, settled_at, settled_at IS NOT NULL AND error_class IS NULL FROM"
            " (SELECT * FROM attempts ORDER BY id DESC LIMIT ?) WHERE run = ?",
            (LATEST + unsettled, number),
        ).fetchall()
        limit = ask("SELECT felt, stated FROM limits WHERE run = ?", (number,)).fetchone()
        return Moment(
            totals=self.totals(),
            failures=tuple(self.failures()),
            run=run,
            answered={kind: count for kind, count, _ in answered},
            run_usd=usd(sum(cost for _, _, cost in answered)),
            late_usd=usd(sum(cost for kind, _, cost in answered if kind == ErrorClass.LATE)),
            open=unsettled,
            reserved_usd=usd(reserved),
            latest=tuple(Latest(started, settled, bool(good)) for started, settled, good in latest),
            limit=Limit() if limit is None else Limit(felt=limit[0], stated=limit[1]),
        )
