"""
How is each measure taken?

Each gives the rows of one table (`tables`). Contestants take turns, each in a folder and a process of its
own; where a figure wavers, medians of several rounds are told with what they lie between.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import memory as memories
from bench import overhead
from bench import quota as quotas
from bench.peers.contestants import Contestant, Entry, Environments, Ran, Record, ended, launched
from bench.seller import Account, Seller, Terms
from bench.servers import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Rows = list[tuple[str, ...]]
FAULTY = Terms(answer_after=0.5, overloaded=0.05, truncated=0.03, reset=0.02, refused=0.02)
FAULTY_ROWS, KILLED_ROWS, WORKERS = 1000, 200, 32
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


@dataclass(frozen=True)
class Measures:
    """All that is compared."""

    environments: Environments
    rounds: int

    def cpu(self) -> Rows:
        """CPU a picture of 1 MB, beside a bare loop."""
        figures: dict[str, list[float]] = {}
        contestants = self._here(QUICK, FULL, OPENAI, LITELLM, CURATOR)
        with serving(width=overhead.SIDE, height=overhead.SIDE) as url:
            for _ in range(self.rounds):
                for check in overhead.BOUNDS:
                    figures.setdefault(check, []).append(_a_row(partial(_loop, url, check)))
                for contestant in contestants:
                    figures.setdefault(contestant.name, []).append(
                        _a_row(partial(self._cpu, contestant, url))
                    )
        rows: Rows = [("loop that also decodes", *_ratio(figures["full"], figures["quick"]), "")]
        for contestant in contestants:
            used = figures[contestant.name]
            like = _ratio(used, figures["full"])[0] if contestant is FULL else ""
            rows.append((contestant.name, *_ratio(used, figures["quick"]), like))
        return rows

    def memory(self) -> Rows:
        """Peak memory with 64 answers of 20 MB on their way."""
        peaks: dict[str, list[float]] = {}
        contestants = self._here(FULL, OPENAI, LITELLM, CURATOR)
        with memories.endpoint() as url:
            for _ in range(self.rounds):
                for contestant in contestants:
                    with self._entry(contestant, memories.ROWS) as entry:
                        ran = entry.run(url, memories.WORKERS)
                        _whole(entry, ran)
                    peaks.setdefault(contestant.name, []).append(ran.peak)
        rows: Rows = [
            (name, f"{statistics.median(found):,.0f} MB", _span(found, "{:,.0f}"))
            for name, found in peaks.items()
        ]
        return rows

    def quota(self) -> Rows:
        """How much of a quota is used, and what it costs to find it."""
        rpm = str(quotas.RPM)
        told = [
            Contestant(name=f"batchgen `--rpm {rpm}`", kind="batchgen", arguments=("--rpm", rpm)),
            Contestant(
                name=f"openai SDK, 10 retries, aiolimiter {rpm}/min",
                kind="openai",
                arguments=(*_TEN, "--rpm", rpm),
            ),
            Contestant(name=f"curator, told {rpm}/min", kind="curator", arguments=("--rpm", rpm)),
        ]
        rows: Rows = []
        for contestant in self._here(*told, FULL, OPENAI, LITELLM, *PATIENT, CURATOR):
            ran, record, account = self._bought(contestant, quotas.TERMS, quotas.ROWS, quotas.WORKERS)
            lost = quotas.ROWS - record.pictures
            knows = "yes" if contestant in told else "no"
            rows.append(
                (
                    contestant.name,
                    knows,
                    f"{quotas.used(account):.0%}",
                    f"{account.too_many:,}",
                    _lost(lost, ran),
                )
            )
        return rows

    def faults(self) -> Rows:
        """What is lost and bought again where the endpoint fails."""
        rows: Rows = []
        for contestant in self._here(FULL, OPENAI, LITELLM, CURATOR):
            ran, record, account = self._bought(contestant, FAULTY, FAULTY_ROWS, WORKERS)
            lost = FAULTY_ROWS - len(account.refusals) - record.pictures
            asked = sum(account.refusals.values()) - len(account.refusals)
            rows.append(
                (contestant.name, _lost(lost, ran), str(account.again), str(asked), *_money(record, account))
            )
        return rows

    def kills(self) -> Rows:
        """What a `kill -9` in mid-run costs, with the same command again."""
        rows: Rows = []
        for contestant in self._here(FULL, OPENAI, LITELLM, CURATOR):
            found = [self._killed(contestant, KILLED_ROWS) for _ in range(self.rounds)]
            again = [account.again for _, account, _ in found]
            lost = sum(KILLED_ROWS - record.pictures for record, _, _ in found)
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
        return rows

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

    def _killed(self, contestant: Contestant, rows: int) -> tuple[Record, Account, Ran]:
        terms = Terms(answer_after=0.5, side=overhead.SIDE)
        with Seller.opened(terms) as seller, self._entry(contestant, rows) as entry:
            with entry.started(seller.url, WORKERS) as process:
                until = time.monotonic() + _PATIENCE
                while seller.account().admitted < rows // 2:
                    if time.monotonic() > until or process.poll() is not None:
                        raise SystemExit(f"{contestant.name}: no half of the rows in {_PATIENCE} s")
                    time.sleep(0.02)
            ran = entry.run(seller.url, WORKERS)
            return entry.record(), seller.account(), ran


def _loop(url: str, check: str, rows: int) -> float:
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
