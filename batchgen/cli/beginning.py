"""How is a job file made at the terminal?"""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import job as jobs
from batchgen import manifest, outlook, proposal
from batchgen.cli.saying import say
from batchgen.cli.terminal import line
from batchgen.errors import InputError, ManifestError
from batchgen.proposal import Guess, Seen

if TYPE_CHECKING:
    from batchgen.outlook import Preview


def begin(source: str, output: str | None, *, force: bool) -> int:
    """Look at a manifest and write the job file that fits it; 0."""
    if source == "-" or source.lower().endswith(".toml"):
        what = "standard input cannot be read twice" if source == "-" else f"{source} is a job file already"
        raise InputError(f"{what}; MANIFEST is a table of prompts in a file (.csv, .tsv, .jsonl, .parquet)")
    try:
        if Path(source).is_dir():
            raise InputError(f"{source}: a folder; name the table in it")
    except OSError as cause:
        raise InputError(f"{source}: {cause.strerror}; name one that you can read") from cause
    path = Path("jobs") / f"{jobs.name(source)}.toml" if output is None else Path(output)
    if path.suffix != ".toml":
        raise InputError(f"-o {path}: a job file's name ends in .toml")
    if path.exists() and not force:
        raise _taken(path)
    guessed, seen = _look(source)
    beside = os.path.relpath(source, path.parent)
    command = shlex.join(["batchgen", "run", str(path)])
    _write(path, proposal.job_file(beside, guessed, seen, command=command), force=force)
    say("\n".join(_told(path, guessed, seen)))
    return 0


def _taken(path: Path) -> InputError:
    if path.is_file():
        return InputError(f"{path} is there already; --force overwrites it, -o names another one")
    return InputError(f"{path}: something that is no folder is in the way; choose another place with -o")


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as cause:
        raise InputError(f"{path}: {cause.strerror}; choose another place with -o") from cause
    except UnicodeEncodeError:
        raise InputError(f"-o {str(path)!r} has bytes that are no UTF-8; give it another name") from None


def _look(source: str) -> tuple[Guess, Seen]:
    """Read the manifest as a run would; a column whose cells repeat is not what names its rows."""
    names = manifest.names(source)
    guessed = proposal.guess(names)
    known = {"prompt", "messages"} & {name.casefold() for name in names}
    if not known and guessed.template is None and "prompt" not in guessed.columns:
        raise InputError(
            f"{source}: no prompts, and no column to make them of; add one called `prompt` beside"
            f" {', '.join(map(repr, names))}"
        )
    try:
        found = _read(source, guessed)
    except ManifestError:
        if "id" not in guessed.columns:
            raise
        guessed = proposal.guess(names, ids=False)
        found = _read(source, guessed)
    cost = None if found.cost is None else found.cost.likely_usd
    seen = Seen(names=names, rows=found.rows, tasks=found.tasks, expected_usd=cost)
    return guessed, seen


def _read(source: str, guessed: Guess) -> Preview:
    with tempfile.TemporaryDirectory() as nowhere:  # what was bought already says nothing of the whole
        given = {"columns": guessed.columns, "template": guessed.template, "output": f"{nowhere}/run"}
        return outlook.preview(jobs.resolve(source, given))


def _told(path: Path, guessed: Guess, seen: Seen) -> list[str]:
    lines = [f"{path}: for {seen.rows:,} rows"]
    for ours, theirs in guessed.columns.items():
        lines.append(f"  the column {line(theirs)!r} is taken for the {ours}")
    if guessed.template is not None:
        lines.append(
            f"  no column holds prompts: they are made as {line(guessed.template)!r}; change it there"
        )
    at = shlex.quote(str(path))
    steps = {
        f"batchgen plan {at}": "what it will cost, and how long it takes",
        f"batchgen run {at} --provider simulator -o runs/trial": "a rehearsal: no key, no money",
        f"batchgen run {at}": "",
    }
    width = max(map(len, steps))
    return [*lines, "next:", *(f"  {step:<{width}}  {why}".rstrip() for step, why in steps.items())]
