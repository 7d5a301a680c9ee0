"""
How much quicker is a night rehearsed than bought?

    python -m bench.rehearsal [ROWS]

`batchgen plan --rehearse` over 100,000 rows (or so many), 64 in flight, 900 requests a minute, one answer in
fifty an overload; its time is that of the whole process, reading and planning included. Bound: a hundredth of
the night.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUND = 100
_CONDITIONS = ("--provider", "core-today", "-c", "64", "--quota", "900", "--fault", "overloaded=0.02")


def main() -> int:
    """Run it, print the figures, return 1 where the bound is broken."""
    count = next((int(argument) for argument in sys.argv[1:] if argument.isdigit()), 100_000)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{row},picture {row}\n" for row in range(count)))
        command = [sys.executable, "-m", "batchgen", "plan", str(manifest), "-o", f"{folder}/run"]
        began = time.monotonic()
        ran = subprocess.run(
            [*command, *_CONDITIONS, "--rehearse", "--json"], check=False, stdout=subprocess.PIPE, text=True
        )
        took = time.monotonic() - began
    if ran.returncode > 1:  # 1 is a plan for which this machine's disk is too small
        return ran.returncode
    night = json.loads(ran.stdout)["rehearsal"]
    hours = night["seconds"]["p50"] / 3600
    ratio = night["seconds"]["p50"] / took
    print(f"{count:,} rows, a night of {hours:.1f} h: its rehearsal is {ratio:.0f} x quicker (bound {BOUND})")
    return int(ratio < BOUND)


if __name__ == "__main__":
    sys.exit(main())
