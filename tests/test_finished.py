"""What is found in one pass over columns is what a look at each task finds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import manifest, selection
from batchgen.ledger import Ledger, Reader
from batchgen.manifest import Manifest, Reading, finished
from batchgen.records import Status
from batchgen.references import References

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [
    ("succeeded", None),
    ("succeeded", ""),
    ("failed", "refusal"),
    ("failed", "parent_failed"),
    ("failed", "reference"),
    ("failed", None),
    ("uncertain", "uncertain"),
    ("pending", None),
    ("pending", "uncertain"),
    None,
]
"""Status and error class; None is a task that the ledger has never seen."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def snapshot(folder: Path) -> Manifest:
    """Rows with variants and without, some of equal content, in stretches of a few."""
    rows = [f"r{n},picture {n % 7 if n % 3 else n}{'x' * 30_000},{n % 3 * n or 1}\n" for n in range(1, 41)]
    (folder / "table.csv").write_text("id,prompt,variants\n" + "".join(rows))
    return manifest.read(
        str(folder / "table.csv"),
        Reading(model="m"),
        snapshot=folder / "manifest.parquet",
        look=References().look,
    )


def known(path: Path, keys: dict[str, tuple[str, str | None]]) -> None:
    path.unlink(missing_ok=True)
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as ledger, ledger:
        ledger.execute("PRAGMA synchronous = OFF")
        ledger.executemany(
            "INSERT INTO tasks (key, id, stem, folded, model, provider, status, error_class)"
            " VALUES (?1, '', '', ?1, '', '', ?2, ?3)",
            [(key, *kind) for key, kind in keys.items()],
        )


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_what_is_left_is_what_a_look_at_each_task_leaves(
    folder: Path, snapshot: Manifest, data: st.DataObject
) -> None:
    keys = [key for batch in snapshot.batches() for key in batch.keys]
    picked = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=len(KINDS)))
    dice = data.draw(st.randoms(use_true_random=False))
    kinds = {key: kind for key in keys if (kind := dice.choice(picked)) is not None}
    path = folder / "ledger.db"
    known(path, {**kinds, f"{'0' * 32}-1-1": ("succeeded", None), f"{keys[0]}9": ("succeeded", None)})
    with closing(Reader(path)) as reader:
        found = selection.finished(snapshot, reader)
        left = [key for batch in snapshot.batches(without=found) for key in batch.keys]
        counted = [key for batch in snapshot.gathered(without=found) for key in batch.keys]
        final = {
            key
            for key, state in reader.states(keys).items()
            if state.status is not Status.PENDING and not state.unsent
        }
    gone = set(keys) - set(left)
    assert counted == left
    assert gone <= final
    assert left == [key for key in keys if key not in gone], "in the order of the manifest"
    assert found.tasks == len(gone)
    if found.places is not None:
        # A class of no letters is nobody's: a look at each task finds it.
        assert gone == {key for key in final if kinds[key][1] != ""}
        assert found.statuses == {
            status: count
            for status in ("succeeded", "failed", "uncertain")
            if (count := sum(kinds[key][0] == status for key in gone))
        }


def test_tasks_of_one_content_that_are_too_many_at_a_time_are_looked_at_one_by_one(
    folder: Path, snapshot: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "_MOST", 3)
    keys = [key for batch in snapshot.batches() for key in batch.keys]
    path = folder / "ledger.db"
    known(path, dict.fromkeys(keys, ("succeeded", None)))
    with closing(Reader(path)) as reader:
        assert selection.finished(snapshot, reader).tasks == 0
        monkeypatch.undo()
        assert selection.finished(snapshot, reader).tasks == len(keys) == snapshot.tasks
