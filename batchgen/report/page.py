"""
How does what was gathered become one page that is harmless to open?

Prompts, answers and file names are other people's words. In the page's own text they are escaped; its scripts
get them as JSON in which no character can end the block, and put them on the screen as text alone. A policy
in the page lets nothing run but the scripts that came with it, and nothing be fetched but pictures beside it.
"""

from __future__ import annotations

import os
from base64 import b64encode
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import msgspec
from markupsafe import Markup

from batchgen.job import Job  # noqa: TC001  msgspec reads the annotations at run time
from batchgen.ledger import Run, Totals  # noqa: TC001
from batchgen.records import ErrorClass, Status, Value
from batchgen.report.charts import Charts  # noqa: TC001
from batchgen.report.command import command, note
from batchgen.report.gallery import Counts  # noqa: TC001
from batchgen.report.rows import percent_encoded
from batchgen.retry import RULES
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

REJECTS = "rejects.csv"
"""What the page's list of rejected rows is saved as."""
_HERE = Path(__file__).parent
_STYLES = ("vendor/uplot/uPlot.min.css", "report.css")
_EARLY = "scripts/theme.js"
"""Runs before anything is shown."""
_LIBRARIES = ("vendor/uplot/uPlot.iife.min.js",)
_SCRIPTS = ("dom", "data", "marks", "filter", "grid", "detail", "charts", "main")
"""One module, in this order."""
_ESCAPED = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_WORDS = {
    Status.SUCCEEDED: "succeeded",
    Status.REFUSED: "refused",
    Status.NO_IMAGE: "without a picture",
    Status.CORRUPT: "damaged",
    Status.FAILED: "failed",
    Status.UNCERTAIN: "uncertain",
    Status.PENDING: "still to come",
}


class About(Value, frozen=True, kw_only=True):
    """All that a page says beside its gallery."""

    directory: Path
    job: Job | None
    totals: Totals
    last: Run | None
    began: int
    charts: Charts
    counts: Counts
    columns: tuple[str, ...]
    """The manifest's own, in the order of `Row.cells`."""
    shown: int
    cut: int
    folder: str | None
    """Of the thumbnails, beside the page; None where they are inside."""
    pixels: int

    @property
    def typed(self) -> str | None:
        """The command that began the last run, where one did."""
        return None if self.last is None else self.last.command


def as_json(value: object) -> str:
    """JSON for a block in a page: no character of it can end the block or begin a tag."""
    return msgspec.json.encode(value, enc_hook=str).decode().translate(_ESCAPED)


def parts(about: About, pieces: Iterable[str]) -> Iterator[str]:
    """
    The page, piece by piece.

    :param pieces: of the gallery, as JSON.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, usd=_usd, span=_span)
    styles = [_asset(name) for name in _STYLES]
    scripts = [_asset(_EARLY), *map(_asset, _LIBRARIES), _module()]
    yield from environment.get_template("page.html.j2").generate(
        about=about,
        name=_name(about.directory),
        policy=_policy(styles, scripts),
        styles=map(Markup, styles),
        early=Markup(scripts[0]),  # noqa: S704
        libraries=map(Markup, scripts[1:-1]),
        module=Markup(scripts[-1]),  # noqa: S704
        data=Markup(as_json(_data(about))),  # noqa: S704  escaped as JSON
        pieces=map(Markup, pieces),
        made=datetime.now(UTC),
        words=_WORDS,
        remedies=_remedies(about.counts.failures),
        retry=command(about.job, about.directory, "--retry-failed", typed=about.typed),
        resume=command(about.job, about.directory, typed=about.typed),
        note=note(about.job, about.typed),
        version=__version__,
    )


def _data(about: About) -> dict[str, object]:
    name = _name(about.directory)
    folder = None if about.folder is None else percent_encoded(about.folder)
    return {
        "name": name,
        "marks": f"batchgen:{about.began}:{name}",
        "folder": folder,
        "pixels": about.pixels,
        "columns": about.columns,
        "charts": about.charts,
        "counts": about.counts,
        "remedies": _remedies([*about.counts.failures, *about.charts.failures]),
        "words": _WORDS,
        "rejects": REJECTS,
        "again": command(about.job, about.directory, "--only", REJECTS, "--again", typed=about.typed),
        "note": note(about.job, about.typed),
    }


def _remedies(kinds: Iterable[str]) -> dict[str, str]:
    known = {str(kind): RULES[kind].remedy for kind in ErrorClass}
    return {kind: known.get(kind, "") for kind in kinds}


def _policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """
    What the page may do. `'self'` means nothing where a page is opened from disk, hence `file:`.

    https://www.w3.org/TR/CSP3/
    """
    return "; ".join(
        (
            "default-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "img-src 'self' file: data:",
            f"style-src {' '.join(map(_hashed, styles))}",
            f"script-src {' '.join(map(_hashed, scripts))}",
        )
    )


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _module() -> str:
    return "\n".join(_asset(f"scripts/{name}.js") for name in _SCRIPTS)


def _name(directory: Path) -> str:
    return os.fsencode(directory.resolve().name).decode(errors="replace")


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _usd(amount: Decimal) -> str:
    """Money in cents, small amounts in as much as it takes to see them."""
    digits = 2 if amount >= 1 or not amount else 4
    return f"${amount:,.{digits}f}"


def _span(seconds: float) -> str:
    """A time in its two largest units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
