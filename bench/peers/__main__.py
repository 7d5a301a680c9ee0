"""
How does batchgen compare with what a user would otherwise pick?

    python -m bench.peers [--venvs DIR] [--only NAME]… [--rounds N]

Prints a table for each measure. The peers' environments are made in DIR once (1.2 GB, from PyPI) and used
again; without --venvs they lie in the user's cache.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.peers.contestants import Environments
from bench.peers.measures import MEASURES, Measures


def main() -> None:
    """Measure, print the tables."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--venvs", type=Path, default=cache / "batchgen-peers")
    parser.add_argument("--only", action="append", choices=MEASURES)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    environments = Environments(told.venvs.absolute())
    environments.make()
    for table in Measures(environments, told.rounds).tables(told.only or list(MEASURES)):
        print(table.markdown() + "\n", flush=True)


if __name__ == "__main__":
    main()
