"""How many, and how long, in one phrase?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping


def counted(tasks: Mapping[str, int], total: int | None, *, for_words: bool, in_words: int) -> str:
    """
    What came of the rows: `5 of 6 pictures (1 refused)`, or `6 of 6 rows; 4 pictures, 2 answers in words`.

    :param tasks: rows by status.
    :param total: how many there are, where that is known.
    :param for_words: whether words are enough for some of them.
    :param in_words: rows that succeeded with words alone.
    """
    done = tasks.get(Status.SUCCEEDED, 0)
    rest = ", ".join(f"{count:,} {status}" for status, count in tasks.items() if status != Status.SUCCEEDED)
    of = "" if total is None else f" of {total:,}"
    phrase = f"{done:,}{of} {'rows' if for_words else 'pictures'}{f' ({rest})' if rest else ''}"
    if not in_words:
        return phrase
    pictures = done - in_words
    return (
        f"{phrase}; {pictures:,} picture{'' if pictures == 1 else 's'},"
        f" {in_words:,} answer{'' if in_words == 1 else 's'} in words"
    )


def span(seconds: float) -> str:
    """Seconds as people say them, rounded up."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
    )
