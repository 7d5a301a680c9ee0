"""
Is a declared quota used to the full, and never passed?

    python -m bench.quota [--trio]

A server that enforces 900 requests a minute (a token bucket with room for 15) answers after 2 s, give or take
30 %. 300 rows are bought at `--rpm 900`. The time from the first to the last admitted start may be 5 % above
what the quota itself takes (299 starts at 15 a second), at most two answers may be 429, and no row is lost.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from batchgen import job as jobs
from batchgen import runner
from bench.seller import Seller, Terms

TERMS = Terms(rpm=900, burst=15, answer_after=2.0, spread=0.3)
RPM, ROWS, WORKERS = 900, 300, 64
SLACK, MOST_429 = 1.05, 2


def main() -> int:
    """Run it, print the figures, return 1 where a bound is broken."""
    with Seller.opened(TERMS) as seller, tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(ROWS)))
        given = {
            "base_url": seller.url,
            "provider": "core-today",
            "rpm": RPM,
            "concurrency": WORKERS,
            "output": f"{folder}/run",
        }
        around = runner.Surroundings(backend="trio" if "--trio" in sys.argv else "asyncio")
        summary = runner.run(
            jobs.resolve(str(manifest), given), environment={"BATCHGEN_API_KEY": "any"}, surroundings=around
        )
        done = pq.read_table(f"{folder}/run/results.parquet")["status"].to_pylist().count("succeeded")
        account = seller.account()
    ideal = (ROWS - 1) / (RPM / 60)
    print(f"rows bought        {done} of {ROWS} with {summary.requests} requests")
    print(
        f"first to last start {account.seconds / ideal:.4f} x the quota's own {ideal:.2f} s (bound {SLACK})"
    )
    print(f"answers 429        {account.too_many} (bound {MOST_429})")
    return int(done != ROWS or account.seconds > SLACK * ideal or account.too_many > MOST_429)


if __name__ == "__main__":
    sys.exit(main())
