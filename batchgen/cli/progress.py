"""How far is a command that goes through a run directory?"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn

from tqdm import tqdm


class Bar:
    """A progress bar for a terminal."""

    def __init__(self, unit: str, *, shown: bool) -> None:
        self._unit = unit
        self._shown = shown
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Draw it anew, if it is time."""
        # A terminal that has gone away must not end a repair or an export half-way.
        with suppress(OSError, ValueError):
            self._bar = self._bar or tqdm(
                total=total, unit=self._unit, disable=not self._shown, dynamic_ncols=True, file=sys.stderr
            )
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the line to others."""
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar.close()
