"""Of two requests for a row the first good one counts; the other is paid for, accounted for and not kept."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from batchgen import job as jobs
from batchgen import runner, stragglers
from batchgen.job import LEDGER
from batchgen.simulator import Decided, Endpoint, Faults, Reply, Settings
from tests.chaos import FLASH, Audit, Life, Manuscript, Night, Row, Watched
from tests.nights import Nights
from tests.test_simulator import served_simulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.progress import Progress
    from batchgen.runner import Summary
    from batchgen.simulator.answers import Draw

pytestmark = pytest.mark.virtual_time

USUAL = 10.0
"""Seconds of an answer that is not in the script; so a request is late after as many."""
KILLS = 6
QUICK = "".join(f"q{n},quick {n},\n" for n in range(6))


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of a few rows knows when a request is late, and may ask once more for each."""
    monkeypatch.setattr(stragglers, "ENOUGH", 3)
    monkeypatch.setattr(stragglers, "SHARE", 1.0)


class Scripted(Endpoint):
    """Answers as it is told: by prompt, what becomes of each request for it and after how many seconds."""

    def __init__(self, script: dict[str, list[tuple[str | None, float]]], clock: Callable[[], float]) -> None:
        super().__init__(Settings(paint=False), clock=clock)
        self.script = script
        self.begun: list[tuple[str, float]] = []

    def _admitted(self, draw: Draw) -> Reply | Decided:
        prompt = draw.asked.prompt
        times = sum(prompt == before for before, _ in self.begun)
        self.begun.append((prompt, self._clock()))
        fault, delay = [*self.script.get(prompt, []), *[(None, USUAL)] * 9][times]
        decided = super()._admitted(msgspec.structs.replace(draw, fault=fault))
        return msgspec.structs.replace(decided, delay=delay)


class Race(Nights):
    """A night with six quick rows and some that the script tells of."""

    endpoint: Scripted

    def __init__(self, folder: Path, backend: str, **script: list[tuple[str | None, float]]) -> None:
        super().__init__(folder, backend=backend)
        self.endpoint = Scripted(script, self.clock)
        self.write("id,prompt,parent\n" + QUICK + "".join(f"{name},{name},\n" for name in script))

    def hedged(self, **values: Any) -> Summary:
        return self.run(**{"hedge": True, "concurrency": 16, **values})

    def row(self, name: str) -> dict[str, Any]:
        (found,) = [row for row in self.table() if row["id"] == name]
        return found

    def asked(self, name: str) -> list[float]:
        return [at for prompt, at in self.endpoint.begun if prompt == name]

    def attempts(self, name: str) -> list[tuple[str | None, int | None, int | None]]:
        """Error class, cost and reservation of the requests for a row."""
        with closing(sqlite3.connect(self.directory / LEDGER)) as ledger:
            return ledger.execute(
                "SELECT attempts.error_class, attempts.cost, reserved FROM attempts JOIN tasks USING (key)"
                " WHERE tasks.id = ? ORDER BY attempts.id",
                (name,),
            ).fetchall()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("images/*"))


def good(*seconds: float) -> list[tuple[str | None, float]]:
    return [(None, each) for each in seconds]


