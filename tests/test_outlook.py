"""What a run would do: what becomes of each row, money and time, and whether it can be done as asked."""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from batchgen import deadline, outlook
from batchgen import job as jobs
from batchgen.cli import cli, planning
from batchgen.deadline import Bottleneck
from batchgen.errors import InputError
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.outlook import Preview

pytestmark = pytest.mark.virtual_time

NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
COUNTS = (
    *("done", "new", "changed", "again", "retried", "uncertain_again", "uncertain_left", "failed", "waiting"),
)


def plan(nights: Nights, *, due: datetime | None = None, **given: object) -> Preview:
    job = jobs.resolve(
        str(nights.manifest), {"provider": "simulator", "output": str(nights.directory), **given}
    )
    return outlook.preview(job, deadline=due, now=NOW)


def counts(nights: Nights, **given: Any) -> dict[str, int]:
    """The counts that are not zero."""
    found = plan(nights, **given)
    told = {name: getattr(found, name) for name in COUNTS}
    return {name: count for name, count in told.items() if count}


def rows(nights: Nights, words: dict[str, str]) -> None:
    nights.write("id,prompt\n" + "".join(f"{name},{prompt}\n" for name, prompt in words.items()))


# What becomes of each row


def test_every_row_is_told_as_what_becomes_of_it(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False))
    prompts = {f"r{number}": f"picture {number}" for number in range(10)}
    rows(nights, prompts)
    assert counts(nights) == {"new": 10}
    nights.run(limit=6)
    assert counts(nights) == {"done": 6, "new": 4}
    rows(nights, {**prompts, "r0": "another one", "r9": "never asked for before", "x": "one more"})
    assert counts(nights) == {"done": 5, "new": 5, "changed": 1}
    assert counts(nights, again=True) == {"again": 5, "new": 5, "changed": 1}
    assert counts(nights, limit=3) == {"done": 2, "changed": 1}
    assert counts(nights, model="gemini-3-pro-image-preview") == {"changed": 6, "new": 5}
    assert counts(nights, variants=2) == {"done": 5, "new": 16, "changed": 1}


def test_a_row_renamed_or_whose_words_another_row_has_is_not_changed(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False))
    rows(nights, {"a": "first", "b": "second", "gone": "for good"})
    nights.run()
    rows(nights, {"renamed": "first", "b": "second", "a": "third"})
    assert counts(nights) == {"done": 2, "new": 1}, "what a was is what `renamed` is now"
    rows(nights, {"b": "third", "c": "fourth"})
    nights.run()
    rows(nights, {"b": "fifth"})
    assert counts(nights) == {"changed": 1}, "however often it was"


def test_what_failed_or_was_not_answered_is_told_with_what_a_run_makes_of_it(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(corrupt=1)))
    nights.rows(4)
    nights.run(limit=2, max_failure_rate=1)
    assert counts(nights) == {"failed": 2, "new": 2}
    assert counts(nights, retry_failed=True) == {"retried": 2, "new": 2}
    with sqlite3.connect(nights.directory / jobs.LEDGER) as ledger:
        ledger.execute("UPDATE tasks SET status = 'pending', uncertain = 1")
    assert counts(nights) == {"uncertain_again": 2, "new": 2}
    assert counts(nights, on_uncertain="skip") == {"uncertain_left": 2, "new": 2}
    assert counts(nights, on_uncertain="skip", retry_failed=True) == {"uncertain_again": 2, "new": 2}


def test_the_same_rows_are_bought_as_were_told(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(refusal=0.3, reset_after=0.2)))
    nights.rows(40)
    nights.run(limit=30, attempts=1)
    found = plan(nights, retry_failed=True)
    assert found.retried + found.uncertain_again + found.new == found.buy
    log = nights.endpoint.account.seen
    summary = nights.run(retry_failed=True, attempts=1)
    assert summary.bought + summary.failed + summary.left == found.buy
    assert nights.endpoint.account.seen >= log + found.buy


# Money


