"""
What is left when an export dies at one of its changes to the disk?

    python -m tests.killed_exports RUN EARLIER FOLDER DEATHS

Exports RUN in each format again and again, each time into a folder that has the export of the run EARLIER (as
webdataset: into an empty one), and in a process that kills itself right before a change; the DEATHS are
spread over all changes. Then the same export is carried out to its end. Prints for each format, as JSON, what
readers see before, in the end, and of each death in between and in the end.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.export import Kind, export
from tests.exported import tree

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate"}


def _changing(reached: Callable[[], None]) -> None:
    """Tell before every change to the disk."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        flags = arguments[2] if event == "open" else None
        written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if event in _CHANGES or written:
            reached()

    sys.addaudithook(watch)


def _apart(run: Path, out: Path, kind: Kind, *, step: int = 0) -> int:
    """Export in a process of its own that dies at a change; how many those were, if it did not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        changes = 0

        def reached() -> None:
            nonlocal changes
            changes += 1
            if changes == step:
                os.kill(os.getpid(), signal.SIGKILL)

        _changing(reached)
        export(run, out, kind, shard_bytes=2_500)
        os.write(writer, str(changes).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-signal.SIGKILL if step else 0)
    return int(said or 0)


def _seen(out: Path) -> dict[str, str]:
    """What a reader sees of a folder: by name, the hash of every file that is not hidden."""
    files = tree(out) if out.is_dir() else {}
    return {
        name: sha256(content).hexdigest()
        for name, content in files.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def _deaths(run: Path, earlier: Path, folder: Path, kind: Kind, count: int) -> dict[str, object]:
    before, out = folder / f"{kind}-before", folder / kind
    if kind is Kind.WEBDATASET:
        before.mkdir()
    else:
        _apart(earlier, before, kind)
    shutil.copytree(before, out)
    changes = _apart(run, out, kind)
    end, deaths = _seen(out), []
    for step in sorted({1 + (changes - 1) * death // (count - 1) for death in range(count)}):
        shutil.rmtree(out)
        shutil.copytree(before, out)
        _apart(run, out, kind, step=step)
        between = _seen(out)
        _apart(run, out, kind)
        hidden = sorted(name for name in tree(out) if name.rpartition("/")[2].startswith("."))
        deaths.append({"between": between, "end": _seen(out), "hidden": hidden})
    return {"before": _seen(before), "end": end, "deaths": deaths}


def main() -> None:
    run, earlier, folder = map(Path, sys.argv[1:4])
    importlib.import_module("pyarrow.parquet")
    kinds = (Kind.HF, Kind.WEBDATASET, Kind.IMAGEFOLDER, Kind.CSV)
    print(json.dumps({kind: _deaths(run, earlier, folder, kind, int(sys.argv[4])) for kind in kinds}))


if __name__ == "__main__":
    main()
