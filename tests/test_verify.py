"""Every row has its one picture and every picture its row, or it is said, named and mended."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen import results
from batchgen.cli import cli
from batchgen.errors import LockedError
from batchgen.imaging import Check
from batchgen.inspection import Kind
from batchgen.ledger import Audit, Ledger, Reader
from batchgen.lock import RunLock, is_held
from batchgen.simulator import Faults, Settings
from batchgen.verify import Report, verify
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchgen.ledger import Record
    from batchgen.progress import Progress

pytestmark = pytest.mark.blocks
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """A finished run whose pictures all differ."""
    nights = Nights(tmp_path_factory.mktemp("painted"), Settings(paint=True))
    nights.rows(8)
    assert nights.run().tasks == {"succeeded": 8}
    return nights


@pytest.fixture
def night(painted: Nights, memory: Path) -> Nights:
    """A copy of it to do harm to, with an endpoint that paints others."""
    nights = Nights(memory, Settings(paint=True, seed=1))
    shutil.copy(painted.manifest, nights.manifest)
    shutil.copytree(painted.directory, nights.directory)
    return nights


def picture(nights: Nights, row: int) -> Path:
    (found,) = (nights.directory / "images").glob(f"row-{row}.*")
    return found


def kinds(report: Report) -> dict[str, int]:
    return {kind: problem.count for kind, problem in report.problems.items()}


def found(report: Report, kind: Kind) -> list[tuple[str, str]]:
    return [(finding.id, finding.file) for finding in report.problems[kind].first]


def execute(nights: Nights, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(nights.directory / "ledger.db", isolation_level=None)) as connection:
        connection.execute(statement, values)


def test_a_run_as_it_ended_is_well(night: Nights) -> None:
    for check in Check:
        report = verify(night.directory, check=check)
        assert (report.problems, report.exit_status, report.pictures, report.live) == ({}, 0, 8, False)
        assert report.tasks == {"succeeded": 8}


def test_rows_that_have_no_picture_by_right_are_no_problem(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(refusal=0.5)))
    nights.rows(20)
    nights.run(limit=15)
    report = verify(nights.directory)
    assert (report.problems, report.exit_status) == ({}, 0)
    assert {"succeeded", "pending"} < set(report.tasks)


def test_a_lost_picture_is_named_put_back_and_bought_once_more(night: Nights) -> None:
    picture(night, 3).unlink()
    report = verify(night.directory)
    assert (kinds(report), report.exit_status, report.pictures) == ({"missing": 1}, 1, 7)
    assert found(report, Kind.MISSING)[0][0] == "row-3"
    assert 0 < report.again_usd < 1
    spent = verify(night.directory, repair=True)
    assert spent.problems["missing"].repaired == 1
    assert (spent.exit_status, spent.tasks) == (0, {"succeeded": 7, "pending": 1})
    assert verify(night.directory).exit_status == 0
    row = night.table()[3]
    assert (row["status"], row["file_name"], row["images"]) == ("pending", None, [])
    assert row["cost_usd"] > 0, "what it has cost stays in the account"
    before = night.table()
    summary = night.run()
    assert (summary.requests, summary.tasks) == (1, {"succeeded": 8})
    assert summary.spent_usd == sum(row["cost_usd"] for row in before) + summary.run_usd
    assert verify(night.directory).exit_status == 0


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), Kind.EDITED),
        (lambda path: path.write_bytes(path.read_bytes()[:-999]), Kind.EDITED),
        (lambda path: path.write_bytes(b""), Kind.EDITED),
        (lambda path: path.write_bytes(os.urandom(5000)), Kind.EDITED),
    ],
)
def test_an_edited_picture_is_set_aside_and_never_deleted(
    night: Nights, harm: Callable[[Path], object], kind: Kind
) -> None:
    path = picture(night, 5)
    harm(path)
    edited = path.read_bytes()
    assert kinds(verify(night.directory)) == {kind: 1}
    report = verify(night.directory, repair=True)
    assert (report.problems[kind].repaired, report.tasks["pending"]) == (1, 1)
    assert (night.directory / "corrupt" / path.name).read_bytes() == edited
    assert not path.exists()
    path.write_bytes(b"again")
    assert night.run().tasks == {"succeeded": 8}
    assert verify(night.directory).exit_status == 0


def test_a_copy_over_a_picture_is_told_with_the_row_it_belongs_to(night: Nights) -> None:
    shutil.copy(picture(night, 1), picture(night, 2))
    (finding,) = verify(night.directory).problems[Kind.EDITED].first
    assert (finding.id, finding.detail) == ("row-2", "a copy of the picture of row row-1")


@pytest.mark.parametrize("check", Check)
def test_a_recorded_picture_that_does_not_decode_is_no_picture(night: Nights, check: Check) -> None:
    path = picture(night, 0)
    damaged = path.read_bytes()[:-999]
    path.write_bytes(damaged)
    execute(
        night,
        "UPDATE tasks SET images = json_set(images, '$[0].sha256', ?) WHERE id = 'row-0'",
        sha256(damaged).hexdigest(),
    )
    (night.directory / "results.parquet").unlink()
    assert kinds(verify(night.directory, check=check)) == {"undecodable": 1, "table": 1}
    verify(night.directory, check=check, repair=True)
    assert night.run().requests == 1
    assert verify(night.directory).exit_status == 0


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_no_picture_and_is_not_followed(night: Nights, what: str) -> None:
    path = picture(night, 4)
    elsewhere = night.directory.parent / path.name
    path.rename(elsewhere)
    if what == "link":
        path.symlink_to(elsewhere)
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    report = verify(night.directory)
    assert kinds(report) == {"irregular": 1}
    assert verify(night.directory, repair=True).exit_status == 0
    assert night.run().tasks == {"succeeded": 8}
    assert elsewhere.is_file(), "what a link points to is nobody's business"
    assert verify(night.directory).exit_status == 0


def test_a_picture_that_cannot_be_read_is_named_and_never_given_up(night: Nights) -> None:
    images = night.directory / "images"
    images.rename(night.directory.parent / "moved")
    images.symlink_to(night.directory.parent / "moved")
    for repair in (False, True):
        report = verify(night.directory, repair=repair)
        assert kinds(report)["unreadable"] == 8
        assert (report.exit_status, report.tasks) == (1, {"succeeded": 8})
        assert "symbolic link" in report.problems[Kind.UNREADABLE].first[0].detail


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(8)), moved=st.sets(st.integers(0, 7), max_size=2), data=st.data())
def test_any_shuffle_of_pictures_is_undone_without_buying_one(
    painted: Nights,
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    moved: set[int],
    data: st.DataObject,
) -> None:
    nights = Nights(tmp_path_factory.mktemp("shuffled"))
    shutil.copytree(painted.directory, nights.directory)
    paths = [picture(nights, row) for row in range(8)]
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, order, strict=True):
        path.write_bytes(whole[content])
    for row in moved:
        target = data.draw(st.sampled_from(["images/other.jpg", "images/a/b/c.png", "corrupt/x.bin"]))
        place = nights.directory / f"{target}{row}"
        place.parent.mkdir(parents=True, exist_ok=True)
        paths[row].rename(place)
    changed = {row for row in range(8) if order[row] != row or row in moved}
    assert kinds(verify(nights.directory)).get(Kind.MISPLACED, 0) >= len(changed) - len(moved)
    report = verify(nights.directory, repair=True)
    assert report.exit_status == 0
    assert [path.read_bytes() for path in paths] == whole
    assert verify(nights.directory).problems == {}


def test_pictures_of_one_content_go_back_one_to_each_row(night: Nights) -> None:
    images = night.directory / "images"
    shutil.copy(picture(night, 0), picture(night, 1))
    execute(
        night,
        "UPDATE tasks SET images = json_set(images, '$[0].sha256', ?) WHERE id = 'row-1'",
        sha256(picture(night, 1).read_bytes()).hexdigest(),
    )
    paths = [picture(night, row) for row in range(2)]
    for number, path in enumerate(paths):
        path.rename(images / f"moved-{number}.jpg")
    report = verify(night.directory, repair=True)
    assert (report.problems[Kind.MISPLACED].count, report.exit_status) == (2, 0)
    assert all(path.is_file() for path in paths)


class Killed(BaseException):
    """What nothing catches: the process is gone."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, directory: Path) -> bool:
    """Whether a repair came as far as its so-many-th change, where it was killed."""
    left = step

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return call(*args, **kwargs)

        return change

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", counted(os.rename))
        for owner, name in ((Ledger, "put_back"), (Ledger, "recover"), (results, "write")):
            patched.setattr(owner, name, counted(getattr(owner, name)))
        try:
            verify(directory, repair=True)
        except Killed:
            return True
    return False


