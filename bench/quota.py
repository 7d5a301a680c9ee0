"""
Is a quota used to the full, and never passed, whether it is declared or has to be found?

    python -m bench.quota [--trio]

A server that enforces 900 requests a minute (a token bucket with room for 15) answers after 2 s, give or take
30 %. What it does not admit is a 429 that names no wait. 600 rows are bought at `--rpm 900`, then 1,200 by a
run that is told nothing. Used is what was admitted from the first to the last start, of what the quota admits
in that time; no row may be lost.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from batchgen import job as jobs
from batchgen import runner
from bench.seller import Account, Seller, Terms

TERMS = Terms(rpm=900, burst=15, answer_after=2.0, spread=0.3)
RPM, ROWS, WORKERS = 900, 600, 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run, and what is asked of it."""

    title: str
    rows: int
    least: float
    """The share of the quota that is used at least."""
    most: float
    """Answers 429 at most."""
    rpm: int | None = None
    """What the run is told."""


CASES = (
    Case(title=f"told {RPM} a minute", rows=ROWS, least=0.98, most=1, rpm=RPM),
    Case(title="told nothing", rows=2 * ROWS, least=0.9, most=0.02 * 2 * ROWS),
)


def used(account: Account) -> float:
    """The share of the quota that was used between the first and the last admitted start."""
    return (account.admitted - 1) / (RPM / 60) / account.seconds


def _bought(case: Case, backend: str) -> tuple[int, Account]:
    with Seller.opened(TERMS) as seller, tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(case.rows)))
        given = {
            "base_url": seller.url,
            "provider": "core-today",
            "rpm": case.rpm,
            "concurrency": WORKERS,
            "output": f"{folder}/run",
        }
        runner.run(
            jobs.resolve(str(manifest), {name: value for name, value in given.items() if value is not None}),
            environment={"BATCHGEN_API_KEY": "any"},
            surroundings=runner.Surroundings(backend=backend),
        )
        done = pq.read_table(f"{folder}/run/results.parquet")["status"].to_pylist().count("succeeded")
        return done, seller.account()


def main() -> int:
    """Run it, print the figures, return 1 where a bound is broken."""
    broken = False
    for case in CASES:
        done, account = _bought(case, "trio" if "--trio" in sys.argv else "asyncio")
        share = used(account)
        print(
            f"{case.title:<18} {done:,} of {case.rows:,} rows, {share:6.1%} of the quota used"
            f" (bound {case.least:.0%}), {account.too_many} answers 429 (bound {case.most:g})"
        )
        broken = broken or done != case.rows or share < case.least or account.too_many > case.most
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
