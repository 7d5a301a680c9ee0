"""What `status` makes of a run: the arithmetic at any moment, and how a terminal is drawn on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import overview
from batchgen.cli import cli
from batchgen.cli.watching import _fitting
from batchgen.ledger import LATEST, Latest, Ledger, Moment, Onlooker, Run
from batchgen.lock import RunLock
from batchgen.overview import Overview, Phase, Told, summed
from batchgen.records import ErrorClass, Image, Limit, Outcome, Status, Usage
from tests.nights import inline

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.blocks
ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "batchgen"]
SECOND = 1_000_000
BEGAN = 1_800_000_000 * SECOND
NOTHING = overview._NOTHING
PICTURE = Image(file_name="a.png", sha256="0", mime="image/png", width=8, height=8, bytes=9)
GOOD = Outcome(images=(PICTURE,), cost_usd=Decimal("0.07"), usage=Usage(total_tokens=1143, image_tokens=1120))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_run(**values: Any) -> Run:
    run = Run(
        id=1,
        started_at=BEGAN,
        ended_at=None,
        ended=None,
        pid=7,
        host="here",
        provider="p",
        simulated=False,
        tasks=1000,
        command="batchgen run night.toml -o x",
    )
    return msgspec.structs.replace(run, **values)


def a_moment(run: Run | None = None, latest: tuple[Latest, ...] = (), **tasks: int) -> Moment:
    totals = msgspec.structs.replace(NOTHING.totals, tasks=tasks)
    good = sum(one.good for one in latest)
    return msgspec.structs.replace(
        NOTHING,
        totals=totals,
        run=run or a_run(),
        latest=latest,
        answered={"": good, "rate": 3, "transient": 2},
    )


def seen(moment: Moment, told: Told = Told(), *, after: float = 600, held: bool = True) -> Overview:  # noqa: B008
    return summed("x", moment, told, held=held, now=BEGAN + int(after * SECOND), host="here")


def answers(count: int, *, every: float, until: float = 600) -> tuple[Latest, ...]:
    ends = (BEGAN + int((until - every * number) * SECOND) for number in range(count))
    return tuple(Latest(end - 12 * SECOND, end, good=True) for end in ends)


def test_pace_and_time_left_are_those_of_the_last_five_minutes() -> None:
    found = seen(a_moment(latest=answers(100, every=2), succeeded=400, failed=10, pending=5))
    assert (found.done, found.failed, found.left) == (400, 10, 590)
    assert found.rate_now == pytest.approx(100 / 5)
    assert found.rate_run == pytest.approx(100 / 10)
    assert found.eta_s == pytest.approx(590 / 20 * 60)
    assert found.ends_at == BEGAN + 600 * SECOND + int(590 / 20 * 60 * SECOND)
    assert (found.rate_limited, found.retried) == (3, 2)
    assert found.phase is Phase.RUNNING


@pytest.mark.parametrize("flying", [0, 1200])
def test_where_more_was_answered_than_is_looked_at_pace_is_that_of_what_is(flying: int) -> None:
    flight = tuple(Latest(BEGAN + 600 * SECOND - n, None, good=False) for n in range(flying))
    found = seen(a_moment(latest=(*flight, *answers(LATEST, every=0.05))))
    assert found.rate_now == pytest.approx(60 / 0.05, rel=0.01)


@pytest.mark.parametrize(
    ("run", "held", "phase"),
    [
        (a_run(), True, Phase.RUNNING),
        (a_run(), False, Phase.KILLED),
        (a_run(host="there"), False, Phase.ELSEWHERE),
        (a_run(host="there"), True, Phase.RUNNING),
        (a_run(ended_at=BEGAN + 1, ended="done"), False, Phase.ENDED),
        (a_run(ended_at=BEGAN + 1, ended="done"), True, Phase.BUSY),
    ],
)
def test_the_lock_tells_a_run_at_work_from_a_dead_one(run: Run, held: bool, phase: Phase) -> None:
    assert seen(a_moment(run), held=held).phase is phase


@pytest.mark.parametrize(
    ("ended", "tasks", "command"),
    [
        ("done", {"succeeded": 1000}, "batchgen report x"),
        ("done", {"succeeded": 990, "failed": 10}, "batchgen run night.toml -o x --retry-failed"),
        ("budget", {"succeeded": 990}, "batchgen run night.toml -o x"),
        ("done", {"succeeded": 990}, "batchgen run night.toml -o x"),
        (None, {"succeeded": 990}, "batchgen run night.toml -o x"),
    ],
)
def test_the_next_command_follows_from_how_a_run_ended(
    ended: str | None, tasks: dict[str, int], command: str
) -> None:
    run = a_run(ended=ended, ended_at=None if ended is None else BEGAN + 1)
    found = seen(a_moment(run, (), **tasks), held=False)
    assert found.next == command
    assert (found.eta_s, found.rate_now) == (None, None)


def test_the_report_is_named_as_the_program_was_called() -> None:
    run = a_run(ended="done", ended_at=BEGAN + 1, command="python -m batchgen run runs -o x")
    assert seen(a_moment(run, (), succeeded=1000), held=False).next == "python -m batchgen report x"


def test_what_a_command_cannot_say_itself_stays_a_note_behind_the_next_one() -> None:
    run = a_run(ended="done", ended_at=BEGAN + 1, command="batchgen run -- -  # with the 'same' table")
    found = seen(a_moment(run, (), succeeded=990, failed=10), held=False)
    assert found.next == "batchgen run --retry-failed -- -  # with the 'same' table"


def test_a_limited_run_is_about_its_first_rows_and_one_about_chosen_rows_tells_no_end() -> None:
    moment = a_moment(latest=answers(100, every=2), succeeded=40)
    assert seen(moment, Told(limit=100)).left == 60
    chosen = seen(moment, Told(only="some.csv"))
    assert (chosen.left, chosen.eta_s) == (None, None)
    assert seen(moment, Told(budget=12.5)).budget_usd == Decimal("12.5")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.none() | st.integers(-5, 5), st.booleans()), max_size=6),
    st.integers(-5, 5),
    st.none() | st.integers(-5, 5),
    st.booleans(),
)
def test_clocks_that_disagree_make_no_nonsense(
    latest: list[tuple[int, int | None, bool]], now: int, ended: int | None, held: bool
) -> None:
    around = tuple(
        Latest(BEGAN + began, None if end is None else BEGAN + end, good and end is not None)
        for began, end, good in latest
    )
    run = a_run(ended_at=None if ended is None else BEGAN + ended)
    found = seen(a_moment(run, around, succeeded=3), after=now / SECOND, held=held)
    for number in (found.rate_now, found.rate_run, found.eta_s):
        assert number is None or number >= 0


# What is told


async def bought(
    path: Path, *outcomes: Outcome, message: str = "\x1b]0;evil\x07 no\nnext: rm -rf /"
) -> Ledger:
    """A ledger with a request in flight behind so many that were answered."""
    ledger = Ledger(path, blocking=inline)
    now = time.time_ns() // 1000
    ledger.begin(
        now=now - 60 * SECOND, provider="p", simulated=False, tasks=10, version="0", in_flight=8, command="go"
    )
    ledger.note_limit("https://x", "m", Limit(felt=870.2), now=now)
    for number, outcome in enumerate((*outcomes, None)):
        key = f"k{number}\x1b[2J"
        attempt = ledger.start(
            key=key, row_id=key, stem=str(number), model="m", provider="p", reserved=Decimal("0.1"), now=now
        )
        await ledger.submitted(attempt, now=now)
        if outcome is not None:
            status = Status.SUCCEEDED if outcome.kind is None else Status.REFUSED
            told = outcome if outcome.kind is None else msgspec.structs.replace(outcome, message=message)
            await ledger.settle(attempt, told, status=status, counts=True, in_credits=None, now=now)
    return ledger


@pytest.fixture
def running(folder: Path) -> Iterator[Ledger]:
    run = folder / "runs/night"
    run.mkdir(parents=True)
    (run / "job.json").write_text('{"manifest":"p.csv","budget":5.0}')
    refused = Outcome(kind=ErrorClass.BLOCKED, cost_usd=Decimal("0.01"))
    with RunLock(run), closing(anyio.run(bought, run / "ledger.db", GOOD, GOOD, refused)) as ledger:
        yield ledger


def test_status_tells_money_pace_and_failures_in_words_and_json(
    running: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["status", "runs/night"]) == 0
    out = capsys.readouterr().out
    assert "runs/night: 2 of 10 pictures (1 pending, 1 refused), 1 in flight" in out
    assert "running (pid" in out
    assert re.search(r"pace      2\.\d a minute now, 2\.\d over the run, 3 min \d+ s left, until ", out)
    assert "  limit     about 870 requests a minute, as its answers 429 tell\n" in out
    assert "$0.1500, $0.0100 of it bought no picture" in out
    assert "$0.1500 of $5.00, $0.1000 reserved in flight" in out
    assert r"1 x blocked: row k2\x1b[2J: \x1b]0;evil\x07 no next: rm -rf /" in out
    assert "\x1b" not in out
    assert cli(["status", "runs/night", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {*Overview.__struct_fields__, "blank", "near_duplicates"}
    assert found["blank"] is found["near_duplicates"] is None, "nobody has looked, and the names are the same"
    assert (found["phase"], found["in_flight"], found["reserved_usd"]) == ("running", 1, "0.100000000")
    assert (found["failures"][0]["kind"], found["failures"][0]["count"]) == ("blocked", 1)
    assert found["run"]["command"] == "go"
    assert found["rate_limit"] == {"felt": 870.2, "stated": None}


def test_a_watch_without_a_terminal_is_a_line_an_interval_until_the_run_has_ended(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    with RunLock(run), closing(anyio.run(bought, run / "ledger.db", GOOD)) as ledger:
        watching = subprocess.Popen(
            [*COMMAND, "status", "run", "--watch", "--every", "0.1"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(2)]
        ledger.end(now=time.time_ns() // 1000, reason="done")
    lines += watching.stdout.readlines()
    assert watching.wait(60) == 0
    watching.stdout.close()
    assert re.match(r"\d\d:\d\d:\d\d run: running, 1 of 10, 1 in flight, \$0\.0700, 1\.\d/min, ", lines[1])
    assert "run: ended, 1 of 10" in lines[-1]
    assert "\x1b" not in "".join(lines)


def drawn(
    arguments: list[str], *, size: tuple[int, int] = (24, 60), encoding: str = "utf-8"
) -> tuple[bytes, int]:
    """What a terminal gets, and the exit status."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LINES": str(size[0]), "COLUMNS": str(size[1])}
    env |= {"PYTHONIOENCODING": encoding}
    with subprocess.Popen([*COMMAND, *arguments], stdout=theirs, stderr=theirs, env=env) as watching:
        os.close(theirs)
        data = b""
        try:
            while piece := os.read(ours, 65536):
                data += piece
                if data.count(b"\x1b[J") == 2 and b"killed" not in data:
                    watching.send_signal(signal.SIGINT)
        except OSError:
            pass  # how Linux says that nobody writes any more
    os.close(ours)
    return data, watching.returncode