def test_a_repair_that_is_killed_anywhere_loses_no_picture_and_the_next_one_ends_it(
    night: Nights, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (picture(night, row) for row in range(3))
    whole = [path.read_bytes() for path in (first, second, third)]
    (memory / "x").write_bytes(whole[0])
    second.rename(first)
    third.rename(second)
    (memory / "x").rename(third)
    picture(night, 5).write_bytes(b"edited")
    copy, step = memory / "copy", 0
    while True:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(night.directory, copy)
        killed = killed_at(step, monkeypatch, copy)
        there = sorted(path.read_bytes() for path in copy.rglob("*.jpg"))
        assert there == sorted(path.read_bytes() for path in night.directory.rglob("*.jpg"))
        assert verify(copy, repair=True).exit_status == 0
        assert verify(copy).problems == {}
        assert [(copy / "images" / path.name).read_bytes() for path in (first, second, third)] == whole
        if not killed:
            break
        step += 1
    assert step == 1 + 4 + 3 + 1 + 1, (
        "recover, four files aside, three back, one row back to pending, the table"
    )


def test_files_that_belong_to_no_row_are_named_and_left_alone(night: Nights) -> None:
    images = night.directory / "images"
    (images / "notes.txt").write_text("mine")
    (images / "a").mkdir()
    shutil.copy(picture(night, 1), images / "a" / "stranger.jpg")
    (images / "row-2.gif").write_bytes(b"GIF89a")
    (images / ".DS_Store").write_bytes(b"the system's")
    os.close(os.open(os.fsencode(images) + b"/\xff\x1b[2J.jpg", os.O_CREAT | os.O_WRONLY))
    for repair in (False, True):
        report = verify(night.directory, repair=repair)
        assert kinds(report) == {"orphan": 4}
        assert report.exit_status == 1
        details = {finding.file: finding.detail for finding in report.problems[Kind.ORPHAN].first}
        assert "row row-2" in details["images/row-2.gif"]
    assert (images / "notes.txt").read_text() == "mine"


def test_temporary_files_of_a_dead_run_are_deleted_and_nothing_that_looks_like_them(night: Nights) -> None:
    images = night.directory / "images"
    (images / ".row-1.0.part").write_bytes(b"half")
    (images / "mine.part").write_bytes(b"whole")
    assert kinds(verify(night.directory)) == {"unfinished": 1, "orphan": 1}
    verify(night.directory, repair=True)
    assert [path.name for path in images.iterdir() if path.name.endswith(".part")] == ["mine.part"]


def test_pictures_of_rows_deleted_from_the_manifest_are_the_ledger_s_and_still_checked(night: Nights) -> None:
    night.rows(4)
    night.run()
    assert verify(night.directory).problems == {}
    picture(night, 7).unlink()
    assert kinds(verify(night.directory)) == {"missing": 1}


def test_a_lost_draft_costs_its_row_nothing(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=True, shape="S2", faults=Faults(draft=1.0)))
    nights.rows(2)
    nights.run()
    drafts = [path for path in (nights.directory / "drafts").rglob("*") if path.is_file()]
    assert drafts, "this shape sends interim pictures"
    drafts[0].unlink()
    assert kinds(verify(nights.directory)) == {"missing": 1}
    report = verify(nights.directory, repair=True)
    assert (report.exit_status, report.tasks) == (0, {"succeeded": 2})
    assert report.again_usd == 0
    assert verify(nights.directory).problems == {}
    assert nights.run().requests == 0


