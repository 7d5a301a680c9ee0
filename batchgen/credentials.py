"""
Where does an API key come from, and who else may read it there?

From a file of the user's own or from the environment. Never from a job file, a URL or the command line, which
are copied, logged and seen by every process. No message here shows what was read.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MISPLACED = frozenset({"api_key", "apikey", "key", "secret", "token", "bearer", "password", "authorization"})
"""Names, in lower case and with underscores, under which people try to give a key."""
ADVICE = "put it into the environment (BATCHGEN_API_KEY) or into a file that only you can read (--key-file)"

_LONGEST = 4096
_KEY = re.compile(r"[!-~]+")


def from_environment(names: Iterable[str], environment: Mapping[str, str]) -> str | None:
    """
    Return the key of the first of these variables that is set and not blank; None when none is.

    :raises InputError: it can be no key.
    """
    found = next((name for name in names if environment.get(name, "").strip()), None)
    return None if found is None else _checked(environment[found], found)


def from_file(name: str) -> str:
    """
    Read the key from a file with nothing else in it: the user's own, and closed to group and others.

    The file itself counts, not the symbolic links on the way to it.

    :raises InputError: it is missing, not to be trusted or holds no key.
    """
    where = f"--key-file: {name}"
    try:
        # Not to wait for whoever might write to a pipe.
        file = os.open(Path(name).expanduser(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except PermissionError:
        raise InputError(f"{where} cannot be read: check who owns it and its folders") from None
    except (OSError, RuntimeError, ValueError):
        # Its name is not shown: people give the key itself, and would see it.
        raise InputError("--key-file: no such file; it names the file that holds the key") from None
    try:
        _check_private(os.fstat(file), name, where)
        content = os.read(file, _LONGEST + 1)
    except OSError as cause:
        raise InputError(f"{where}: {cause.strerror}") from None
    finally:
        os.close(file)
    return _checked(_line(content, where), where)


def _check_private(found: os.stat_result, name: str, where: str) -> None:
    """Of the open file, so that nobody can put another in its place after the look at it."""
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{where} is no regular file; put the key into a file of its own")
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{where} belongs to another user (uid {found.st_uid}); use a file of your own with mode 0600"
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise InputError(f"{where} is open to others (mode {mode:04o}); run: chmod 600 {shlex.quote(name)}")


def _line(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = "\0"
    if not text:
        raise InputError(f"{where} is empty; put the key into it")
    if len(content) > _LONGEST or len(text.splitlines()) > 1 or "\0" in text:
        raise InputError(f"{where} holds more than one line of text; put the key into it and nothing else")
    return text


def _checked(key: str, where: str) -> str:
    key = key.strip()
    if not _KEY.fullmatch(key):
        raise InputError(
            f"{where}: no key: it has a blank, a line break or a character outside ASCII; copy it again"
        )
    return key