def test_a_terminal_is_drawn_over_in_place_cut_to_its_size_and_left_as_it_is(running: Ledger) -> None:
    data, status = drawn(["status", "runs/night", "--watch", "--every", "0.1"], size=(6, 40))
    assert status == 130
    assert running.run == 1
    steering = re.findall(rb"\x1b\[[0-9;?]*[A-Za-z]", data)
    assert set(steering) == {b"\x1b[H", b"\x1b[K", b"\x1b[J"}
    assert b"?1049" not in data, "no other screen: the last drawing stays"
    last = data.rsplit(b"\x1b[H", maxsplit=1)[1].decode().replace("\x1b[K", "").replace("\x1b[J", "")
    lines = last.replace("\r", "").splitlines()
    assert len(lines) == 5
    assert all(len(line) <= 40 for line in lines)
    assert lines[-1].endswith("more lines")


def test_a_terminal_without_a_character_has_it_spelt_out(folder: Path) -> None:
    (folder / "run").mkdir()
    anyio.run(bought, folder / "run/ledger.db", GOOD).close()
    data, status = drawn(["status", "run", "--watch"], size=(4, 40), encoding="ascii")
    assert (status, b"\\u2026 7 more lines" in data) == (0, True), data.decode()


def test_a_watch_of_a_run_that_was_killed_ends_by_itself(folder: Path) -> None:
    (folder / "run").mkdir()
    anyio.run(bought, folder / "run/ledger.db", GOOD).close()
    data, status = drawn(["status", "run", "--watch"], size=(24, 200))
    assert status == 0
    assert b"killed; the same command goes on" in data
    assert b"up to $0.1000 more" in data
    assert b"next: go" in data