# What a dead run left


def unsettle(nights: Nights, row: str) -> None:
    """Take a row back to where a run is killed after its picture is on disk and before the ledger knows."""
    execute(
        nights,
        "UPDATE attempts SET settled_at = NULL, cost = NULL, billed = NULL, prompt_tokens = 0,"
        " text_tokens = 0, image_tokens = 0, total_tokens = 0 WHERE id ="
        " (SELECT max(attempts.id) FROM attempts JOIN tasks USING (key) WHERE tasks.id = ?)",
        row,
    )
    execute(
        nights,
        "UPDATE tasks SET status = 'pending', cost = NULL, wasted = NULL, billed = NULL, prompt_tokens = 0,"
        " text_tokens = 0, image_tokens = 0, total_tokens = 0 WHERE id = ?",
        row,
    )


def forget(nights: Nights, row: str) -> None:
    execute(nights, "UPDATE tasks SET images = NULL, attempts = 0, credits = NULL WHERE id = ?", row)


def test_a_picture_that_came_before_the_kill_is_not_bought_again(night: Nights) -> None:
    unsettle(night, "row-6")
    forget(night, "row-6")
    report = verify(night.directory)
    assert kinds(report) == {"unsettled": 1, "unrecorded": 1, "table": 1}
    assert found(report, Kind.UNRECORDED)[0][0] == "row-6"
    summary = night.run()
    assert (summary.requests, summary.tasks) == (0, {"succeeded": 8})
    assert summary.uncertain == 1, "what it cost is not known"
    assert 0 < summary.uncertain_usd < 1, "what was reserved for it stays in the account"
    row = night.table()[6]
    assert (row["status"], row["cost_usd"], row["usage_quality"]) == ("succeeded", None, "none")
    assert row["images"][0]["sha256"] == sha256(picture(night, 6).read_bytes()).hexdigest()
    assert verify(night.directory).problems == {}
    assert night.run().requests == 0


