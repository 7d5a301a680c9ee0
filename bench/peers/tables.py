"""
Which measures are there, and how does the page tell of each?

What a sentence says of a measure is true of every run of it; figures stand in the tables alone.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import memory, overhead, quota
from bench.peers import measures

if TYPE_CHECKING:
    from collections.abc import Callable

_WIDTH = 118


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One table, with how it comes about."""

    title: str
    how: str
    head: tuple[str, ...]
    take: Callable[[measures.Measures], measures.Rows]
    note: str = ""

    def markdown(self, name: str, measuring: measures.Measures) -> str:
        """Take it, and show it as a document does."""
        cells = [self.head, ("---",) * len(self.head), *self.take(measuring)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        rounds = f"{measuring.rounds} round{'s' if measuring.rounds > 1 else ''}"
        how = _filled(self.how.replace("{rounds}", rounds))
        command = f"`python -m bench.peers --only {name}`"
        return "\n\n".join(filter(None, (f"## {self.title}", how, table, _filled(self.note), command)))


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


MEASURES = {
    "cpu": Measure(
        title="CPU a picture",
        how=f"""User and system time of the whole process for a picture of 1 MB, {overhead.WORKERS} in
            flight: the difference between {overhead.MANY} and {overhead.FEW} rows, by the row, so
            that what it takes to start is left out. The bare loop is one blocking socket, base64,
            sha256 and a file, nothing else. Medians of {{rounds}} in which all take turns,
            each beside the loop of its round.""",
        head=("", "of the bare loop's", "lowest to highest", "of the loop's that also decodes"),
        take=measures.Measures.cpu,
        note="""batchgen decodes every pixel unless told `--check quick`, hashes, syncs file and folder
            and keeps a ledger; the peers decode base64 and write a file. On a machine that others share
            such figures waver by half; batchgen's are told with more rounds below.""",
    ),
    "memory": Measure(
        title="Memory",
        how=f"""Peak of the whole process over {memory.ROWS} pictures of 15 MB, 20 MB as they travel,
            {memory.WORKERS} in flight: 1,280 MB if all of them were whole in memory once. Medians
            of {{rounds}}.""",
        head=("", "peak", "lowest to highest"),
        take=measures.Measures.memory,
    ),
    "quota": Measure(
        title="A quota",
        how=f"""{quota.ROWS} rows, {quota.WORKERS} in flight, on an endpoint that admits {quota.RPM}
            requests a minute (a token bucket of {quota.TERMS.burst}) and answers after 2 s ± 30 %; what
            it does not admit is a 429 that names no wait. Used is what was admitted from the first to
            the last start, of what that time admits; the bucket's own content can bring it above 100 %.
            One run each.""",
        head=("", "knows the quota", "quota used", "answers 429", "rows lost"),
        take=measures.Measures.quota,
        note="""Who gives rows up early ends early: what was used is to be read beside what was lost. Told
            nothing, curator would send 200 a minute; here it is told 1,000,000.""",
    ),
    "faults": Measure(
        title="An endpoint with faults",
        how=f"""{measures.FAULTY_ROWS:,} rows, {measures.WORKERS} in flight; 5 % of the requests get a
            503, 3 % half an answer, 2 % a reset after they were read, the same for everybody; 2 %
            of the rows are refused however often they are asked for, and are no loss. The endpoint
            counts what it billed; what was billed and never arrived can only be bought again. One
            run each.""",
        head=(
            "",
            "rows lost",
            "pictures billed again",
            "refusals billed again",
            "tokens not in its table",
            "requests it names as uncertain",
        ),
        take=measures.Measures.faults,
        note="""batchgen gives a row up after two requests that may have been billed and brought
            nothing: it is `uncertain`, and the next run with `--retry-failed` takes it up. Where an
            answer came without a picture it asks three times.""",
    ),
    "kills": Measure(
        title="`kill -9` and the same command again",
        how=f"""{measures.KILLED_ROWS} rows of 1 MB, {measures.WORKERS} in flight, answers after 0.5 s ±
            30 %; killed once half of them were asked for, then run again to the end. Pictures billed
            twice as the median of {{rounds}}, lost rows and torn files of all rounds together, the money
            of the first. What is in flight is billed and never arrives, whoever asks.""",
        head=(
            "",
            "pictures billed twice",
            "rows lost",
            "torn files",
            "tokens not in its table",
            "requests it names as uncertain",
        ),
        take=measures.Measures.kills,
        note="""A torn file is one that the killed process was writing: a script that skips what is
            there keeps it.""",
    ),
}
