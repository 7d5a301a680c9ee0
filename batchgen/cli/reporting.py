"""How does the terminal tell that a page was made?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import depot
from batchgen.address import is_url
from batchgen.cli.places import check_run_directory
from batchgen.cli.progress import Bar
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.report import build

if TYPE_CHECKING:
    from batchgen.report import Built


def tell(
    directory: str,
    target: str | None,
    *,
    pixels: int,
    limit: int,
    inline: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Make the page of a run directory and tell where it is; 0, or 1 where pictures are missing or bad."""
    check_run_directory(directory)
    bar = Bar("row", shown=not quiet and sys.stderr.isatty())
    try:
        built = build(
            directory,
            Path(target) if target is not None else depot.beside(directory) / "report.html",
            pixels=pixels,
            limit=limit,
            inline=inline,
            on_progress=bar,
        )
    finally:
        bar.close()
    if as_json:
        say_json(built)
    else:
        say("\n".join(_told(built, directory)))
    return int(bool(built.problems))


def _told(built: Built, directory: str) -> list[str]:
    beside = f", thumbnails in {built.thumbnails}/" if built.thumbnails is not None else ""
    lines = [
        f"{built.page}: {_size(built.bytes)}, {built.shown:,} row{'' if built.shown == 1 else 's'},"
        f" {built.pictures:,} picture{'' if built.pictures == 1 else 's'}{beside}"
    ]
    if is_url(directory):
        lines.append(f"  pictures  whole ones open from it once they lie in {depot.beside(directory)}/images")
    if built.shown < built.rows:
        lines.append(
            f"  {built.rows - built.shown:,} of {built.rows:,} rows are left out of the gallery;"
            " --limit shows more, the figures count all"
        )
    lines += [f"  {count:,} x {line(what)}: {line(first)}" for what, count, first in built.problems]
    if built.cut:
        texts = "1 long text is" if built.cut == 1 else f"{built.cut:,} long texts are"
        lines.append(f"  {texts} cut short; results.parquet has them whole")
    if built.problems:
        lines.append("next: see what happened to them")
        lines.append(f"  {shlex.join(['batchgen', 'verify', directory])}")
    return lines


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
