"""
What does the exit status say?

Only this package prints or exits; here every exception becomes a message and a status.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from batchgen.cli.commands import Call, commands
from batchgen.cli.terminal import complaint
from batchgen.credentials import ADVICE, MISPLACED
from batchgen.errors import BatchgenError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""How the names of variables end whose values are nobody's business."""


def cli(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; the only place where an exception becomes one."""
    # What no message shows, whatever it quotes; a run adds the key it uses.
    keys = {value.strip() for name, value in os.environ.items() if name.upper().endswith(_SECRETS)}
    _open_streams()
    try:
        return _carried_out(Call(sys.argv[1:] if arguments is None else [*arguments], keys))
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                _give_up(stream)


def _carried_out(call: Call) -> int:
    keys = call.keys
    try:
        result = commands.main(args=call.typed, prog_name="batchgen", standalone_mode=False, obj=call)
    except click.ClickException as cause:
        _complain(_usage(cause), keys)
        return cause.exit_code
    except click.Abort:
        return 130
    except BatchgenError as cause:
        _complain(f"batchgen: {cause}", keys)
        return cause.exit_status
    except Exception:  # noqa: BLE001  the boundary: a defect is told as one
        _complain(traceback.format_exc().rstrip(), keys)
        _complain("batchgen: this is a defect; what was bought is in the ledger, please report it", keys)
        return 70
    return int(result or 0)


def _usage(cause: click.ClickException) -> str:
    if isinstance(cause, click.NoSuchOption):
        name = cause.option_name.lstrip("-").lower().replace("-", "_")
        if name in MISPLACED:
            return f"batchgen: {cause.option_name}: the command line is seen by every process; {ADVICE}"
    shown = io.StringIO()
    cause.show(shown)
    return shown.getvalue().rstrip()


def _open_streams() -> None:
    """
    Put something where a standard stream was closed.

    Else the next file that is opened takes its place: the ledger, with messages written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has left out the streams that were closed when it started.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _complain(text: str, keys: set[str]) -> None:
    """Put a message on standard error, if anyone is left to read it."""
    with suppress(OSError):
        click.echo(complaint(text, keys), err=True)


def _give_up(stream: TextIO) -> None:
    """Nobody can be told any more; the interpreter would try once more when it leaves, and say so."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


__all__ = ["cli", "commands"]
