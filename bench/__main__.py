"""
Which figures does docs/performance.md tell, and of which machine?

    python -m bench [--venvs DIR] [--rounds N]

Measures everything the page says and writes it anew, in some twenty minutes. Nothing but loopback is used
once the peers' environments are made (`bench.peers`); everything stops by itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.__main__ import arguments, prepared
from bench.peers.contestants import REQUIREMENTS
from bench.peers.measures import Measures
from bench.peers.tables import MEASURES
from bench.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.peers.contestants import Environments

PAGE = ROOT / "docs/performance.md"
_LONGEST = 900
"""Seconds a benchmark of batchgen alone may take."""
_INTRODUCTION = """\
# Performance

What batchgen takes beside what a user would otherwise pick: the `openai` SDK behind a semaphore, LiteLLM's
Router (both in [script.py](../bench/peers/script.py)) and bespokelabs-curator
([curated.py](../bench/peers/curated.py)), each in the form that its own pages show, with its own number of
retries (2, 2 and 10) unless said otherwise. All talk to the same endpoint on loopback; none of these figures
is from a live one.

`pip install -e '.[bench]' && python -m bench` measures everything below and writes this page."""
_ALONE = {
    "rows": (
        "Many rows",
        "Peak memory and time over 1,000 and over 1,000,000 rows; times are multiples of what pyarrow needs "
        "to read id and prompt from the same file.",
    ),
    "quota": (
        "A quota, declared and not",
        "What batchgen alone makes of that endpoint, with the bounds it is held to.",
    ),
    "ledger": (
        "The ledger alone",
        "How many tasks a second go through started, submitted and settled, each step durable before the "
        "next, beside what the disk lets SQLite do at most.",
    ),
    "rehearsal": (
        "A night before it is bought",
        "How much quicker `batchgen plan --rehearse` is than the night it foretells.",
    ),
    "references": (
        "Pictures that many rows bring along",
        "How often a file is read that many rows name, and what a run with such rows holds in memory.",
    ),
}
"""Benchmarks of batchgen alone: what they say is told as it stands."""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _machine(load: float) -> str:
    kernel = platform.release().partition("-")[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = {
        "machine": f"{os.cpu_count()} cores, {_processor()}, "
        f"{memory / 2**30:.0f} GB, {platform.system()} {kernel}",
        "python": platform.python_version(),
        "measured": f"{datetime.now(UTC):%Y-%m-%d}, load average {load:.1f} before it and "
        f"{os.getloadavg()[2]:.1f} over its last quarter of an hour (1 to 2 where nothing else runs)",
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {told} |" for name, told in facts.items())]
    return "\n".join(lines)


def _versions(environments: Environments) -> Iterator[str]:
    """The packages of each environment, folded away."""
    yield "## Versions"
    for kind in ("batchgen", *REQUIREMENTS):
        if kind not in environments.missing:
            told = ", ".join(environments.versions(kind))
            yield f"<details><summary>{kind}</summary>\n\n{told}\n\n</details>"


def _alone(name: str) -> tuple[str, bool]:
    """What a benchmark of batchgen alone says, and whether its bounds hold."""
    print(f"{name} …", file=sys.stderr, flush=True)
    ran = subprocess.run(
        [sys.executable, "-m", f"bench.{name}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    title, how = _ALONE[name]
    section = f"## {title}\n\n{how} `python -m bench.{name}`:\n\n```text\n{ran.stdout.strip()}\n```"
    return section, ran.returncode == 0


def main() -> int:
    """Measure, write the page; 1 where a bound of batchgen's own is broken."""
    told = arguments("bench").parse_args()
    load = os.getloadavg()[0]
    environments = prepared(told.venvs)
    measuring = Measures(environments, told.rounds)
    tables = [measure.markdown(name, measuring) for name, measure in MEASURES.items()]
    alone = [_alone(name) for name in _ALONE]
    absent = [f"Not measured: {kind}, {why}." for kind, why in environments.missing.items()]
    sections = [
        _INTRODUCTION,
        *absent,
        _machine(load),
        *tables,
        *(section for section, _ in alone),
        *_versions(environments),
    ]
    PAGE.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"written: {PAGE}", file=sys.stderr)
    return int(not all(held for _, held in alone))


if __name__ == "__main__":
    sys.exit(main())
