"""What a run leaves for the next one spares it looking; it never hides a task from it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchgen import bookmark, selection, verify
from batchgen.bookmark import Bookmark
from batchgen.errors import DamagedError
from batchgen.ledger import Reader
from batchgen.manifest import Manifest
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.manifest import Finished

pytestmark = pytest.mark.virtual_time

ROWS, FEW = 24, 16
"""Of them the first few are bought."""
LONG = "x" * 60_000
"""With so much in each, four rows are a stretch of a snapshot."""


def write(nights: Nights, *, first: str = "", edited: str = "", more: str = "") -> None:
    rows = [f"r{n},{edited if n == 0 else ''}picture {n} {more}\n" for n in range(ROWS)]
    nights.write("id,prompt\n" + first + "".join(rows))


@pytest.fixture(autouse=True)
def _marked_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookmark, "_WORTH", 0)


@pytest.fixture
def nights(memory: Path) -> Nights:
    nights = Nights(memory)
    write(nights)
    nights.run(limit=FEW)
    return nights


def mark(nights: Nights) -> Path:
    return nights.directory / ".bookmark"


def ledger(nights: Nights) -> Path:
    return nights.directory / "ledger.db"


def holds(nights: Nights) -> bool:
    return Bookmark(nights.directory).holds


def change(nights: Nights, statement: str) -> None:
    with closing(sqlite3.connect(ledger(nights))) as connection, connection:
        connection.execute(statement)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each look into the ledger is about."""
    counted: list[int] = []
    states = Reader.states

    def counting(reader: Reader, keys: list[str]) -> object:
        counted.append(len(keys))
        return states(reader, keys)

    monkeypatch.setattr(Reader, "states", counting)
    return counted


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The ledgers that were looked through."""
    found: list[Path] = []
    check = Reader.check

    def counting(reader: Reader) -> None:
        found.append(reader.path)
        check(reader)

    monkeypatch.setattr(Reader, "check", counting)
    return found


@pytest.mark.parametrize(("more", "marked"), [("", True), (LONG, True), (LONG, False)])
def test_a_run_looks_up_no_task_that_is_finished(
    memory: Path, looked_up: list[int], checked: list[Path], more: str, *, marked: bool
) -> None:
    nights = Nights(memory)
    write(nights, more=more)
    nights.run(limit=FEW)
    looked_up.clear()
    checked.clear()
    if not marked:
        mark(nights).unlink()
    summary = nights.run()
    assert (summary.bought, summary.tasks) == (ROWS - FEW, {"succeeded": ROWS})
    assert (sum(looked_up), len(checked)) == (ROWS - FEW, not marked)
    looked_up.clear()
    assert nights.run().bought == sum(looked_up) == 0


@pytest.mark.parametrize("marked", [True, False])
def test_rows_that_failed_for_good_are_finished_and_still_told(
    memory: Path, looked_up: list[int], *, marked: bool
) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(refusal=0.5)))
    write(nights)
    before = nights.run()
    if not marked:
        mark(nights).unlink()
    looked_up.clear()
    after = nights.run()
    assert sum(looked_up) == 0
    assert (after.failed, after.exit_status) == (before.failed, 1)
    assert nights.run(retry_failed=True).requests >= before.failed > 0


def no_success(nights: Nights) -> None:
    change(nights, "UPDATE tasks SET status = 'pending' WHERE id = 'r3'")


def no_success_of_late(nights: Nights) -> None:
    before = ledger(nights).stat()
    no_success(nights)
    os.utime(ledger(nights), ns=(before.st_atime_ns, before.st_mtime_ns))


def no_checkpoint(nights: Nights) -> None:
    """A program that changed the ledger was killed: all of it is in the log."""
    copy = nights.directory.with_name("copy")
    connection = sqlite3.connect(ledger(nights))
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE tasks SET status = 'pending' WHERE id = 'r3'")
    connection.commit()
    shutil.copytree(nights.directory, copy)
    connection.close()
    shutil.rmtree(nights.directory)
    copy.rename(nights.directory)


def no_picture(nights: Nights) -> None:
    next((nights.directory / "images").glob("r3.*")).unlink()
    verify.verify(nights.directory, repair=True)


def no_such_row(nights: Nights) -> None:
    write(nights, first="r-1,another\n")


def no_such_prompt(nights: Nights) -> None:
    write(nights, edited="another ")


def no_end(nights: Nights) -> None:
    """A run that was killed: all it did to the bookmark was to take it out."""
    before = mark(nights).read_bytes()
    with Bookmark(nights.directory):
        no_success(nights)
    mark(nights).write_bytes(before)


@pytest.mark.parametrize(
    "meddle",
    [
        no_success,
        no_success_of_late,
        no_checkpoint,
        no_picture,
        no_such_row,
        no_such_prompt,
        no_end,
    ],
)
def test_whatever_happens_between_two_runs_what_is_missing_is_bought(
    nights: Nights, meddle: Callable[[Nights], None]
) -> None:
    nights.run()
    meddle(nights)
    assert nights.run().bought == 1
    assert nights.run().bought == 0


@pytest.mark.parametrize("which", [["ledger.db"], [".bookmark"], ["ledger.db", ".bookmark"]])
def test_a_backup_that_was_restored_is_taken_for_what_it_is(nights: Nights, which: list[str]) -> None:
    backup = nights.directory.with_name("backup")
    shutil.copytree(nights.directory, backup)
    nights.run()
    for name in which:
        shutil.copy2(backup / name, nights.directory / name)
    assert not holds(nights)
    # The pictures outlived the account of them, which is all that such a backup can cost.
    assert nights.run().bought == (ROWS - FEW if "ledger.db" in which else 0)
    assert nights.run().bought == 0


def test_a_copy_of_a_run_directory_is_looked_through(nights: Nights) -> None:
    copy = nights.directory.with_name("copy")
    shutil.copytree(nights.directory, copy)
    assert holds(nights)
    assert not Bookmark(copy).holds
    nights.directory = copy
    assert nights.run().bought == ROWS - FEW


@pytest.mark.parametrize(
    ("given", "bought"), [({"again": True}, ROWS), ({"limit": FEW}, 0), ({"limit": FEW + 2}, 2)]
)
def test_what_is_asked_for_is_looked_at(nights: Nights, given: dict[str, Any], bought: int) -> None:
    assert nights.run(**given).bought == bought
    assert nights.run().bought == max(0, ROWS - FEW - bought)
    assert nights.run().bought == 0


def test_chosen_rows_are_looked_at(nights: Nights, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("r3\nr20\n")
    assert nights.run(only=str(chosen)).bought == 1
    assert nights.run(only=str(chosen), again=True).bought == 2
    assert nights.run().bought == ROWS - FEW - 1


def test_a_picture_that_goes_along_and_became_another_is_bought_for(memory: Path) -> None:
    nights = Nights(memory)
    nights.write("id,prompt,references\na,dawn,a.png\nb,dusk,\n")
    for number, look in enumerate((b"one", b"two")):
        (memory / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + look)
        assert nights.run().bought == 2 - number
        assert nights.run().bought == 0


def test_a_ledger_that_was_altered_is_looked_through_whatever_its_times_say(nights: Nights) -> None:
    path = ledger(nights)
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedError):
        nights.run()
    assert not mark(nights).exists()


def test_where_the_clock_stands_still_there_is_no_bookmark(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bookmark, "_now", lambda _: ledger(nights).stat().st_ctime_ns)
    nights.run()
    assert not mark(nights).exists()


def test_who_writes_the_ledger_while_it_is_marked_leaves_no_bookmark(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = selection.finished

    def meddling(manifest: Manifest, reader: Reader) -> Finished:
        found = finished(manifest, reader)
        no_success(nights)
        return found

    monkeypatch.setattr(bookmark, "finished", meddling)
    nights.run()
    assert not holds(nights)
    monkeypatch.undo()
    assert nights.run().bought == 1


def test_a_run_that_failed_or_a_small_ledger_has_no_bookmark(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest(nights.directory / "manifest.parquet")

    def fail() -> None:
        with Bookmark(nights.directory) as taken:
            taken.put(manifest)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not mark(nights).exists()
    monkeypatch.undo()
    nights.run()
    assert not mark(nights).exists()


def test_every_byte_of_a_bookmark_counts(nights: Nights) -> None:
    whole = mark(nights).read_bytes()
    for data in (b"", b"{}", b"\xff\n[", b"0\n{}", b"[" * 10_000, whole[:-1], whole + b" "):
        mark(nights).write_bytes(data)
        assert not holds(nights)
    for place in range(0, len(whole), 7):
        mark(nights).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not holds(nights)
    mark(nights).write_bytes(whole)
    assert holds(nights), "to look leaves it where it is"
    with Bookmark(nights.directory) as taken:
        assert taken.holds
    assert not mark(nights).exists(), "it is the next run's to put another one"


def test_a_place_where_no_bookmark_can_be_put_keeps_no_run_from_ending(nights: Nights) -> None:
    mark(nights).unlink()
    (mark(nights) / "in the way").mkdir(parents=True)
    assert nights.run().bought == ROWS - FEW
    assert nights.run().bought == 0
