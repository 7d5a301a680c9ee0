"""Which command goes on with a run, as far as the run directory can say?"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import msgspec

from batchgen.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB_FILE = "JOB.toml"
"""Stands for a job file whose name nobody noted, where only such a file can say what the run was told."""
_ONLY_IN_FILES = ("models", "simulator")
_ONCE = frozenset({"manifest", "output", "limit", "only", "again", "retry_failed", *_ONLY_IN_FILES})
"""What is not repeated as a flag."""


def command(job: Job | None, directory: Path, *flags: str) -> str:
    """
    The command for a shell: the source, all that was told beside it, and further flags.

    :param job: what the run was told; None where that is not known.
    :param directory: of the run, as its user names it.
    """
    if job is None or job.manifest == "-" or any(getattr(job, name) for name in _ONLY_IN_FILES):
        source, told = JOB_FILE, []
    else:
        source, told = job.manifest, [*_flags(job)]
    return shlex.join(["batchgen", "run", source, "-o", str(directory), *told, *flags])


def _flags(job: Job) -> Iterator[str]:
    """What differs from the defaults: with another setting a row would be another purchase."""
    default = Job(manifest=job.manifest)
    for name in Job.__struct_fields__:
        value = getattr(job, name)
        if name in _ONCE or value == getattr(default, name):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "columns":
            for ours, theirs in job.columns.items():
                yield from ("--column", f"{ours}={theirs}")
        elif name == "stop":
            for text in job.stop:
                yield from (flag, text)
        elif isinstance(value, bool):
            yield flag
        else:
            yield from (flag, value if isinstance(value, str) else msgspec.json.encode(value).decode())
