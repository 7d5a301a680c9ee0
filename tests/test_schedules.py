"""Seeded nights of faults, kills, signals, budgets and edits: the promises hold on every one of them."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from batchgen import stragglers
from batchgen.simulator import Faults
from tests.chaos import Night

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.virtual_time

NIGHTS, AT_ONCE = 2000, 100
AT_LEAST = {
    **dict.fromkeys(set(Faults.__struct_fields__) - {"draft", "stream_error", "slow"}, 3),
    "kills": 20,
    "answers lost with their process": 10,
    "signals delivered": 10,
    "stopped: SIGTERM": 3,
    "stopped: SIGHUP": 3,
    "stopped: budget": 5,
    "stopped: daily_quota": 2,
    "drafts kept": 5,
    "failed rows retried": 2,
    "rows added": 3,
    "rows removed": 3,
    "rows changed": 3,
    "rows shuffled": 3,
}
"""What must have happened in every hundred nights, so that they cannot go blind."""
HEDGED = range(5060, 5070)
OF_HEDGES = ("kills", "hedges that won", "losers cut off", "losers that came late")
"""What must have happened twice in those nights."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        alone = metafunc.config.getoption("seed")
        every = [range(start, start + AT_ONCE) for start in range(0, NIGHTS, AT_ONCE)]
        chosen = every if alone is None else [range(alone, alone + 1)]
        metafunc.parametrize("seeds", chosen, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")


@pytest.fixture(autouse=True)
def _soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of a few rows knows when a request is late."""
    monkeypatch.setattr(stragglers, "ENOUGH", 2)
    monkeypatch.setattr(stragglers, "SHARE", 1.0)


def played(folder: Path, seed: int, *, slow: float = 0.0) -> Night:
    night = Night(folder, seed, slow=slow)
    try:
        night.play()
    except BaseException:
        print(f"seed {seed}; to play it alone: pytest {__file__} --seed {seed}", file=sys.stderr)
        raise
    shutil.rmtree(night.directory)
    return night


def test_whatever_happens_every_request_row_and_token_is_accounted_for(memory: Path, seeds: range) -> None:
    happened: Counter[str] = Counter()
    for seed in seeds:
        night = played(memory, seed)
        happened += night.happened + night.endpoint.played
    print(f"seeds {seeds.start} to {seeds.stop - 1}:", dict(happened.most_common()))
    if len(seeds) == AT_ONCE:
        assert {what: happened[what] for what, least in AT_LEAST.items() if happened[what] < least} == {}


def test_whatever_happens_to_two_requests_for_a_row_one_of_them_counts(memory: Path) -> None:
    happened: Counter[str] = Counter()
    for seed in HEDGED:
        happened += played(memory, seed, slow=0.3).happened
    print(f"{len(HEDGED)} nights with late requests:", dict(happened.most_common()))
    assert min(happened[what] for what in OF_HEDGES) >= 2


@pytest.mark.parametrize("seed", [2, 3, 8, 9])
def test_a_seed_is_the_same_night_each_time(memory: Path, seed: int) -> None:
    first, second = played(memory, seed), played(memory, seed)
    assert first.endpoint.log == second.endpoint.log != []
    assert first.happened == second.happened