def test_a_run_that_reads_its_manifest_is_told_as_starting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run").mkdir()
    with RunLock(folder / "run"):
        assert cli(["status", "run"]) == 0
    assert capsys.readouterr().out == (
        "run: a run is starting; it reads its manifest\nnext: batchgen status run --watch\n"
    )


def test_what_a_run_was_told_must_be_readable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    anyio.run(bought, folder / "run/ledger.db", GOOD).close()
    (folder / "run/job.json").write_text("{")
    assert cli(["status", "run"]) == 2
    assert "run/job.json" in capsys.readouterr().err


def test_a_look_at_many_rows_reads_no_more_pages_than_one_at_few(folder: Path) -> None:
    steps = []
    for rows in (10, 5000):
        path = folder / str(rows) / "ledger.db"
        path.parent.mkdir()
        anyio.run(bought, path, GOOD).close()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany(
                "INSERT INTO tasks (key, id, stem, folded, status, model, provider) VALUES"
                " (?1, ?1, ?1, ?1, 'succeeded', 'm', 'p')",
                [(f"row {number}",) for number in range(rows)],
            )
            connection.executemany(
                "INSERT INTO attempts (key, run, started_at, submitted_at, settled_at, cost)"
                " VALUES (?, 0, 1, 1, 2, 3)",
                [(f"row {number}",) for number in range(rows)],
            )
        with closing(Onlooker(path)) as reader:
            taken: list[int] = []
            reader._connection.set_progress_handler(partial(taken.append, 1), 100)
            reader.moment()
            steps.append(len(taken))
    assert steps[1] < steps[0] + 300, steps


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        ("日本語", 4, "日本"),
        ("日本語", 5, "日本"),
        ("e\u0301e\u0301", 1, "e\u0301"),
    ],
)
def test_a_line_is_cut_by_what_it_takes_on_the_screen(text: str, columns: int, shown: str) -> None:
    assert _fitting(text, columns) == shown