def test_each_row_is_priced_at_the_size_and_with_the_pictures_it_asks_for(memory: Path) -> None:
    nights = Nights(memory)
    shown = ";".join(["a.png"] * 10)
    (memory / "a.png").write_bytes(nights_picture())

    def likely(header: str, row: str) -> Decimal:
        nights.write(f"{header}\n" + "".join(f"{row} {number}\n" for number in range(50)))
        cost = plan(nights).cost
        assert cost is not None
        assert cost.low_usd <= cost.likely_usd <= cost.high_usd
        return cost.likely_usd

    plain = likely("prompt", "x")
    assert likely("image_size,prompt", "4K,x") > plain * 2
    assert likely("image_size,prompt", "512,x") < plain * Decimal("0.75")
    assert likely("references,prompt", f"{shown},x") > plain + 50 * Decimal("0.003")
    assert likely("expect,response_format,prompt", 'text,"{""type"": ""json_object""}",x') < plain / 10
    assert likely("prompt", "x" * 40_000) > plain + 50 * Decimal("0.003")


def nights_picture() -> bytes:
    from batchgen.simulator.paint import thumbnail  # noqa: PLC0415

    return thumbnail("a", seed=1, pixels=None, references=())


def test_a_model_without_a_price_is_named_and_the_rest_is_told(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(3)
    job = jobs.resolve(str(nights.manifest), {"base_url": "http://127.0.0.1:9/v1", "model": "mine"})
    found = outlook.preview(job, now=NOW)
    assert (found.cost, found.unpriced, found.buy, found.budget) == (None, ("mine",), 3, None)


def test_a_budget_counts_what_was_spent_and_the_one_that_is_told_is_enough(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False))
    nights.rows(60)
    spent = nights.run(limit=20).spent_usd
    found = plan(nights, budget=3.3)
    assert found.budget is not None
    assert (found.budget.counted_usd, found.budget.enough, found.exit_status) == (spent, False, 1)
    assert found.budget.tasks == pytest.approx(28, abs=2)
    enough = plan(nights, budget=float(found.budget.needed_usd))
    assert enough.budget is not None
    assert (enough.budget.enough, enough.budget.tasks, enough.exit_status) == (True, 40, 0)
    assert nights.run(budget=float(found.budget.needed_usd)).tasks == {"succeeded": 60}
    over = plan(nights, budget=0.5)
    assert (over.buy, over.exit_status) == (0, 0), "nothing is left to buy"


def test_what_may_have_been_billed_without_a_word_is_part_of_what_a_row_costs(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(bad_json=0.4)))
    nights.rows(60)
    nights.run(limit=50, max_failure_rate=1)
    cost = plan(nights).cost
    assert cost is not None
    billed = nights.endpoint.account.billed
    assert float(cost.answers_per_row) == pytest.approx(billed / 50, rel=0.01)
    assert billed > 60


# Time


def test_time_is_told_as_usual_and_then_as_it_was(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, latency=3))
    nights.rows(200)
    usual = plan(nights).time
    assert (usual.observed, usual.latency_s, usual.bottleneck) == (0, 12, Bottleneck.CONCURRENCY)
    assert usual.seconds_low < usual.seconds < usual.seconds_high
    nights.run(limit=50)
    seen = plan(nights).time
    assert seen.observed == 50
    assert seen.latency_s == pytest.approx(38, rel=0.15)
    began = nights._now
    nights.run()
    assert seen.seconds_low <= nights._now - began <= seen.seconds_high
    assert datetime.fromisoformat(seen.done_at) == NOW + timedelta(seconds=round(seen.seconds - 0.5))


def test_limits_and_chains_bound_the_time(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(100)
    assert plan(nights, concurrency=100, rpm=10).time.seconds == pytest.approx(620, rel=0.05)
    assert plan(nights, concurrency=100, rpm=60, ipm=10).time.bottleneck is Bottleneck.RATE
    assert plan(nights, concurrency=100, tpm=14_000).time.bottleneck is Bottleneck.TOKENS
    chain = [("r0", "")] + [(f"r{number}", f"r{number - 1}") for number in range(1, 10)]
    nights.write("id,parent,prompt\n" + "".join(f"{row},{parent},x\n" for row, parent in chain))
    found = plan(nights, concurrency=100).time
    assert (found.seconds, found.bottleneck) == (120, Bottleneck.CHAIN)


def test_what_runs_found_out_of_a_limit_is_reckoned_with_where_none_is_declared(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, rpm=60, quota_headers="ietf", latency=0.1))
    nights.rows(100)
    assert nights.run(concurrency=50, limit=10).rate_limit.stated == 60
    found = plan(nights, concurrency=50, due=NOW + timedelta(seconds=60))
    assert found.time.seconds == pytest.approx(90, rel=0.05)
    assert (found.time.bottleneck, found.time.limit_rpm) == (Bottleneck.FOUND, 60)
    assert found.deadline is not None
    assert (found.deadline.met, found.deadline.possible) == (False, False), "it is not ours to raise"
    assert planning._bound(jobs.resolve(str(nights.manifest), {}), found.time) == (
        "the endpoint's own, 60 requests a minute as runs here found out"
    )
    assert plan(nights, concurrency=50, rpm=30).time.bottleneck is Bottleneck.RATE
    assert plan(nights, concurrency=1).time.bottleneck is Bottleneck.CONCURRENCY


