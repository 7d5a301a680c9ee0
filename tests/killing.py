"""
A run that is killed again and again: `python -m tests.killing KILLS SHORTEST LONGEST ARGUMENTS…`.

Starting Python and importing what a run needs costs more than the run that is to be killed. So this process
imports it once and forks, while it has no thread and no event loop, one child a run; each carries out
`batchgen ARGUMENTS…` and is killed after so many seconds, by chance between the two. Prints a line for each:
the signal or the exit status it ended with.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time

from batchgen.cli import cli

IMPORTED_BY_A_RUN = (
    "anyio._backends._asyncio",
    "batchgen.cli.running",
    "batchgen.results",
    "PIL.JpegImagePlugin",
    "pyarrow.csv",
)


def main() -> None:
    kills, shortest, longest, *arguments = sys.argv[1:]
    rng = random.Random(1)
    for name in IMPORTED_BY_A_RUN:
        importlib.import_module(name)
    for _ in range(int(kills)):
        child = os.fork()
        if child == 0:
            os._exit(cli(arguments))
        time.sleep(rng.uniform(float(shortest), float(longest)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
