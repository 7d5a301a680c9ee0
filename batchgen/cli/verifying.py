"""How does the terminal tell what an audit of a run directory found?"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from batchgen.cli.places import check_run_directory
from batchgen.cli.progress import Bar
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.imaging import Check
from batchgen.inspection import Kind
from batchgen.verify import verify

if TYPE_CHECKING:
    from batchgen.verify import Finding, Problem, Report

_MEANS = {
    Kind.MISSING: ("pictures are gone", "put back to pending"),
    Kind.EDITED: ("files were changed after they were bought", "moved to corrupt/ and put back to pending"),
    Kind.UNDECODABLE: ("files are no whole pictures", "moved to corrupt/ and put back to pending"),
    Kind.IRREGULAR: (
        "names of pictures belong to no plain file",
        "moved to corrupt/ and put back to pending",
    ),
    Kind.UNREADABLE: ("files cannot be read", ""),
    Kind.MISPLACED: ("pictures are under another name", "put where they belong"),
    Kind.UNRECORDED: ("pictures came whose answers were not recorded", "given to their rows"),
    Kind.ORPHAN: ("files belong to no row; move or delete them", ""),
    Kind.UNFINISHED: ("temporary files of a run that died", "deleted"),
    Kind.UNSETTLED: ("requests of a run that died were not answered", "noted as uncertain"),
    Kind.UNANSWERED: ("rows count as succeeded without an answer or a picture", ""),
    Kind.SUMS: ("sums are not those of their parts", "added up again"),
    Kind.TABLE: ("differences between results.parquet and the ledger", "written anew"),
    Kind.LOG: ("pages of the ledger's log were not committed", "SQLite went back to the last commit"),
    Kind.LEDGER: ("ledger that was damaged or gone", "made anew from results.parquet"),
    Kind.MANIFEST: ("the copy of the manifest cannot be used; the next run makes one", ""),
}
"""What each kind of problem is, and what is done about it where something can be."""


def tell(directory: str, *, repair: bool, check: str, as_json: bool, quiet: bool) -> int:
    """Audit a run directory and tell what was found; the exit status."""
    check_run_directory(directory)
    bar = Bar("img", shown=not quiet and sys.stderr.isatty())
    try:
        report = verify(directory, repair=repair, check=Check(check), on_progress=bar)
    finally:
        bar.close()
    if as_json:
        say_json(report)
    else:
        say("\n".join(_told(report, repair=repair)))
    return report.exit_status


def _told(report: Report, *, repair: bool) -> list[str]:
    total = sum(report.tasks.values())
    rest = ", ".join(f"{count:,} {status}" for status, count in report.tasks.items() if status != "succeeded")
    lines = [
        f"{report.directory}: {report.tasks.get('succeeded', 0):,} of {total:,} rows succeeded"
        f"{f' ({rest})' if rest else ''}; {report.pictures:,} pictures are as they were bought",
    ]
    if report.live:
        lines.append("  a run is at work: what is in flight was left out, and so was the table")
    for kind, problem in report.problems.items():
        lines += _listed(Kind(kind), problem)
    return lines + _next(report, repair=repair)


def _listed(kind: Kind, problem: Problem) -> list[str]:
    what, done = _MEANS[kind]
    fate = f": {done}" if problem.repaired == problem.count else ""
    lines = [f"  {kind:<11} {problem.count:,} x {what}{fate}"]
    lines += [f"    {_finding(finding)}" for finding in problem.first]
    if problem.first and problem.count > len(problem.first):
        lines.append(f"    … and {problem.count - len(problem.first):,} more")
    return lines


def _finding(finding: Finding) -> str:
    parts = [f"row {finding.id}" if finding.id else "", finding.file, finding.detail]
    return line(": ".join(part for part in parts if part))


def _next(report: Report, *, repair: bool) -> list[str]:
    lines = []
    if report.again_usd:
        verb = "buys" if repair else "would buy"
        lines.append(f"  the next run {verb} the lost pictures again, for about ${report.again_usd:,.2f}")
    left = {Kind(kind) for kind, problem in report.problems.items() if problem.repaired < problem.count}
    if not report.problems:
        lines.append("  all is well")
    elif any(_MEANS[kind][1] for kind in left) and not report.live:
        command = shlex.join(["batchgen", "verify", report.directory, "--repair"])
        lines.append(f"next: `{command}` puts this right and deletes no picture")
    elif left:
        lines.append("next: look at what is named above; no repair would be safe")
    return lines
