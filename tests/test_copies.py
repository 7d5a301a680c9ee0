"""The file of a ledger and the committed bytes of its log are the ledger, whenever they are put together."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchgen.ledger import Ledger, Log

if TYPE_CHECKING:
    from batchgen.ledger import Mark

STEPS = st.lists(
    st.sampled_from(["commit", "roll back", "copy", "begin", "fold elsewhere", "look on"]), max_size=20
)


class _Copy:
    """What would be in the bucket."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._folder = folder
        self._log = log
        self.begin()

    def begin(self) -> None:
        found = self._log.fold()
        assert found is not None
        self._since: Mark = found
        self._pieces: list[bytes] = []
        shutil.copy(self._log.ledger, self._folder / "base.db")

    def step(self, most: int) -> None:
        while (data := self._log.read(self._since, most)) != b"":
            if data is None:
                self.begin()
                continue
            self._pieces.append(data)
            self._since = self._since._replace(end=self._since.end + len(data))

    def runs(self) -> list[int]:
        """What the ledger says that is put together from it."""
        for end in ("", "-wal", "-shm"):
            (self._folder / f"copy.db{end}").unlink(missing_ok=True)
        shutil.copy(self._folder / "base.db", self._folder / "copy.db")
        (self._folder / "copy.db-wal").write_bytes(b"".join(self._pieces))
        with closing(sqlite3.connect(self._folder / "copy.db")) as copy:
            assert copy.execute("PRAGMA quick_check").fetchone() == ("ok",)
            return [started for (started,) in copy.execute("SELECT started_at FROM runs ORDER BY id")]


def _roll_back(path: Path) -> None:
    """Leave pages in the log that were never committed, where the next commit will be."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript("PRAGMA cache_size = 5; PRAGMA wal_autocheckpoint = 0; BEGIN IMMEDIATE")
        other.execute(
            "CREATE TABLE x AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 100) SELECT zeroblob(2000) FROM n"
        )
        other.execute("ROLLBACK")


def _fold_elsewhere(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@settings(max_examples=8, deadline=None)
@example(steps=["commit", "roll back", "copy", "commit"], most=1 << 24)
@example(steps=["commit", "copy", "fold elsewhere", "commit", "commit", "copy", "begin"], most=4096)
@given(steps=STEPS, most=st.sampled_from([1000, 4096, 1 << 24]))
def test_whatever_is_committed_rolled_back_or_folded_the_copy_is_the_ledger(
    steps: list[str], most: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, committed = folder / "ledger.db", 0
        with closing(Ledger(path, shipped=True, durable=False)) as ledger, closing(Log(path)) as log:
            copy = _Copy(folder, log)
            for step in [*steps, "copy"]:
                match step:
                    case "commit":
                        committed += 1
                        ledger.begin(
                            now=committed, provider="x", simulated=True, tasks=1, version="1", in_flight=1
                        )
                    case "roll back":
                        _roll_back(path)
                    case "copy":
                        copy.step(most)
                        assert copy.runs() == [*range(1, committed + 1)]
                    case "begin":
                        copy.begin()
                    case "fold elsewhere":
                        _fold_elsewhere(path)
                    case _:
                        with closing(sqlite3.connect(path)) as other:
                            other.execute("SELECT count(*) FROM runs").fetchone()


def test_a_log_is_not_begun_anew_under_somebody_who_reads(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path, shipped=True)) as ledger, closing(Log(path)) as log:
        ledger.recover(now=1)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM runs").fetchone()
            ledger.begin(now=2, provider="x", simulated=True, tasks=1, version="1", in_flight=1)
            assert log.fold() is None
        assert log.fold() is not None