def test_a_repair_gives_a_row_the_picture_of_its_unsettled_request(night: Nights) -> None:
    unsettle(night, "row-6")
    forget(night, "row-6")
    report = verify(night.directory, repair=True)
    assert kinds(report) == {"unsettled": 1, "unrecorded": 1, "table": 1}
    assert (report.exit_status, report.tasks) == (0, {"succeeded": 8})
    assert verify(night.directory).problems == {}
    assert night.run().requests == 0


def test_a_budget_counts_a_picture_whose_cost_is_not_known(night: Nights) -> None:
    unsettle(night, "row-6")
    forget(night, "row-6")
    night.run()
    with closing(Reader(night.directory / "ledger.db")) as reader:
        totals = reader.totals()
    night.rows(9)
    summary = night.run(budget=float(totals.cost_usd + totals.uncertain_usd) + 0.001)
    assert (summary.exit_status, summary.requests) == (3, 0)


@pytest.mark.parametrize("new_came", [False, True])
def test_with_again_the_old_picture_is_never_taken_for_the_new_one(night: Nights, *, new_came: bool) -> None:
    old = picture(night, 2).read_bytes()
    execute(
        night,
        "INSERT INTO attempts (key, run, started_at, submitted_at, reserved) SELECT key, 1, 1, 1, 99"
        " FROM tasks WHERE id = 'row-2'",
    )
    execute(night, "UPDATE tasks SET status = 'pending' WHERE id = 'row-2'")
    if new_came:
        shutil.copy(picture(night, 3), picture(night, 2))
    summary = night.run()
    assert (summary.requests, summary.tasks) == (0 if new_came else 1, {"succeeded": 8})
    assert picture(night, 2).read_bytes() != old
    assert verify(night.directory).problems == {}


def test_an_old_picture_of_a_row_that_was_refused_since_is_not_given_to_it(night: Nights) -> None:
    execute(
        night,
        "INSERT INTO attempts (key, run, started_at, submitted_at, reserved) SELECT key, 1, 1, 1, 99"
        " FROM tasks WHERE id = 'row-2'",
    )
    execute(night, "UPDATE tasks SET status = 'pending', images = NULL WHERE id = 'row-2'")
    assert Kind.UNRECORDED not in verify(night.directory).problems
    assert night.run().requests == 1


def test_half_a_picture_is_given_to_nobody(night: Nights) -> None:
    unsettle(night, "row-6")
    forget(night, "row-6")
    path = picture(night, 6)
    path.write_bytes(path.read_bytes()[:-500])
    assert Kind.UNRECORDED not in verify(night.directory).problems
    assert night.run().requests == 1
    assert verify(night.directory).problems == {}


