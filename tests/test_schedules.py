"""Seeded nights of faults, kills, signals, budgets and edits: the promises hold on every one of them."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from batchgen.simulator import Faults
from tests.chaos import Night

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.virtual_time

NIGHTS, AT_ONCE = 2000, 100
AT_LEAST = dict.fromkeys(Faults.__struct_fields__, 5)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        alone = metafunc.config.getoption("seed")
        starts = range(0, NIGHTS, AT_ONCE)
        chosen = [range(start, start + AT_ONCE) for start in starts] if alone is None else [range(alone, alone + 1)]
        metafunc.parametrize("seeds", chosen, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")


def test_whatever_happens_every_request_row_and_token_is_accounted_for(memory: Path, seeds: range) -> None:
    happened: Counter[str] = Counter()
    for seed in seeds:
        night = Night(memory, seed)
        try:
            night.play()
        except BaseException:
            print(f"seed {seed}: `pytest {__file__} --seed {seed}` plays it alone", file=sys.stderr)
            raise
        happened += night.happened + night.endpoint.played
        shutil.rmtree(night.directory)
    print(f"seeds {seeds.start}–{seeds.stop - 1}:", *(f"{what} {count}," for what, count in happened.most_common()))
