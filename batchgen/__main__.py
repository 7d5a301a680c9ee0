"""
Where does the program start?

`batchgen` and `python -m batchgen` both come here. This is the one place where an exception becomes an exit
status.
"""

from __future__ import annotations

import sys


class WithoutPandas:
    """Hides pandas: pyarrow imports it where it is installed, which takes as long as the rest of a start."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Tell the import system that pandas is nowhere, and of anything else nothing."""
        if name == "pandas":
            raise ModuleNotFoundError("batchgen has no use for pandas", name=name)


def main() -> None:
    """Run the command line and leave with its exit status."""
    sys.meta_path.insert(0, WithoutPandas)
    from batchgen.cli import cli  # noqa: PLC0415  nothing is imported before it is needed

    sys.exit(cli())


if __name__ == "__main__":
    main()