def test_the_first_picture_counts_and_the_other_one_is_paid_for_and_not_kept(
    memory: Path, backend: str
) -> None:
    race = Race(memory, backend, late=good(60, 12), later=good(70, 90))
    kept: set[int] = set()

    def watch(progress: Progress) -> None:
        path = race.directory / "images/late.jpg"
        kept.update([path.stat().st_ino] if path.exists() else [])

    log = memory / "log.jsonl"
    summary = race.hedged(on_progress=watch, log_file=str(log))
    assert (summary.hedges, summary.hedges_won, summary.exit_status) == (2, 1, 0)

    late, later = race.row("late"), race.row("later")
    lost, won = (Decimal(cost or 0).scaleb(-9) for _, cost, _ in race.attempts("late"))
    assert [kind for kind, _, _ in race.attempts("late")] == ["late", None]
    assert (late["attempts"], late["cost_usd"], late["wasted_usd"]) == (2, lost + won, lost)
    assert len(kept) == 1, "the loser's picture was written over the winner's"
    # What was still in flight when all else was done was cut off, and counts for what was held back for it.
    assert [kind for kind, _, _ in race.attempts("later")] == [None, "uncertain"]
    held = Decimal(race.attempts("later")[1][2] or 0).scaleb(-9)
    assert (later["attempts"], later["wasted_usd"], later["error_class"]) == (2, 0, None)
    assert (summary.uncertain, summary.uncertain_usd) == (1, held)
    assert summary.hedges_usd == lost + held
    assert race._now == 70
    assert race.files() == sorted([*(f"q{n}.jpg" for n in range(6)), "late.jpg", "later.jpg"])

    assert 0 < race.endpoint.account.usd - summary.cost_usd <= held
    events = [json.loads(line) for line in log.read_text().splitlines()]
    told = Counter(event["row"] for event in events if event["event"] == "task")
    assert set(told.values()) == {1}
    pairs = [
        (one["hedge"], one["error_class"]) for one in events if one.get("row") == "late" and "hedge" in one
    ]
    assert pairs == [(True, None), (False, "late")]
    assert events[-1]["summary"]["hedges"] == 2

    before = race.endpoint.account.seen
    again = race.hedged()
    assert (race.endpoint.account.seen, again.requests, again.exit_status) == (before, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "requests", "status"),
    [
        (("overloaded", 30), (None, 40), 2, "succeeded"),
        (("lost_link", 30), (None, 40), 2, "succeeded"),
        ((None, 40), ("refusal", 15), 2, "succeeded"),
        (("overloaded", 40), ("overloaded", 25), 3, "succeeded"),
        (("lost_link", 40), ("overloaded", 25), 2, "failed"),
        (("rate_limited", 30), (None, 40), 2, "succeeded"),
        (("hang", 0), (None, 40), 2, "succeeded"),
    ],
)
def test_while_another_request_is_in_flight_it_is_the_retry(
    memory: Path,
    first: tuple[str | None, float],
    second: tuple[str | None, float],
    requests: int,
    status: str,
) -> None:
    race = Race(memory, "asyncio", late=[first, second])
    summary = race.hedged()
    assert (race.row("late")["status"], len(race.asked("late"))) == (status, requests)
    assert race.row("late")["attempts"] == requests - (first[0] == "rate_limited")
    assert summary.exit_status == (status != "succeeded")
    assert summary.hedges == 1
    assert (race.directory / "images/late.jpg").exists() == (status == "succeeded")


def test_a_hedge_leaves_once_its_row_is_late_and_a_hand_is_idle(memory: Path, backend: str) -> None:
    race = Race(memory, backend, late=good(100, 100))
    race.hedged(concurrency=2)
    first, second = race.asked("late")
    # It began amid the quick rows: nobody had time for it before they were through.
    assert first <= 40 < second <= first + USUAL + 2 or second == pytest.approx(first + USUAL, abs=2)


@pytest.mark.parametrize(
    "values",
    [
        {"hedge": False},
        {"attempts": 1},
        {"concurrency": 1},
        {"budget": 0.8},  # room for a hedge, but not for what else might have to be asked again
    ],
)
def test_there_is_no_hedge_without_leave_hand_or_money(memory: Path, values: dict[str, Any]) -> None:
    race = Race(memory, "asyncio", late=good(100, 10))
    summary = race.hedged(**values)
    assert (summary.hedges, len(race.asked("late"))) == (0, 1)
    assert (summary.exit_status, race.row("late")["status"]) == (0, "succeeded")


def test_nothing_is_hedged_while_the_gate_cools(memory: Path) -> None:
    race = Race(memory, "asyncio", late=good(100, 20), busy=[("rate_limited_silent", 11.0)] * 3)
    race.hedged()
    _, hedge = race.asked("late")
    cooled = [at + 11.0 for at in race.asked("busy")[:3]]
    assert not [at for at in cooled if at <= hedge < at + 0.75]
    assert hedge > 11.75


def test_a_stop_begins_no_hedge_and_waits_for_no_loser(memory: Path) -> None:
    race = Race(memory, "asyncio", late=good(200, 12), later=good(100, 100))
    sent: list[float] = []

    def watch(progress: Progress) -> None:
        if not sent and progress.hedges == 2 and progress.succeeded == 7:
            sent.append(anyio.current_time())
            os.kill(os.getpid(), signal.SIGTERM)

    summary = race.hedged(on_progress=watch, signals=True)
    assert summary.exit_status == 143
    assert race.row("later")["status"] == "succeeded"
    assert race._now == 100
    assert [kind for kind, _, _ in race.attempts("late")] == ["uncertain", None]


