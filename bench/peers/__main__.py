"""
How does batchgen compare with what a user would otherwise pick?

    python -m bench.peers [--venvs DIR] [--rounds N] [--only NAME]…

Prints a table for each measure. The peers' environments are made in DIR once (1.2 GB, from PyPI) and used
again; without --venvs they lie in the user's cache.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from bench.peers.contestants import Environments
from bench.peers.measures import Measures
from bench.peers.tables import MEASURES


def arguments(program: str) -> argparse.ArgumentParser:
    """What can be told to any command that measures the peers."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument(
        "--venvs", type=Path, default=cache / "batchgen-peers", help="the peers' environments"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of what wavers")
    return parser


def prepared(folder: Path) -> Environments:
    """The peers' environments; from now on a SIGTERM ends like Ctrl-C, with nothing left at work."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environments = Environments(folder.absolute())
    environments.make()
    return environments


def main() -> None:
    """Measure, print the tables."""
    parser = arguments("bench.peers")
    parser.add_argument("--only", action="append", choices=MEASURES, help="one measure; repeatable")
    told = parser.parse_args()
    measuring = Measures(prepared(told.venvs), told.rounds)
    for name in told.only or MEASURES:
        print(MEASURES[name].markdown(name, measuring) + "\n", flush=True)


if __name__ == "__main__":
    main()
