"""
What is compared, on which endpoint, and how is it counted?

Each measure gives one table. Contestants take turns, each in a folder and a process of its own; where a
figure wavers, medians of several rounds are told with what they lie between.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import memory as memories
from bench import overhead, quota as quotas
from bench.peers.contestants import Contestant, Entry, Environments, Ran, Record, ended, launched
from bench.seller import Account, Seller, Terms
from bench.servers import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PATIENCE = 120
"""Seconds until a run that is to be killed must be half done."""

QUICK = Contestant(name="batchgen `--check quick`", kind="batchgen", arguments=("--check", "quick"))
FULL = Contestant(name="batchgen", kind="batchgen")
OPENAI = Contestant(name="openai SDK", kind="openai")
LITELLM = Contestant(name="LiteLLM Router", kind="litellm")
CURATOR = Contestant(name="curator", kind="curator")
_TEN = ("--retries", "10")
PATIENT = [
    Contestant(name="openai SDK, 10 retries", kind="openai", arguments=_TEN),
    Contestant(name="LiteLLM Router, 10 retries", kind="litellm", arguments=_TEN),
]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table, with how it came about."""

    title: str
    how: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """As a document shows it."""
        lines = [" | ".join(cells) for cells in (self.head, ("---",) * len(self.head), *self.rows)]
        table = "\n".join(f"| {line} |" for line in lines)
        return "\n\n".join([f"## {self.title}", self.how, table, *self.notes])


