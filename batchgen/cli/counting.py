"""How many, which of them are odd, and how long, in one phrase?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.records import Limit


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


def looks_told(blank: int, near_duplicates: int) -> list[str]:
    """A line about pictures that may not be what was wanted, where there are any."""
    duplicates = f"near-duplicate{'' if near_duplicates == 1 else 's'}"
    found = [(blank, "blank", "`blank`"), (near_duplicates, duplicates, "`near_duplicate_of`")]
    odd = [f"{count:,} {what}" for count, what, _ in found if count]
    columns = [column for count, _, column in found if count]
    return [f"  looks     {', '.join(odd)}: see {', '.join(columns)} in the table"] if odd else []


def limit_told(limit: Limit) -> list[str]:
    """A line about the requests a minute that an endpoint takes, where that was found out."""
    if limit.per_minute is None:
        return []
    if limit.per_minute == limit.felt:
        return [f"  limit     about {per_minute(limit.felt)}, as its answers 429 tell"]
    return [f"  limit     {per_minute(limit.per_minute)}, as the endpoint says"]


def per_minute(rate: float) -> str:
    """A rate: `870 requests a minute`."""
    return f"{rate:,.0f} requests a minute" if rate >= 10 else f"{rate:.1f} requests a minute"


def span(seconds: float) -> str:
    """A length of time: `2 h 5 min`, `12 s`."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
    )
