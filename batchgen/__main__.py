"""
Where does the program start?

`batchgen` and `python -m batchgen` both come here. This is the one place where an exception becomes an exit
status.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit status."""
    from batchgen.cli import cli  # noqa: PLC0415  nothing is imported before it is needed

    sys.exit(cli())


if __name__ == "__main__":
    main()
