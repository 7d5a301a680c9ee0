"""What goes back for a request, when, and how does the connection end?"""

from __future__ import annotations

from collections.abc import Callable, Mapping  # noqa: TC003  msgspec reads the annotations at run time
from enum import StrEnum

import msgspec

from batchgen.records import Value
from batchgen.simulator.events import Stream  # noqa: TC001  as above


class Ending(StrEnum):
    """How the connection ends."""

    WHOLE = "whole"
    RESET_AFTER = "reset_after"
    """Instead of the status line, after the delay; of a stream, instead of all behind its first piece."""
    TRUNCATED = "truncated"
    """After half of the body."""
    HANG = "hang"
    """The status line never comes; of a stream, nothing behind its first piece."""


class Reply(Value, frozen=True, kw_only=True):
    """What goes back, and when."""

    status: int
    delay: float = 0.0
    """Seconds before the status line; of a stream, before its body, the status line comes at once."""
    headers: Mapping[str, str] = msgspec.field(default_factory=lambda: {"content-type": "application/json"})
    body: bytes | Callable[[], bytes] = b""
    """A function is worth a thread: it paints."""
    stream: Stream | None = None
    """How the body begins where it comes piece by piece, without its length being told."""
    ending: Ending = Ending.WHOLE
