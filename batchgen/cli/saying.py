"""How does a result reach standard output?"""

from __future__ import annotations

import errno
import sys
from decimal import Decimal

import click

from batchgen.cli.terminal import json_text, printable
from batchgen.errors import StorageError


def showable(text: str) -> str:
    """The text as far as the encoding of standard output has its characters; the others are spelt out."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """
    Put a result on standard output; whoever has stopped reading does not change how a run ended.

    :raises StorageError: it is a file that cannot be written.
    """
    try:
        click.echo(showable(printable(text)))
    except OSError as cause:
        if cause.errno not in {errno.EPIPE, errno.EIO}:
            raise StorageError(
                f"standard output: {cause.strerror}; `batchgen status` tells how far a run is"
            ) from cause


def say_json(value: object) -> None:
    """Put one JSON object on standard output; money as strings."""
    import msgspec  # noqa: PLC0415

    encoded = msgspec.json.encode(_plain(msgspec.to_builtins(value, builtin_types=(Decimal,))))
    say(json_text(encoded.decode()))


def _plain(value: object) -> object:
    """Write decimals in full: nobody wants to read 0E-9."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"{value:f}" if isinstance(value, Decimal) else value