class Doubled(Scripted, Watched):
    """Says at which step of its process it was asked what."""

    def _admitted(self, draw: Draw) -> Reply | Decided:
        self.steps = [*getattr(self, "steps", []), self.life.steps]
        return super()._admitted(draw)


def doubled(folder: Path) -> Night:
    folder.mkdir()
    night = Night(folder, 0, slow=0.1)
    night.endpoint = Doubled({"late": good(60, 12), "later": good(80, 90)}, night.clock)
    night.rpm = night.budget = None
    night.attempts = 5
    night.values = {"hedge": True, "concurrency": 8, "rpm": None}
    prompts = ["quick", "quick too", "quick as well", "late", "later"]
    night.manuscript = Manuscript([Row(f"row {at}", prompt, FLASH, 1) for at, prompt in enumerate(prompts)])
    return night


def test_wherever_a_run_dies_with_two_requests_in_flight_the_next_one_buys_no_row_too_often(
    memory: Path,
) -> None:
    whole = doubled(memory / "whole")
    life = Life(whole.directory)
    whole._run(life)
    Audit(whole).check(final=True)
    assert isinstance(whole.endpoint, Doubled)
    begun = whole.endpoint.steps[-2]
    assert [whole.happened[what] for what in ("losers cut off", "losers that came late")] == [1, 1]
    found: Counter[str] = Counter()
    for kill in range(begun - 2, life.steps, max(1, (life.steps - begun) // KILLS)):
        night = doubled(memory / f"killed at {kill}")
        assert night._run(Life(night.directory, kill=kill)) is None
        night.killed = {1}
        night._finish()
        Audit(night).check(final=True)
        assert {row["status"] for row in night.table()} == {"succeeded"}
        asked = Counter(seen.content[0] for seen in night.endpoint.log)
        assert max(asked.values()) <= 3, asked
        found[f"{asked['late']} requests for one, {asked['later']} for the other"] += 1
    print(dict(found))
    assert len(found) > 1


def test_a_row_that_continues_a_late_one_goes_on_from_the_picture_that_counts(memory: Path) -> None:
    race = Race(memory, "asyncio", late=good(300, 12))
    race.write(race.manifest.read_text() + "child,child,late\n")
    summary = race.hedged()
    assert (summary.exit_status, summary.hedges_won) == (0, 1)
    assert race._now < 60
    prompt, at = race.endpoint.begun[-1]
    assert ("child" in prompt, at >= 22) == (True, True)


def test_the_end_of_a_run_is_not_held_up_by_a_few_slow_answers(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    took, cost, flying = {}, {}, []
    for hedge in (False, True):
        folder = memory / str(hedge)
        folder.mkdir()
        nights = Nights(folder, Settings(paint=False, faults=Faults(slow=0.01)))
        nights.rows(120)
        summary = nights.run(
            hedge=hedge,
            concurrency=30,
            timeout=900.0,
            on_progress=lambda progress: flying.append(progress.in_flight),
        )
        assert summary.bought == 120
        took[hedge], cost[hedge] = nights._now, nights.endpoint.account.usd
    print(f"{took[True] / took[False]:.0%} of the time, {cost[True] / cost[False] - 1:+.1%} of the cost")
    assert took[True] < 0.7 * took[False]
    assert cost[False] < cost[True] < cost[False] * Decimal("1.05")
    assert max(flying) == 30


@pytest.mark.blocks
def test_over_a_socket_a_slow_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_API_KEY", "any")
    table = tmp_path / "prompts.csv"
    table.write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(40)))
    values = {"output": str(tmp_path / "run"), "concurrency": 12, "hedge": True, "provider": "core-today"}
    usual = {"gemini-3.1-flash-image-preview": {"median": 0.2, "spread": 0.1}}
    with served_simulator(latency=1.0, latencies=usual, slowness=1000.0, faults={"slow": 0.08}) as url:
        summary = runner.run(jobs.resolve(str(table), {**values, "base_url": url}))
    assert (summary.bought, summary.exit_status) == (40, 0)
    assert summary.hedges == summary.hedges_won == summary.uncertain > 0
    assert summary.elapsed_s < 150
    assert len([*(tmp_path / "run/images").iterdir()]) == 40