def test_what_would_meet_a_deadline_meets_it(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(1000)
    due = NOW + timedelta(minutes=10)
    found = plan(nights, due=due, concurrency=8, rpm=60)
    assert found.deadline is not None
    assert (found.deadline.met, found.deadline.possible, found.exit_status) == (False, True, 1)
    assert found.deadline.concurrency
    assert found.deadline.starts
    met = plan(nights, due=due, concurrency=found.deadline.concurrency, rpm=found.deadline.starts)
    assert met.deadline is not None
    assert (met.deadline.met, met.exit_status) == (True, 0)
    never = plan(nights, due=NOW + timedelta(seconds=5)).deadline
    assert never is not None
    assert (never.met, never.possible) == (False, False)


def test_a_moment_to_come_is_told_by_the_clock_that_will_hang_there_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        evening = datetime(2027, 3, 27, 20, 30, tzinfo=UTC).astimezone()
        morning = deadline.parse("07:00", evening)
        assert morning - evening == timedelta(hours=8, minutes=30)
        assert planning._when(morning.isoformat(), evening) == "07:00 on 2027-03-28"
        assert planning._when(evening.isoformat(), evening) == "21:30"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("output", ["file", "file/run"])
def test_a_directory_that_cannot_be_made_is_told_as_the_run_would(memory: Path, output: str) -> None:
    nights = Nights(memory)
    nights.rows(1)
    (memory / "file").touch()
    with pytest.raises(InputError, match=r"file is a file; choose another run directory with -o\Z"):
        plan(nights, output=str(memory / output))


# As it is typed


@pytest.fixture
def typed(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(memory)
    (memory / "p.csv").write_text(
        "id,prompt\n" + "".join(f"r{number},x {number}\n" for number in range(1000))
    )
    return memory


def test_a_plan_says_what_a_dry_run_says_and_the_command_that_does_it(
    typed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["plan", "p.csv", "--deadline=07:00", "-c", "64", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shlex.join(found.pop("next")[1:]).endswith("run p.csv -c 64")
    fields = {field.encode_name for field in msgspec.structs.fields(outlook.Preview)}
    assert found.keys() == fields, "none is left out, whatever it says"
    assert cli(["run", "-qn", "p.csv", "-c", "64"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].endswith("run -q p.csv -c 64")
    assert cli(["plan", "p.csv", "-c", "64"]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == said.splitlines()[:-1]
    assert not (typed / "runs").exists()


def test_a_plan_that_cannot_be_done_says_what_would_do(
    typed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=10)).isoformat(timespec="seconds")
    flags = ["--budget", "9", "--rpm", "60", "--ipm", "70", "--deadline", soon]
    assert cli(["plan", "p.csv", *flags]) == 1, typed
    out = capsys.readouterr().out
    assert "$9.00: not enough, about 12" in out
    assert "would do" in out
    assert "not met, done about" in out
    for flag in ("--concurrency", "--rpm", "--ipm"):
        assert f"{flag} " in out[out.index("deadline") : out.index("disk")]


@pytest.mark.parametrize("when", ["soon", "2020-01-01T00:00"])
def test_a_deadline_that_is_none_is_bad_input(
    when: str, typed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["plan", "p.csv", "--deadline", when]) == 2, typed
    assert "--deadline: " in capsys.readouterr().err


def test_no_key_is_shown_in_the_command(
    typed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_API_KEY", "cdt_verysecretindeed")
    assert cli(["plan", "p.csv", "--system", "cdt_verysecretindeed"]) == 0, typed
    assert "verysecret" not in capsys.readouterr().out
