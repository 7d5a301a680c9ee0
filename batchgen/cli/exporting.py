"""How does the terminal tell what has gone out of a run directory?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import depot, disk, manifest
from batchgen.cli.places import check_run_directory
from batchgen.cli.progress import Bar
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.errors import InputError
from batchgen.export import SHARD_BYTES, WHY, Kind, Link, Wanted, export

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.export import Summary

_MEANT_FOR = {
    "shard_bytes": ("--shard-size", (Kind.HF, Kind.WEBDATASET)),
    "link": ("--link", (Kind.IMAGEFOLDER,)),
    "absolute": ("--absolute", (Kind.CSV, Kind.JSONL)),
}


def tell(
    directory: str,
    to: str,
    *,
    output: str | None,
    statuses: Sequence[str],
    where: Sequence[tuple[str, str]],
    only: str | None,
    options: Mapping[str, object],
    as_json: bool,
    quiet: bool,
) -> int:
    """Export a run directory and tell what went out; the exit status."""
    kind = Kind(to)
    for name, (flag, kinds) in _MEANT_FOR.items():
        if options[name] and kind not in kinds:
            raise InputError(f"{flag} is for --to {' and '.join(kinds)}; leave it out")
    check_run_directory(directory)
    out = Path(output) if output is not None else depot.beside(directory) / "export" / kind
    ids = None if only is None else manifest.read_ids(only)
    bar = Bar("row", shown=not quiet and sys.stderr.isatty())
    try:
        summary = export(
            directory,
            out,
            kind,
            wanted=Wanted(statuses=tuple(statuses), where=tuple(where), only=ids),
            shard_bytes=int(str(options["shard_bytes"] or SHARD_BYTES)),
            link=Link(str(options["link"] or Link.AUTO)),
            absolute=bool(options["absolute"]),
            on_progress=bar,
        )
    finally:
        bar.close()
    if as_json:
        say_json(summary)
    else:
        say("\n".join(_told(summary)))
    return summary.exit_status


def _told(summary: Summary) -> list[str]:
    rows = _counted(summary.rows, "row")
    pictures = f" with {_counted(summary.pictures, 'picture')}" if summary.pictures else ""
    simulated = "  (simulated: no money was spent)" if summary.simulated else ""
    lines = [f"{summary.out}: {rows}{pictures}, which cost ${summary.cost_usd:,.4f}{simulated}"]
    kept = f"; {summary.kept:,} of {summary.files:,} there already, unchanged" if summary.kept else ""
    files = _counted(summary.files, "file")
    lines.append(f"  written   {files}, {disk.size(summary.bytes)}{kept}")
    if summary.linked:
        lines.append(
            f"  pictures  {summary.linked:,} hard links: one file under two names, so edit neither in place"
        )
    if summary.copied:
        lines.append(f"  pictures  {summary.copied:,} copies")
    if summary.left_out:
        parts = [f"{count:,} {WHY[why]}" for why, count in summary.left_out.items()]
        lines.append(f"  left out  {', '.join(parts)}")
    if summary.set_aside is not None:
        lines.append(f"  card      README.md had been edited: it is {summary.set_aside} now")
    lines += [
        f"  open      {text}" if not place else f"            {text}"
        for place, text in enumerate(summary.opening)
    ]
    return lines + _missing(summary)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _missing(summary: Summary) -> list[str]:
    if not summary.missing:
        return []
    whose = "its picture is" if summary.missing == 1 else "their pictures are"
    lines = [f"missing: {_counted(summary.missing, 'row')} could not go out, {whose} lost or altered"]
    lines += [f"  {line(f'row {one.id}: {one.file}: {one.detail}')}" for one in summary.first_missing]
    if summary.missing > len(summary.first_missing):
        lines.append(f"  … and {summary.missing - len(summary.first_missing):,} more")
    command = shlex.join(["batchgen", "verify", summary.directory])
    return [
        *lines,
        "next: see what else is amiss; afterwards the same export takes in what is mended",
        f"  {command}",
    ]