@dataclass(frozen=True)
class Measures:
    """All that is compared."""

    environments: Environments
    rounds: int

    def tables(self, chosen: Sequence[str]) -> Iterator[Table]:
        """One after the other, as they are asked for."""
        for name in chosen:
            print(f"{name} …", file=sys.stderr, flush=True)
            yield MEASURES[name](self)

    def cpu(self) -> Table:
        """CPU a picture of 1 MB, beside a bare loop."""
        figures: dict[str, list[float]] = {}
        contestants = self._here(QUICK, FULL, OPENAI, LITELLM, CURATOR)
        with serving(width=overhead.SIDE, height=overhead.SIDE) as url:
            for _ in range(self.rounds):
                for check in overhead.BOUNDS:
                    figures.setdefault(check, []).append(_a_row(lambda rows, check=check: _loop(url, rows, check)))  # type: ignore[misc]
                for contestant in contestants:
                    used = _a_row(lambda rows, who=contestant: self._cpu(who, url, rows))  # type: ignore[misc]
                    figures.setdefault(contestant.name, []).append(used)
        rows = [("bare loop that also decodes the pixels", "bare loop", *_ratio(figures["full"], figures["quick"]))]
        for contestant in contestants:
            like = "full" if contestant is FULL else "quick"
            told = "loop that also decodes" if contestant is FULL else "bare loop"
            rows.append((contestant.name, told, *_ratio(figures[contestant.name], figures[like])))
        return Table(
            title="CPU a picture",
            how=f"User and system time of the whole process for a picture of 1 MB, {overhead.WORKERS} in flight: "
            f"the difference between {overhead.MANY} and {overhead.FEW} rows, by the row, so that what it takes "
            "to start is left out. The bare loop is one blocking socket, base64, sha256 and a file, nothing "
            f"else. Medians of {self.rounds} rounds in which all take turns, each beside the loop of its round.",
            head=("", "compared with", "multiple", "lowest to highest"),
            rows=rows,
            notes=(
                "batchgen decodes every pixel unless told `--check quick`, hashes, syncs file and folder and keeps "
                "a ledger; the peers decode base64 and write a file.",
            ),
        )

    def memory(self) -> Table:
        """Peak memory with 64 answers of 20 MB on their way."""
        peaks: dict[str, list[float]] = {}
        contestants = self._here(FULL, OPENAI, LITELLM, CURATOR)
        with serving(**memories.PICTURE) as url:
            for _ in range(self.rounds):
                for contestant in contestants:
                    with self._entry(contestant, memories.ROWS) as entry:
                        ran = entry.run(url, memories.WORKERS)
                        _whole(entry, ran)
                    peaks.setdefault(contestant.name, []).append(ran.peak)
        rows = [(name, f"{statistics.median(found):,.0f} MB", _span(found, "{:,.0f}")) for name, found in peaks.items()]
        return Table(
            title="Memory",
            how=f"Peak of the whole process over {memories.ROWS} pictures of 15 MB, 20 MB as they travel, "
            f"{memories.WORKERS} in flight: 1,280 MB if all of them were whole in memory once. "
            f"Medians of {self.rounds} rounds.",
            head=("", "peak", "lowest to highest"),
            rows=rows,
        )

    def quota(self) -> Table:
        """How much of a quota is used, and what it costs to find it."""
        rpm = str(quotas.RPM)
        told = [
            Contestant(name=f"batchgen `--rpm {rpm}`", kind="batchgen", arguments=("--rpm", rpm)),
            Contestant(name=f"openai SDK, 10 retries, aiolimiter {rpm}/min", kind="openai", arguments=(*_TEN, "--rpm", rpm)),
            Contestant(name=f"curator, told {rpm}/min", kind="curator", arguments=("--rpm", rpm)),
        ]
        rows = []
        for contestant in self._here(*told, FULL, OPENAI, LITELLM, *PATIENT, CURATOR):
            ran, record, account = self._bought(contestant, quotas.TERMS, quotas.ROWS, quotas.WORKERS)
            used = (account.admitted - 1) / (quotas.RPM / 60) / account.seconds
            lost = quotas.ROWS - record.pictures
            knows = "yes" if contestant in told else "no"
            rows.append((contestant.name, knows, f"{used:.0%}", f"{account.too_many:,}", _lost(lost, ran)))
        return Table(
            title="A quota",
            how=f"{quotas.ROWS} rows, {quotas.WORKERS} in flight, on an endpoint that admits {rpm} requests a minute "
            f"(a token bucket of {quotas.TERMS.burst}) and answers after 2 s ± 30 %; what it does not admit is a "
            "429 that names no wait. Used is what was admitted from the first to the last start, of what the "
            "minutes between admit; the bucket's own content can bring it to 105 %. One run each.",
            head=("", "knows the quota", "quota used", "answers 429", "rows lost"),
            rows=rows,
        )

    def faults(self) -> Table:
        """What is lost and bought again where the endpoint fails."""
        terms = Terms(answer_after=0.5, overloaded=0.05, truncated=0.03, reset=0.02, refused=0.02)
        total, rows = 1000, []
        for contestant in self._here(FULL, OPENAI, LITELLM, *PATIENT, CURATOR):
            ran, record, account = self._bought(contestant, terms, total, 32)
            lost = total - len(account.refusals) - record.pictures
            asked = sum(account.refusals.values()) - len(account.refusals)
            rows.append((contestant.name, _lost(lost, ran), str(account.again), str(asked), *_money(record, account)))
        return Table(
            title="An endpoint with faults",
            how=f"{total:,} rows, 32 in flight; 5 % of the requests get a 503, 3 % half an answer, 2 % a reset after "
            "they were read, the same for everybody; 2 % of the rows are refused however often they are asked "
            "for, and are no loss. The endpoint counts what it billed. What was billed and never arrived can "
            "only be bought again.",
            head=("", "rows lost", "pictures billed again", "refusals billed again", "tokens not in its table", "requests named uncertain"),
            rows=rows,
        )

    def kills(self) -> Table:
        """What a `kill -9` in mid-run costs, with the same command again."""
        total, workers, rows = 300, 32, []
        for contestant in self._here(FULL, OPENAI, LITELLM, CURATOR):
            found = [self._killed(contestant, total, workers) for _ in range(self.rounds)]
            again = [account.again for _, account, _ in found]
            lost = sum(total - record.pictures for record, _, _ in found)
            money = [_money(record, account) for record, account, _ in found]
            rows.append(
                (
                    contestant.name,
                    f"{statistics.median(again):.0f} ({_span([float(value) for value in again], '{:.0f}')})",
                    _lost(lost, found[-1][2]),
                    str(sum(record.wrong for record, _, _ in found)),
                    *money[0],
                )
            )
        return Table(
            title="`kill -9` and the same command again",
            how=f"{total} rows of 1 MB, {workers} in flight, answers after 0.5 s ± 30 %; killed once half of them were billed, "
            f"then run again to the end. {self.rounds} kills each; the money is the first one's. What was in "
            "flight is billed and never arrives, whoever asks.",
            head=("", "pictures billed twice", "rows lost", "torn files", "tokens not in its table", "requests named uncertain"),
            rows=rows,
        )

    # Parts

    def _here(self, *contestants: Contestant) -> list[Contestant]:
        """Those whose environment could be made."""
        return [one for one in contestants if one.kind not in self.environments.missing]

    @contextmanager
    def _entry(self, contestant: Contestant, rows: int) -> Iterator[Entry]:
        with tempfile.TemporaryDirectory() as folder:
            yield Entry(contestant, self.environments, Path(folder), rows)

    def _cpu(self, contestant: Contestant, url: str, rows: int) -> float:
        overhead.touch(Path(tempfile.gettempdir()))
        with self._entry(contestant, rows) as entry:
            ran = entry.run(url, overhead.WORKERS)
            _whole(entry, ran)
        return ran.cpu

    def _bought(
        self, contestant: Contestant, terms: Terms, rows: int, workers: int
    ) -> tuple[Ran, Record, Account]:
        with Seller.opened(terms) as seller, self._entry(contestant, rows) as entry:
            ran = entry.run(seller.url, workers)
            return ran, entry.record(), seller.account()

    def _killed(self, contestant: Contestant, rows: int, workers: int) -> tuple[Record, Account, Ran]:
        terms = Terms(answer_after=0.5, side=overhead.SIDE)
        with Seller.opened(terms) as seller, self._entry(contestant, rows) as entry:
            with entry.started(seller.url, workers) as process:
                until = time.monotonic() + _PATIENCE
                while seller.account().admitted < rows // 2:
                    if time.monotonic() > until or process.poll() is not None:
                        raise SystemExit(f"{contestant.name}: no half of the rows in {_PATIENCE} s")
                    time.sleep(0.02)
            ran = entry.run(seller.url, workers)
            return entry.record(), seller.account(), ran


