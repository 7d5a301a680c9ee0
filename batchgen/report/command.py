"""Which command goes on with a run, as far as the run directory can say?"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import msgspec

from batchgen import job as jobs
from batchgen.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB_FILE = "JOB.toml"
"""Stands for a job file whose name nobody noted, where only such a file can say what the run was told."""
_ONLY_IN_FILES = ("models", "simulator")
_ONCE = frozenset({"manifest", "output", "limit", "only", "again", "retry_failed", *_ONLY_IN_FILES})
"""What is not repeated as a flag."""


def command(job: Job | None, directory: Path, *flags: str, typed: str | None = None) -> str:
    """
    The command for a shell: the source, all that was told beside it, and further flags.

    :param job: what the run was told; None where that is not known.
    :param directory: of the run, as its user names it.
    :param typed: the command that began the run, where one did.
    """
    source = _job_file(typed) if job is None or _in_a_file(job) else job.manifest
    # A job file may have been overruled by flags: with another model every row would be bought once more.
    told = [] if job is None else _flags(job)
    return shlex.join(["batchgen", "run", source, "-o", _named(job, directory), *told, *flags])


def note(job: Job | None, typed: str | None = None) -> str:
    """What that command cannot say itself."""
    if job is None or _in_a_file(job):
        return f"{JOB_FILE} is the job file of the run." if _job_file(typed) == JOB_FILE else ""
    return "With the same table on standard input." if job.manifest == "-" else ""


def _in_a_file(job: Job) -> bool:
    """Whether the run was told something that only a job file can say."""
    return any(getattr(job, name) for name in _ONLY_IN_FILES)


def _job_file(typed: str | None) -> str:
    """The job file that a command names."""
    words = shlex.split(typed or "")
    return next((word for word in words if word.lower().endswith(".toml")), JOB_FILE)


def _named(job: Job | None, directory: Path) -> str:
    """
    The run directory, as it is called where the run was started.

    All names of a job are as seen from there. Anywhere else a relative one of the directory would be another
    directory, in which all is bought once more.
    """
    if job is not None and jobs.address(job) is not None:
        return jobs.place(job)
    if job is None or jobs.directory(job).resolve() == directory.resolve():
        return str(directory)
    return str(directory.resolve())


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
