"""Rehearsals against the runs they foretell: the same dice, the same night; other dice, about the same."""

from __future__ import annotations

import io
import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from batchgen import job as jobs
from batchgen import rehearsal, runner
from batchgen.cli import cli
from batchgen.conditions import Origin, Wishes
from batchgen.errors import DamagedError, InputError, StorageError
from batchgen.job import LEDGER
from batchgen.ledger import Ledger, Reader
from batchgen.rehearsal import rehearse
from batchgen.simulator import Faults, Settings
from batchgen.spread import Bottleneck
from tests.nights import Nights
from tests.test_simulator import served_simulator

if TYPE_CHECKING:
    from batchgen.job import Job
    from batchgen.spread import Rehearsed

pytestmark = pytest.mark.virtual_time

WALL = 1_800_000_000.0
EVERY = {name: 0.012 for name in Faults.__struct_fields__ if name != "daily_quota"}


def simulated(nights: Nights, settings: dict[str, Any], **values: object) -> Job:
    return jobs.resolve(
        str(nights.manifest),
        {"provider": "simulator", "output": str(nights.directory), "simulator": settings, **values},
    )


def rehearsed(job: Job, *, nights: int = 1, wishes: Wishes | None = None) -> Rehearsed:
    return rehearse(job, wishes or Wishes(), nights=nights, wall=lambda: WALL)


def told(found: Rehearsed) -> tuple[object, ...]:
    """What one rehearsed night came to."""
    numbers = (found.requests, found.limited, found.succeeded, found.failed)
    stop = found.stop and (found.stop.reason, found.stop.message)
    return (
        *(number.p50 for number in numbers),
        f"{found.cost_usd.p50:.4f}",
        round(found.seconds.p50, 6),
        stop,
    )


def came(nights: Nights, summary: runner.Summary) -> tuple[object, ...]:
    """What a run with real workers came to, told in the same way."""
    stop = summary.stopped and (summary.stopped.reason, summary.stopped.message)
    return (
        summary.requests,
        nights.endpoint.account.rate_limited,
        summary.bought,
        summary.failed,
        f"{summary.run_usd:.4f}",
        round(nights._now, 6),
        stop,
    )


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"faults": EVERY}, {"concurrency": 24}),
        ({"rpm": 90.0, "quota_headers": "openai"}, {"concurrency": 64}),
        ({"rpm": 60.0, "faults": {"overloaded": 0.05}}, {"concurrency": 32, "rpm": 80.0}),
        ({"rpm": 600.0}, {"concurrency": 32, "rpm": 60.0}),
        ({}, {"concurrency": 16, "tpm": 60_000.0}),
        ({}, {"concurrency": 16, "budget": 5.0}),
        ({"faults": {"daily_quota": 0.02}}, {"concurrency": 16}),
        ({"faults": {"daily_quota": 0.01}}, {"concurrency": 16, "on_daily_quota": "wait"}),
        ({"faults": {"no_image": 0.9}}, {"concurrency": 8}),
        ({"faults": {"slow": 0.04}}, {"concurrency": 30, "hedge": True}),
        (
            {"latencies": {"gemini-3.1-flash-image-preview": {"median": 3.0, "spread": 1.5}}},
            {"timeout": 20.0},
        ),
    ],
    ids=[
        "faults",
        "quota",
        "too fast",
        "paced",
        "tokens",
        "budget",
        "day",
        "waits",
        "hopeless",
        "hedged",
        "slow",
    ],
)
def test_with_the_same_dice_a_rehearsal_is_the_run(
    memory: Path, settings: dict[str, Any], values: dict[str, Any]
) -> None:
    settings = {"paint": False, **settings}
    nights = Nights(memory, msgspec.convert(settings, Settings))
    nights.rows(200 if values == {"concurrency": 24} else 110)
    found = rehearsed(simulated(nights, settings, **values))
    assert not nights.directory.exists()
    assert told(found) == came(nights, nights.run(seed=0, **values))


