"""How is a command typed again, with other flags?"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_flags(command: Sequence[str], *flags: str) -> list[str]:
    """Add flags to a command."""
    at = command.index("--") if "--" in command else len(command)
    return [*command[:at], *flags, *command[at:]]


def without_flag(command: Sequence[str], flag: str) -> list[str]:
    """Leave out a flag that takes a value, and that value."""
    before = ["", *command]
    return [
        argument
        for last, argument in zip(before, command, strict=False)
        if flag not in {last, argument} and not argument.startswith(f"{flag}=")
    ]


def shown(command: Sequence[str], note: str) -> str:
    """A command as it can be typed; the note says what it cannot say itself."""
    return f"{shlex.join(command)}  # {note}" if note else shlex.join(command)


def shown_with(told: str, *flags: str) -> str:
    """A command that was `shown`, with more flags and its note."""
    command = shlex.split(told, comments=True)
    return shown(with_flags(command, *flags), told.removeprefix(shlex.join(command)).lstrip(" #"))


def program_of(told: str | None) -> list[str]:
    """How the program was called by a command that was `shown`: what stands before its `run`."""
    words = shlex.split(told or "", comments=True)
    return words[: words.index("run")] if "run" in words[1:] else ["batchgen"]
