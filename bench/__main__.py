"""
Which figures does docs/performance.md tell, and of which machine?

    python -m bench [--venvs DIR] [--rounds N] [--only NAME]…

Measures everything the page says and writes it anew, in some forty minutes, or what is named alone. Each
section is written as soon as it is measured. Nothing but loopback is used once the peers' environments are
made (`bench.peers`); everything stops by itself.
"""

from __future__ import annotations

import os
import platform
import re
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
_LONGEST = 1800
"""Seconds a benchmark of batchgen alone may take."""
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_INTRODUCTION = """\
# Performance

What batchgen takes beside what a user would otherwise pick: the `openai` SDK behind a semaphore, LiteLLM's
Router (both in [script.py](../bench/peers/script.py)) and bespokelabs-curator
([curated.py](../bench/peers/curated.py)), each in the form that its own pages show, with its own number of
retries (2, 2 and 10) unless said otherwise. All talk to the same endpoint on loopback; none of these figures
is from a live one.

`pip install -e '.[bench]' && python -m bench` measures everything below and writes this page; each section
says how it is measured alone, and what else the machine did then."""
_ALONE = {
    "overhead": (
        "CPU a picture, by its size",
        "As above, and with pictures of 10 MB; each beside the loop that does the same work, with or without "
        "a decode.",
    ),
    "memory": (
        "Memory, by how much is in flight",
        "The peak of the whole process, with answers whose length is told and with such that come in chunks.",
    ),
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


def _machine() -> str:
    kernel = platform.release().partition("-")[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = {
        "machine": f"{os.cpu_count()} cores, {_processor()}, "
        f"{memory / 2**30:.0f} GB, {platform.system()} {kernel}",
        "python": platform.python_version(),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {told} |" for name, told in facts.items())]
    return "\n".join(lines)


def _versions(environments: Environments) -> Iterator[str]:
    """The packages of each environment, folded away."""
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
    section = f"## {title}\n\n{how}\n\n```text\n{ran.stdout.strip()}\n```\n\n`python -m bench.{name}`"
    return section, ran.returncode == 0


def _titles() -> dict[str, str]:
    """The sections in their order, by the name under which each is measured."""
    alone = {f"bench.{name}": title for name, (title, _) in _ALONE.items()}
    return {name: measure.title for name, measure in MEASURES.items()} | alone


def _measured(name: str, measuring: Measures) -> tuple[str, bool]:
    before = os.getloadavg()[0]
    own = name.removeprefix("bench.")
    section, held = (MEASURES[name].markdown(name, measuring), True) if own == name else _alone(own)
    when = f"{datetime.now(UTC):%Y-%m-%d}, load average {before:.1f} before it"
    return f"{section} ({when} and {os.getloadavg()[0]:.1f} at its end)", held


def _known() -> dict[str, str]:
    """The page's sections as they stand, by title."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    starts = [*_SECTION.finditer(text)]
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return {start[1]: text[start.start() : end].strip() for start, end in zip(starts, ends, strict=True)}


def _write(sections: dict[str, str], environments: Environments) -> None:
    absent = [f"Not measured: {kind}, {why}." for kind, why in environments.missing.items()]
    told = [sections[title] for title in _titles().values() if title in sections]
    versions = ["## Versions", *_versions(environments)]
    text = "\n\n".join([_INTRODUCTION, *absent, _machine(), *told, *versions])
    PAGE.write_text(f"{text}\n", encoding="utf-8")


def main() -> int:
    """Measure, write the page; 1 where a bound of batchgen's own is broken."""
    parser = arguments("bench")
    parser.add_argument("--only", action="append", choices=_titles(), help="one section; repeatable")
    told = parser.parse_args()
    environments = prepared(told.venvs)
    measuring = Measures(environments, told.rounds)
    sections, kept = _known(), True
    for name in told.only or _titles():
        sections[_titles()[name]], held = _measured(name, measuring)
        kept &= held
        _write(sections, environments)
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