def test_with_other_dice_a_rehearsal_is_about_the_run(memory: Path) -> None:
    settings = {"paint": False, "rpm": 150.0, "faults": {"overloaded": 0.03, "no_image": 0.02}}
    nights = Nights(memory, msgspec.convert({**settings, "seed": 77}, Settings))
    nights.rows(400)
    found = rehearsed(simulated(nights, settings, concurrency=40, rpm=170.0), nights=3)
    summary = nights.run(seed=5, concurrency=40, rpm=170.0)
    assert found.seconds.p50 == pytest.approx(nights._now, rel=0.05)
    assert found.requests.p50 == pytest.approx(summary.requests, rel=0.05)
    assert found.limited.p50 == pytest.approx(nights.endpoint.account.rate_limited, rel=0.05, abs=8)
    assert float(found.cost_usd.p50) == pytest.approx(float(summary.run_usd), rel=0.05)
    assert found.seconds.p5 <= found.seconds.p50 <= found.seconds.p95


def test_a_socket_takes_as_many_requests_and_as_much_money(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_API_KEY", "any")
    faults = {"overloaded": 0.04, "no_image": 0.03, "truncated": 0.02, "corrupt": 0.02}
    nights = Nights(memory)
    nights.rows(100)
    values = {"provider": "core-today", "output": str(nights.directory), "concurrency": 16}
    found = rehearsed(jobs.resolve(str(nights.manifest), values), wishes=Wishes(faults=faults))
    with served_simulator(faults=faults) as url:
        summary = runner.run(jobs.resolve(str(nights.manifest), {**values, "base_url": url}))
    assert (found.requests.p50, found.succeeded.p50) == (summary.requests, summary.bought)
    assert float(found.cost_usd.p50) == pytest.approx(float(summary.run_usd), abs=1e-3)


def test_rows_that_continue_others_are_rehearsed_too(memory: Path) -> None:
    settings = {"paint": False, "faults": {"lost_link": 0.1, "overloaded": 0.1}}
    nights = Nights(memory, msgspec.convert(settings, Settings))
    rows = [f"r{n},picture {n},{f'r{n // 3}' if n % 3 else ''}\n" for n in range(120)]
    nights.write("id,prompt,parent\n" + "".join(rows))
    found = rehearsed(simulated(nights, settings, concurrency=16), nights=1)
    summary = nights.run(concurrency=16)
    # A picture that goes along is part of what the dice are thrown for, and nobody has painted it here.
    assert (found.requests.p50, found.succeeded.p50) == pytest.approx(
        (summary.requests, summary.bought), abs=15
    )
    assert found.succeeded.p50 + found.failed.p50 == 120
    assert found.failed.p50 > 0


def state(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_what_is_done_is_not_rehearsed_and_the_run_directory_stays_as_it_is(memory: Path) -> None:
    settings = {"paint": False}
    nights = Nights(memory, msgspec.convert(settings, Settings))
    nights.rows(60)
    nights.run(limit=20)
    before = state(memory)
    found = rehearsed(simulated(nights, settings, again=False))
    assert (found.rows, found.succeeded.p50, found.requests.p50) == (40, 40, 40)
    assert rehearsed(simulated(nights, settings, again=True)).rows == 60
    assert state(memory) == before


def test_what_a_dead_run_left_in_the_log_is_read_without_touching_it(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(30)
    nights.run(limit=10)
    dead = memory / "dead"
    dead.mkdir()
    with closing(Ledger(nights.directory / LEDGER)) as ledger, closing(Reader(ledger.path)):
        ledger.take_up_again(_keys(nights))
        for suffix in ("", "-wal"):
            shutil.copy(f"{ledger.path}{suffix}", dead)
    before = state(dead)
    assert before[str(dead / f"{LEDGER}-wal")][0]
    job = msgspec.structs.replace(simulated(nights, {}), output=str(dead))
    assert rehearsed(job).rows == 30
    assert state(dead) == before


def _keys(nights: Nights) -> list[str]:
    return [row["task_key"] for row in nights.table()]


def test_while_a_run_is_at_work_its_ledger_is_copied_as_it_stands(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(30)
    found: list[Rehearsed] = []

    def look(progress: object) -> None:
        if not found:
            found.append(_apart(simulated(nights, {"paint": False})))

    nights.run(on_progress=look, concurrency=4)
    assert 0 < found[0].rows <= 30


def _apart(job: Job) -> Rehearsed:
    """A rehearsal has a loop of its own: in a thread of its own, for a test inside another."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(rehearsed, job).result()


def test_large_nights_are_spread_by_a_sample(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"paint": False, "faults": {"overloaded": 0.1}}
    nights = Nights(memory, msgspec.convert(settings, Settings))
    nights.rows(160)
    job = simulated(nights, settings, concurrency=8)
    once = rehearsed(job)
    monkeypatch.setattr(rehearsal, "_SPREAD", 128)
    found = rehearsed(job, nights=5)
    assert (found.nights, found.whole, found.sample) == (5, 1, 32)
    assert found.requests.p5 <= once.requests.p50 <= found.requests.p95
    assert 0 < found.requests.p95 - found.requests.p5 < 70
    assert found.seconds.p50 == pytest.approx(once.seconds.p50, rel=0.1)
    assert found == rehearsed(job, nights=5)


def test_without_a_run_all_that_is_known_of_the_night_is_the_simulator(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(20)
    values = {"output": str(nights.directory), "provider": "core-today"}
    found = rehearsed(jobs.resolve(str(nights.manifest), values))
    assert {one.name: (one.value, one.origin) for one in found.assumptions} == {
        "quota": (None, Origin.USUAL),
        "latency": (12.0, Origin.USUAL),
    }


def test_a_finished_night_tells_what_the_next_one_will_be_like(memory: Path) -> None:
    model = "gemini-3.1-flash-image-preview"
    settings = {"latencies": {model: {"median": 4.0, "spread": 0.2}}, "faults": {"overloaded": 0.1}}
    nights = Nights(memory, msgspec.convert({"paint": False, **settings}, Settings))
    nights.rows(200)
    nights.run(limit=100, concurrency=16)
    found = rehearsed(simulated(nights, {}, concurrency=16))
    known = {one.name: one for one in found.assumptions}
    assert found.rows == 100
    assert {one.origin for one in found.assumptions if one.value is not None} == {Origin.HISTORY}
    assert known["latency"].value == pytest.approx(4.0, rel=0.1)
    assert known["overloaded"].value == pytest.approx(0.1, abs=0.07)
    began = nights._now
    summary = nights.run(concurrency=16)
    assert found.seconds.p50 == pytest.approx(nights._now - began, rel=0.15)
    assert float(found.cost_usd.p50) == pytest.approx(float(summary.run_usd), rel=0.05)


@pytest.mark.parametrize(
    ("concurrency", "quota", "bottleneck", "fitting"),
    [
        (4, None, Bottleneck.CONCURRENCY, None),
        (4, 60.0, Bottleneck.CONCURRENCY, 15),
        (15, 20.0, Bottleneck.QUOTA, 5),
    ],
)
def test_what_holds_a_night_up_is_told(
    memory: Path, concurrency: int, quota: float | None, bottleneck: Bottleneck, fitting: int | None
) -> None:
    nights = Nights(memory)
    nights.rows(160)
    job = simulated(nights, {"paint": False}, concurrency=concurrency)
    found = rehearsed(job, wishes=Wishes(quota=quota))
    assert found.bottleneck is bottleneck
    assert found.fitting == pytest.approx(fitting, abs=2) if fitting else found.fitting is None
    assert found.slower is None or quota is not None


def test_an_interrupt_ends_a_rehearsal_and_leaves_nothing(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(memory))
    nights = Nights(memory)
    nights.rows(600)
    with pytest.raises(KeyboardInterrupt):
        rehearse(
            simulated(nights, {}),
            Wishes(),
            nights=2,
            progress=lambda _: signal.raise_signal(signal.SIGINT),
            wall=lambda: WALL,
        )
    assert [path.name for path in memory.iterdir()] == ["prompts.csv"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quota": 0.0}, "--quota"),
        ({"latency": -1.0}, "--latency"),
        ({"latency": float("nan")}, "--latency"),
        ({"faults": {"overlaoded": 0.1}}, "did you mean 'overloaded'"),
    ],
)
def test_wishes_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Wishes(**given)


def test_a_full_disk_under_a_rehearsal_is_told_with_the_way_to_another() -> None:
    for cause in (OSError(28, "No space left on device"), StorageError("/scratch/night-0.db: disk is full")):
        with pytest.raises(StorageError, match=r"^/scratch.*TMPDIR$"), rehearsal._explained("/scratch"):
            raise cause


def test_a_lost_ledger_is_said_and_a_damaged_one_by_its_own_name(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(3)
    nights.run()
    ledger = nights.directory / LEDGER
    ledger.write_bytes(b"x" * 4096)
    with pytest.raises(DamagedError, match=str(ledger)):
        rehearsed(simulated(nights, {}))
    ledger.unlink()
    with pytest.raises(DamagedError, match="the ledger is gone"):
        rehearsed(simulated(nights, {}))


@pytest.fixture
def command(memory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(memory)
    (memory / "p.csv").write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(200)))

    def typed(*arguments: str) -> tuple[int, str, str]:
        status = cli(["plan", "p.csv", "--provider", "simulator", "--rehearse", "--seeds", "3", *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return typed


def test_the_terminal_says_what_is_assumed_and_what_came_of_it(command: Any) -> None:
    status, out, err = command("-c", "32", "--quota", "60", "--latency", "9", "--fault", "no_image=0.1")
    assert (status, err) == (0, "")
    for text in (
        "rehearsed 3 times",
        "200 rows · done in",
        "answered 429",
        "a quota of 60 requests a minute, as given",
        "9.0 s an answer in the median, as given",
        "no_image: 10.00% of the requests, as given",
        "--rpm 60",
    ):
        assert text in out


def test_what_ends_a_night_early_is_told(command: Any) -> None:
    status, out, _ = command("--budget", "3")
    assert status == 1, "the plan says so, too"
    assert "3 of 3 nights: budget" in out
    assert "the budget of $3.00 has no room" in out


def test_json_has_money_as_strings(command: Any) -> None:
    status, out, _ = command("--json", "--limit", "20")
    told = json.loads(out)
    assert told["next"][1:] == ["run", "p.csv", "--provider", "simulator", "--limit", "20"]
    found = told["rehearsal"]
    assert (status, found["rows"], found["nights"], found["whole"]) == (0, 20, 3, 3)
    assert Decimal(found["cost_usd"]["p50"]) > 1
    assert found["seconds"]["p5"] <= found["seconds"]["p95"]


@pytest.mark.parametrize("fault", ["overloaded=often", "overloaded=1.5", "nonsense=0.1"])
def test_a_fault_that_cannot_be_is_bad_input(command: Any, fault: str) -> None:
    status, out, err = command("--fault", fault)
    assert (status, out) == (2, "")
    assert "fault" in err


def test_what_only_a_rehearsal_heeds_is_refused_without_one() -> None:
    assert cli(["plan", "p.csv", "--quota", "5"]) == 2


def test_a_table_that_can_be_read_only_once_is_planned_and_not_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"prompt\nx\n")))
    assert cli(["plan", "-", "--provider", "simulator", "--rehearse"]) == 2
    assert "standard input" in capsys.readouterr().err
    assert cli(["plan", "-", "--provider", "simulator"]) == 0
    assert "1 new" in capsys.readouterr().out


def test_where_all_is_bought_there_is_nothing_to_rehearse(command: Any) -> None:
    toml = "[simulator]\nlatency = 0.0\npaint = false\n"
    Path("j.toml").write_text(f'manifest = "p.csv"\nprovider = "simulator"\noutput = "o"\nlimit = 3\n{toml}')
    assert cli(["run", "j.toml", "-q"]) == 0
    _, out, _ = command("-o", "o", "--limit", "3")
    assert "nothing is left to buy" in out
