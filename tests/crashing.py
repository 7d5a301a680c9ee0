"""
What is left when a process dies at the n-th call of store or ledger?

    python -m tests.crashing FOLDER BACKEND FIRST LAST

One task is bought, over and over, each time by a process of its own that ends (`os._exit`, nothing is
cleaned up) right before or right after one call more than the last one; another process then runs the same
command to its end. Each line on standard output is what came of one of them, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from contextlib import closing
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from batchgen.job import LEDGER
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_MODULES = {f"batchgen.{name}" for name in ("store", "ledger.writer", "ledger.schema", "ledger.ballast")}
_KERNEL = {"mkdir", "open", "write", "fsync", "replace", "unlink", "truncate"}
_DATABASE = {"connect", "execute", "executemany", "close"}
_CLASSES = ("Store.", "Ledger.", "Ballast.")
_INNER = re.compile(r"\._|<locals>")


def _name(frame: FrameType, event: str, called: Any) -> str | None:
    """
    The call a profile event is about, if it is one of store or ledger, or one by which they leave a trace.

    What those return to is where the next one begins, with nothing in between; but for the methods, between
    which the request is sent.
    """
    if frame.f_globals.get("__name__") not in _MODULES:
        return None
    if event in {"call", "return"}:
        name = frame.f_code.co_qualname
        return f"{event} {name}" if name.startswith(_CLASSES) and not _INNER.search(name) else None
    kernel = called.__module__ == "posix" and called.__name__ in _KERNEL
    database = called is sqlite3.connect or (
        called.__name__ in _DATABASE and isinstance(called.__self__, sqlite3.Connection)
    )
    return called.__name__ if event == "c_call" and (kernel or database) else None


def _watch(reached: Callable[[str], None]) -> None:
    def watch(frame: FrameType, event: str, called: Any) -> None:
        name = _name(frame, event, called)
        if name is not None:
            reached(name)

    sys.setprofile(watch)


def _apart(work: Callable[[Callable[[Any], NoReturn]], None]) -> Any:
    """Work in a process of its own, which dies as soon as it says something; what it said."""
    reader, writer = os.pipe()

    def die(said: Any) -> NoReturn:
        os.write(writer, json.dumps(said).encode())
        os._exit(0)

    if os.fork() == 0:
        work(die)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.wait()
    return json.loads(said)


def calls(folder: Path, backend: str) -> list[str]:
    """Every call there is to die at."""

    def work(die: Callable[[Any], NoReturn]) -> None:
        found: list[str] = []
        nights = Nights(folder, backend=backend)
        nights.rows(1)
        _watch(found.append)
        nights.run()
        sys.setprofile(None)
        die(found)

    return _apart(work)  # type: ignore[no-any-return]


def died(folder: Path, backend: str, point: int) -> int:
    """Buy one row in a process that dies at this call, counted from 0; the requests it sent."""

    def work(die: Callable[[Any], NoReturn]) -> None:
        nights = Nights(folder, backend=backend)
        nights.rows(1)
        left = count(point, -1)
        _watch(lambda _: None if next(left) else die(nights.endpoint.account.seen))
        nights.run()

    return _apart(work)  # type: ignore[no-any-return]


def resumed(folder: Path, backend: str) -> dict[str, Any]:
    """Run the same command, and say what is there then."""
    nights = Nights(folder, backend=backend)
    summary = nights.run()
    (row,) = nights.table()
    files = [path for path in nights.directory.rglob("*") if path.is_file()]
    with closing(sqlite3.connect(nights.directory / LEDGER)) as ledger:
        attempts = ledger.execute("SELECT submitted_at, settled_at, error_class FROM attempts").fetchall()
    return {
        "exit_status": summary.exit_status,
        "seen_again": nights.endpoint.account.seen,
        "status": row["status"],
        "recorded": row["images"][0]["sha256"],
        "picture": sha256((nights.directory / row["file_name"]).read_bytes()).hexdigest(),
        "files": sorted(str(path.relative_to(nights.directory)) for path in files),
        "submitted": [kind for submitted, _, kind in attempts if submitted is not None],
        "unsettled": sum(settled is None for _, settled, _ in attempts),
    }


def main(folder: Path, backend: str, first: str, last: str) -> None:
    """Die at each call from `first` to `last`, one after the other."""
    (folder / "calls").mkdir()
    names = calls(folder / "calls", backend)
    for point in range(names.index(first), names.index(last) + 1):
        place = folder / str(point)
        place.mkdir()
        seen = died(place, backend, point)
        print(json.dumps({"call": names[point], "seen": seen, **resumed(place, backend)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