def test_a_process_that_dies_between_picture_and_ledger_has_bought_it_for_good(memory: Path) -> None:
    (memory / "p.csv").write_text("id,prompt\n" + "".join(f"r{n},p{n}\n" for n in range(12)))
    (memory / "n.toml").write_text(
        'manifest = "p.csv"\nprovider = "simulator"\noutput = "run"\nconcurrency = 3\n'
        "[simulator]\nlatency = 0.0\npaint = false\n"
    )
    command = [sys.executable, "-c", DIES, "run", "n.toml", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(command, cwd=memory, env=environment, check=False)
    assert died.returncode == 9
    came = len([path for path in (memory / "run/images").iterdir() if not path.name.startswith(".")])
    assert came >= 5
    command = [sys.executable, "-m", "batchgen", "run", "n.toml", "--json"]
    again = json.loads(
        subprocess.run(command, cwd=memory, env=environment, capture_output=True, check=True).stdout
    )
    assert again["tasks"] == {"succeeded": 12}
    assert again["bought"] == 12 - came, "none of those that came"
    assert verify(memory / "run").problems == {}


DIES = """
import os
import re
from batchgen.cli import cli
from batchgen.ledger import Ledger
settle, settled = Ledger.settle, 0
async def dies(*args, **kwargs):
    global settled
    if settled == 4:
        os._exit(9)
    settled += 1
    await settle(*args, **kwargs)
Ledger.settle = dies
cli()
"""


# A run at work


@pytest.fixture
def working(memory: Path) -> Iterator[Path]:
    """The directory of a real run in the middle of its work."""
    (memory / "p.csv").write_text("id,prompt\n" + "".join(f"r{n},p{n}\n" for n in range(3000)))
    (memory / "n.toml").write_text(
        'manifest = "p.csv"\nprovider = "simulator"\noutput = "run"\nconcurrency = 8\n'
        "[simulator]\nlatency = 0.02\npaint = false\n"
    )
    command = [sys.executable, "-m", "batchgen", "run", "n.toml", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=memory, env=environment, stdout=subprocess.DEVNULL) as running:
        images = memory / "run" / "images"
        while not images.exists() or len(list(images.iterdir())) < 40:
            assert running.poll() is None
            time.sleep(0.02)
        yield memory / "run"
        running.send_signal(signal.SIGKILL)


def test_what_a_run_is_about_is_no_problem_while_it_runs(working: Path) -> None:
    for _ in range(4):
        report = verify(working)
        assert (report.problems, report.live, report.exit_status) == ({}, True, 0)
        assert report.pictures >= 40


def test_what_a_run_changes_while_it_is_looked_at_is_looked_at_again(
    night: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = Audit.bought

    def changing(audit: Audit) -> Iterator[list[Record]]:
        for records in bought(audit):
            picture(night, 1).unlink()
            execute(night, "UPDATE tasks SET status = 'pending' WHERE id = 'row-1'")
            yield records

    monkeypatch.setattr(Audit, "bought", changing)
    with RunLock(night.directory):
        assert verify(night.directory).problems == {}


def test_a_picture_that_a_live_run_has_not_noted_yet_is_no_orphan(night: Nights) -> None:
    unsettle(night, "row-6")
    forget(night, "row-6")
    with RunLock(night.directory):
        assert verify(night.directory).problems == {}


def test_a_repair_refuses_a_run_at_work_and_says_whose(
    working: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["verify", str(working), "--repair"]) == 2
    assert "another run is at work here (process " in capsys.readouterr().err


def test_looking_whether_a_run_is_at_work_leaves_no_trace(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert not list(tmp_path.iterdir())
    with RunLock(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(LockedError):
            RunLock(tmp_path).__enter__()
    assert not is_held(tmp_path)


# The account and the table


def test_sums_that_are_not_those_of_the_requests_are_named_and_added_up_again(night: Nights) -> None:
    before = night.table()
    execute(night, "UPDATE tasks SET cost = cost + 1, total_tokens = 7 WHERE id IN ('row-1', 'row-2')")
    report = verify(night.directory)
    assert kinds(report) == {"sums": 2, "table": 2}
    assert verify(night.directory, repair=True).exit_status == 0
    assert verify(night.directory).problems == {}
    assert night.table() == before


def test_a_success_without_an_answer_is_named_and_left_to_a_person(night: Nights) -> None:
    execute(night, "DELETE FROM attempts WHERE key = (SELECT key FROM tasks WHERE id = 'row-1')")
    for repair in (False, True):
        report = verify(night.directory, repair=repair)
        assert report.problems[Kind.UNANSWERED].count == 1
        assert report.exit_status == 1


def spoil(path: Path, change: str) -> None:
    table = pq.read_table(path)
    if change == "gone":
        path.unlink()
    elif change == "garbage":
        path.write_bytes(b"PAR1 no more")
    elif change == "columns":
        pq.write_table(table.drop_columns(["cost_usd"]), path)
    elif change == "rows":
        pq.write_table(table.slice(1), path)
    else:
        place = table.schema.get_field_index("status")
        pq.write_table(table.set_column(place, "status", pa.array([*["succeeded"] * 7, "failed"])), path)


@pytest.mark.parametrize("change", ["gone", "garbage", "columns", "rows", "cell"])
def test_a_table_that_says_something_else_is_named_and_written_anew(night: Nights, change: str) -> None:
    before = night.table()
    spoil(night.directory / "results.parquet", change)
    report = verify(night.directory)
    assert (kinds(report), report.exit_status) == ({"table": 1}, 1)
    assert (report.problems[Kind.TABLE].first[0].id == "row-7") is (change == "cell")
    assert verify(night.directory, repair=True).exit_status == 0
    assert night.table() == before
    assert verify(night.directory).problems == {}


@pytest.mark.parametrize("content", [None, b"", b"PAR1", "table"])
def test_without_the_copy_of_the_manifest_the_rest_is_verified_and_the_next_run_makes_one(
    night: Nights, content: bytes | str | None
) -> None:
    path = night.directory / "manifest.parquet"
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copy(night.directory / "results.parquet", path)
    picture(night, 1).unlink()
    for repair in (False, True):
        report = verify(night.directory, repair=repair)
        assert (kinds(report), report.exit_status) == ({"missing": 1, "manifest": 1}, 1)
        assert "manifest.parquet" in report.problems[Kind.MANIFEST].first[0].detail
    assert night.run().requests == 1
    assert verify(night.directory).problems == {}


# The ledger


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_text("this was a ledger once " * 1000)
    else:
        page = 4096 * 3
        path.write_bytes(whole[:page] + os.urandom(4096 * 2) + whole[page + 4096 * 2 :])


@pytest.mark.parametrize("how", ["gone", "empty", "truncated", "text", "garbled"])
def test_a_lost_ledger_is_refused_by_every_command_and_nothing_is_bought(
    night: Nights, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = night.directory / "ledger.db"
    damage(path, how)
    before = path.read_bytes() if path.exists() else None
    run = ["run", str(night.manifest), "--provider", "simulator", "-o", str(night.directory)]
    for command in (run, [*run, "-n"], ["status", str(night.directory)], ["verify", str(night.directory)]):
        if how == "garbled" and command[0] == "status":
            continue  # it reads the sums alone, and may miss pages with nothing of them
        assert cli(command) == 2, command
        out, err = capsys.readouterr()
        assert "ledger" in err
        assert f"`batchgen verify {night.directory} --repair`" in err
        assert (err.count("\n"), out) == (1, ""), "one message, no traceback"
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize(
    "later", [["phash", "blank", "near_duplicate_of"], ["size_ok", "reasoning", "tool_calls"]]
)
def test_a_table_of_an_earlier_version_is_held_against_what_it_has(night: Nights, later: list[str]) -> None:
    path = night.directory / "results.parquet"
    lacking = ["phash", "blank", "near_duplicate_of", *later]
    former = pq.read_table(path).drop_columns([*dict.fromkeys(lacking)])
    pq.write_table(former, path)
    assert verify(night.directory).exit_status == 0
    cell = former.schema.get_field_index("prompt")
    prompts = ["another", *former["prompt"].to_pylist()[1:]]
    pq.write_table(former.set_column(cell, "prompt", [prompts]), path)
    assert kinds(verify(night.directory)) == {"table": 1}


@pytest.mark.parametrize("how", ["gone", "empty", "truncated", "text", "garbled"])
def test_a_lost_ledger_is_made_anew_from_the_table_and_nothing_is_bought_again(
    night: Nights, how: str
) -> None:
    before = night.table()
    damage(night.directory / "ledger.db", how)
    damaged = None if how in {"gone", "empty"} else (night.directory / "ledger.db").read_bytes()
    report = verify(night.directory, repair=True)
    assert (kinds(report), report.exit_status, report.pictures) == ({"ledger": 1}, 0, 8)
    if damaged is not None:
        (kept,) = night.directory.glob("ledger.db.damaged-*Z")
        assert kept.read_bytes() == damaged
        assert kept.name in report.problems[Kind.LEDGER].first[0].detail
    assert verify(night.directory).problems == {}
    assert (night.run().requests, night.table()) == (0, before)


def test_a_bad_night_s_ledger_comes_back_with_its_failures_and_its_waste(memory: Path) -> None:
    faults = Faults(refusal=0.2, no_image=0.2, reset_after=0.2, overloaded=0.2)
    nights = Nights(memory, Settings(paint=False, faults=faults))
    nights.rows(60)
    nights.run(limit=50, attempts=3)
    before = nights.table()
    assert {row["status"] for row in before} > {"succeeded", "failed", "uncertain", "pending"}
    (nights.directory / "ledger.db").unlink()
    assert verify(nights.directory, repair=True).exit_status == 0
    assert verify(nights.directory).problems == {}
    with closing(Reader(nights.directory / "ledger.db")) as reader:
        totals, last = reader.totals(), reader.last_run()
    assert totals.cost_usd == sum(row["cost_usd"] or 0 for row in before)
    assert totals.wasted_usd == sum(row["wasted_usd"] or 0 for row in before)
    assert last is not None
    assert last.simulated, "so that real pictures never mix with these"
    summary = nights.run(limit=50, attempts=3)
    assert summary.requests == sum(row["status"] == "pending" for row in before[:50])


def test_a_ledger_made_anew_knows_the_files_of_the_pictures_before_it_guesses_others(memory: Path) -> None:
    nights = Nights(memory)
    nights.write("id,prompt,file\nb,one,c\na,two,b\n")
    nights.run(name="{file}")
    execute(nights, "UPDATE tasks SET status = 'failed', images = NULL WHERE id = 'b'")
    (nights.directory / "images" / "c.jpg").unlink()
    nights.run(name="{file}")
    (nights.directory / "ledger.db").unlink()
    verify(nights.directory, repair=True)
    assert verify(nights.directory).problems == {}


def test_a_ledger_without_a_table_cannot_be_made_anew_and_that_is_said(
    night: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    (night.directory / "ledger.db").unlink()
    (night.directory / "results.parquet").unlink()
    assert cli(["verify", str(night.directory), "--repair"]) == 2
    assert "restore it from a copy, or choose another" in capsys.readouterr().err
    (night.directory / "results.parquet").write_bytes(b"no table either")
    assert cli(["verify", str(night.directory), "--repair"]) == 2
    assert "restore one of the two from a copy" in capsys.readouterr().err
    assert not (night.directory / "ledger.db").exists()


@pytest.mark.parametrize("whose", ["foreign", "newer"])
def test_a_ledger_of_somebody_else_is_refused_and_left_alone(
    night: Nights, whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(night, "PRAGMA application_id = 7" if whose == "foreign" else "PRAGMA user_version = 99")
    before = (night.directory / "ledger.db").read_bytes()
    run = ["run", str(night.manifest), "--provider", "simulator", "-o", str(night.directory)]
    told = "not a batchgen ledger" if whose == "foreign" else "newer batchgen"
    for command in (run, ["status"], ["verify"], ["verify", "--repair"]):
        assert cli(command if command is run else [*command, str(night.directory)]) == 2
        assert told in capsys.readouterr().err
    assert (night.directory / "ledger.db").read_bytes() == before


def test_what_is_no_run_directory_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        for flags in ([], ["--repair"]):
            assert cli(["verify", str(directory), *flags]) == 2
            assert re.search("no ledger here|no such folder", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed run leaves: a ledger whose latest commits are in its log alone."""
    nights = Nights(tmp_path_factory.mktemp("torn"))
    nights.rows(30)

    def cut(progress: Progress) -> None:
        if progress.succeeded == 20 and not (nights.directory.parent / "left").exists():
            shutil.copytree(nights.directory, nights.directory.parent / "left")

    nights.run(on_progress=cut)
    return nights.directory.parent / "left"


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.7, 0.97, 1.0])
@pytest.mark.parametrize("garbled", [False, True])
def test_a_torn_log_is_the_last_whole_commit_and_the_run_goes_on_from_there(
    torn: Path, memory: Path, keep: float, *, garbled: bool
) -> None:
    nights = Nights(memory)
    nights.rows(30)
    shutil.copytree(torn, nights.directory)
    log = nights.directory / "ledger.db-wal"
    whole = log.read_bytes()
    at = int(len(whole) * keep)
    log.write_bytes(whole[:at] + (b"garbled" * len(whole))[: len(whole) - at if garbled else 0])
    report = verify(nights.directory)
    assert set(report.problems) <= {Kind.LOG, Kind.ORPHAN, Kind.UNSETTLED, Kind.UNRECORDED, Kind.TABLE}
    if keep == 1.0:
        assert Kind.LOG not in report.problems
        assert report.pictures == 20
    assert nights.run().tasks == {"succeeded": 30}
    assert verify(nights.directory).problems == {}


def test_pages_of_the_log_without_a_commit_are_told(torn: Path, memory: Path) -> None:
    shutil.copytree(torn, memory / "run")
    log = memory / "run" / "ledger.db-wal"
    whole = log.read_bytes()
    log.write_bytes(whole[:-2000])
    problem = verify(memory / "run").problems[Kind.LOG]
    assert problem.count == problem.repaired > 0
    assert Kind.LOG not in verify(memory / "run").problems, "it is mended by looking"


# The command


def test_the_command_tells_what_it_found_and_what_to_do(
    night: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(night, 1).unlink()
    (night.directory / "images" / "\x1b[2J.jpg").write_bytes(b"speaks to the terminal")
    assert cli(["verify", str(night.directory)]) == 1
    out = capsys.readouterr().out
    assert "8 of 8 rows succeeded; 7 pictures are as they were bought" in out
    assert "1 x pictures are gone" in out
    assert f"row row-1: images/{picture(night, 0).name.replace('0', '1')}" in out
    assert "the next run would buy the lost pictures again, for about $0.0" in out
    assert f"next: `batchgen verify {night.directory} --repair`" in out
    assert "\x1b" not in out
    assert cli(["verify", str(night.directory), "--repair"]) == 1
    out = capsys.readouterr().out
    assert "pictures are gone: put back to pending" in out
    assert "next: look at what is named above" in out
    (night.directory / "images" / "\x1b[2J.jpg").unlink()
    assert cli(["verify", str(night.directory), "--check", "quick"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_json_is_one_object_with_every_kind_that_was_found(
    night: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in (1, 2):
        picture(night, row).unlink()
    assert cli(["verify", str(night.directory), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["exit_status"], told["live"]) == (6, 1, False)
    problem = told["problems"]["missing"]
    assert (problem["count"], problem["repaired"]) == (2, 0)
    assert {finding["id"] for finding in problem["first"]} == {"row-1", "row-2"}


def test_of_many_problems_the_first_are_told_and_all_are_counted(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(700)
    nights.run(concurrency=64)
    shutil.rmtree(nights.directory / "images")
    problem = verify(nights.directory).problems[Kind.MISSING]
    assert (problem.count, len(problem.first)) == (700, 20)
    assert verify(nights.directory, repair=True).problems[Kind.MISSING].repaired == 700
    assert nights.run(concurrency=64).requests == 700


def test_a_run_says_how_many_pictures_are_gone_and_buys_none_of_them(
    night: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    assert night.run().requests == 0
    assert not caplog.records
    for row in (1, 2):
        picture(night, row).unlink()
    assert night.run().requests == 0
    (record,) = caplog.records
    assert "2 pictures are gone" in record.getMessage()
    assert f"batchgen verify {night.directory}" in record.getMessage()


def test_a_long_audit_shows_a_bar_on_a_terminal(night: Nights) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    command = [sys.executable, "-m", "batchgen", "verify", str(night.directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, cwd=ROOT) as running:
        os.close(follower)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(leader, 65536):
                shown += part
        assert running.wait() == 0
    os.close(leader)
    assert b"8/8" in shown


def test_sums_over_all_rows_that_are_not_those_of_the_rows_are_told_and_added_up_again(night: Nights) -> None:
    before = night.table()
    with closing(sqlite3.connect(night.directory / "ledger.db")) as connection, connection:
        connection.execute("UPDATE attempt_sums SET cost = cost + 1")
    found = verify(night.directory)
    assert found.exit_status == 1
    assert found.problems["sums"].first[0].file == "ledger.db"
    assert verify(night.directory, repair=True).exit_status == 0
    assert not verify(night.directory).problems
    assert night.table() == before
