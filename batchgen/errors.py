"""
What can go wrong before, around and after the requests, and which exit status says so.

    BatchgenError            1
    ├── InputError           2   the job, the manifest or a flag is wrong; nothing was sent
    │   ├── ManifestError    2   … with the list of what is wrong where
    │   └── DamagedError     2   what an earlier run left cannot be read any more; nothing was sent
    ├── LockedError          2   another run owns the run directory
    └── StorageError         3   the disk, the ledger or the table could not be written
    CorruptImageError            a value's messenger from imaging to the worker, never seen at the terminal

A failed *attempt* is not an exception but a value (`records.Failure`): it has a place in the ledger.
Every message is for the person at the terminal: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class BatchgenError(Exception):
    """Anything batchgen tells its user instead of a traceback."""

    exit_status: ClassVar[int] = 1


class InputError(BatchgenError):
    """The job, the manifest or a flag cannot be used as it is; nothing was sent."""

    exit_status = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a manifest."""

    message: str
    """What is wrong and what to do about it."""
    row: int | None = None
    """Data row, counted from 1 (the header is not a row); None when the whole file is meant."""
    column: str | None = None
    """The column's name as the file has it."""

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column!r}"] if self.column is not None else []
        return f"{', '.join(where)}: {self.message}" if where else self.message


class ManifestError(InputError):
    """A manifest that cannot be run, with its first problems and their whole number."""

    def __init__(self, source: str, problems: Iterable[Problem], count: int) -> None:
        self.source = source
        self.problems = tuple(problems)
        self.count = count
        lines = [f"{source}: {count} problem{'s' if count != 1 else ''}; nothing was sent"]
        lines += [f"  {problem}" for problem in self.problems]
        if count > len(self.problems):
            lines.append(f"  … and {count - len(self.problems)} more")
        super().__init__("\n".join(lines))


class DamagedError(InputError):
    """What an earlier run left is damaged or gone: to begin anew would pay for it again."""


class LockedError(BatchgenError):
    """Another run owns the run directory."""

    exit_status = 2


class StorageError(BatchgenError):
    """The disk, the ledger or the table could not be written or read."""

    exit_status = 3


class CorruptImageError(Exception):
    """Bytes that are no whole picture; the message says why."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the most similar known word, ready to be appended to a message, or ''."""
    folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[matches[0]]!r}?" if matches else ""
