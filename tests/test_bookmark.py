"""What a run leaves for the next one spares it looking; it never hides a task from it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchgen import verify
from batchgen.bookmark import Bookmark
from batchgen.errors import DamagedError
from batchgen.ledger import Reader
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.virtual_time

ROWS, FEW = 24, 16
"""Of so many bytes that four are a stretch of a snapshot; the first few are bought."""
PADDING = "x" * 60_000


def write(nights: Nights, *, first: str = "", edited: str = "") -> None:
    rows = [f"r{n},{edited if n == 0 else ''}picture {n} {PADDING}\n" for n in range(ROWS)]
    nights.write("id,prompt\n" + first + "".join(rows))


@pytest.fixture
def nights(memory: Path) -> Nights:
    nights = Nights(memory)
    write(nights)
    nights.run(limit=FEW)
    return nights


def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each look into the ledger is about."""
    counted: list[int] = []
    states = Reader.states

    def counting(reader: Reader, keys: list[str]) -> object:
        counted.append(len(keys))
        return states(reader, keys)

    monkeypatch.setattr(Reader, "states", counting)
    return counted


@pytest.mark.parametrize("marked", [True, False])
def test_a_run_looks_up_no_task_of_a_stretch_that_is_finished(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, *, marked: bool
) -> None:
    if not marked:
        (nights.directory / ".bookmark").unlink()
    counted = looked_up(monkeypatch)
    summary = nights.run()
    assert (summary.bought, summary.tasks) == (ROWS - FEW, {"succeeded": ROWS})
    assert ROWS - FEW <= sum(counted) < ROWS - FEW / 2
    counted.clear()
    assert nights.run().bought == sum(counted) == 0


@pytest.mark.parametrize("marked", [True, False])
def test_rows_that_failed_for_good_are_finished_and_still_told(
    memory: Path, monkeypatch: pytest.MonkeyPatch, *, marked: bool
) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(refusal=0.5)))
    write(nights)
    before = nights.run()
    if not marked:
        (nights.directory / ".bookmark").unlink()
    counted = looked_up(monkeypatch)
    after = nights.run()
    assert sum(counted) == 0
    assert (after.failed, after.exit_status) == (before.failed, 1)
    assert nights.run(retry_failed=True).requests >= before.failed > 0


def no_success(nights: Nights) -> None:
    with closing(sqlite3.connect(nights.directory / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE tasks SET status = 'pending' WHERE id = 'r3'")


def no_picture(nights: Nights) -> None:
    next((nights.directory / "images").glob("r3.*")).unlink()
    verify.verify(nights.directory, repair=True)


def no_such_row(nights: Nights) -> None:
    write(nights, first="r-1,another\n")


def no_such_prompt(nights: Nights) -> None:
    write(nights, edited="another ")


def no_end(nights: Nights) -> None:
    """A run that was killed: all it did to the bookmark was to take it out."""
    with Bookmark(nights.directory):
        no_success(nights)


@pytest.mark.parametrize("meddle", [no_success, no_picture, no_such_row, no_such_prompt, no_end])
def test_whatever_happens_between_two_runs_what_is_missing_is_bought(
    nights: Nights, meddle: Callable[[Nights], None]
) -> None:
    nights.run()
    meddle(nights)
    assert nights.run().bought == 1
    assert nights.run().bought == 0


def test_what_is_asked_for_again_is_looked_at(nights: Nights) -> None:
    assert nights.run(again=True).bought == ROWS
    assert nights.run().bought == 0


def test_a_ledger_that_was_altered_is_looked_through_whatever_its_times_say(nights: Nights) -> None:
    path = nights.directory / "ledger.db"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedError):
        nights.run()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\n[", b"0\n{}", b"[" * 10_000])
def test_a_bookmark_that_is_none_is_not_believed(nights: Nights, data: bytes) -> None:
    (nights.directory / ".bookmark").write_bytes(data)
    assert nights.run().bought == ROWS - FEW


def test_every_byte_of_a_bookmark_counts(nights: Nights) -> None:
    path = nights.directory / ".bookmark"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with Bookmark(nights.directory) as bookmark:
            assert not bookmark.holds
    path.write_bytes(whole)
    with Bookmark(nights.directory) as bookmark:
        assert bookmark.holds
    assert not path.exists(), "it is the next run's to put another one"