def _loop(url: str, rows: int, check: str) -> float:
    overhead.touch(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.overhead", "child", "loop", url, str(rows), check, "asyncio"]
        with launched(command, Path(folder)) as process:
            return ended(process, Path(folder) / "log").cpu


def _a_row(cpu: Callable[[int], float]) -> float:
    few = cpu(overhead.FEW)
    return (cpu(overhead.MANY) - few) / (overhead.MANY - overhead.FEW)


def _whole(entry: Entry, ran: Ran) -> None:
    """A figure of a run that did not do its work is none."""
    if ran.status or (got := len(list((entry.results / "images").iterdir()))) != entry.rows:
        told = f"exit status {ran.status}" if ran.status else f"{got} pictures"
        log = (entry.folder / "log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{entry.contestant.name}: {told} for {entry.rows} rows\n{log}")


def _ratio(values: list[float], bases: list[float]) -> tuple[str, str]:
    ratios = [value / base for value, base in zip(values, bases, strict=True)]
    return f"{statistics.median(ratios):.2f} x", _span(ratios, "{:.2f}")


def _span(values: Sequence[float], shape: str) -> str:
    return f"{shape.format(min(values))} to {shape.format(max(values))}"


def _lost(rows: int, ran: Ran) -> str:
    # 1 is batchgen's word for rows without a picture.
    return str(rows) if ran.status in {0, 1} else f"{rows} (exit status {ran.status})"


def _money(record: Record, account: Account) -> tuple[str, str]:
    unknown = account.tokens - record.tokens
    return f"{unknown / account.tokens:.1%}", str(record.named) if record.named else "none"


MEASURES = {
    "cpu": Measures.cpu,
    "memory": Measures.memory,
    "quota": Measures.quota,
    "faults": Measures.faults,
    "kills": Measures.kills,
}
