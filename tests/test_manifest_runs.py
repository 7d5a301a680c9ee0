"""Whole runs over manifests with identical prompts: every id keeps its picture, wherever its row goes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from batchgen.simulator import Settings
from batchgen.simulator.paint import prompt_mark
from tests.nights import Nights

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.virtual_time

PROMPTS = ["a red bicycle", "a blue door"]
BACKENDS = ["asyncio", "trio"]


def pictures(nights: Nights, *by: str) -> dict[tuple[str, ...], tuple[str, str, int]]:
    """What each row has: its file, what is in it, and its variant's number."""
    return {
        (*(row[name] for name in by), str(row["variant"])): (
            row["file_name"],
            row["images"][-1]["sha256"],
            row["variant"],
        )
        for row in nights.table()
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variants", [1, 3])
def test_identical_prompts_that_are_shuffled_keep_their_ids_and_pictures(
    memory: Path, backend: str, variants: int
) -> None:
    nights = Nights(memory, backend=backend)
    lines = [f"row-{n},{PROMPTS[n % 2]},shelf {n}\n" for n in range(12)]
    nights.write("id,prompt,tag\n" + "".join(lines))
    nights.run(variants=variants, concurrency=5)
    before = pictures(nights, "id", "prompt", "tag")
    assert len({name for name, *_ in before.values()}) == 12 * variants
    for seed in range(2):
        random.Random(seed).shuffle(lines)
        nights.write("id,prompt,tag\n" + "".join(lines))
        assert nights.run(variants=variants, concurrency=5).bought == 0
        assert pictures(nights, "id", "prompt", "tag") == before
        assert [row["id"] for row in nights.table()][::variants] == [line.split(",")[0] for line in lines]
    assert nights.endpoint.account.seen == 12 * variants


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_ids_identical_prompts_are_told_apart_by_their_other_cells(
    memory: Path, backend: str
) -> None:
    nights = Nights(memory, backend=backend)
    lines = [f"{PROMPTS[n % 2]},shelf {n}\n" for n in range(12)]
    nights.write("prompt,tag\n" + "".join(lines))
    nights.run(concurrency=5)
    before = pictures(nights, "id", "prompt", "tag")
    random.Random(1).shuffle(lines)
    nights.write("prompt,tag\n" + "".join(lines))
    assert nights.run(concurrency=5).bought == 0
    assert pictures(nights, "id", "prompt", "tag") == before


def test_shuffled_between_a_beginning_and_its_end_no_row_is_bought_twice_or_left_out(memory: Path) -> None:
    nights = Nights(memory, Settings(latency=0.1))
    lines = [f"row-{n},{PROMPTS[n % 2]}\n" for n in range(12)]
    nights.write("id,prompt\n" + "".join(lines))
    nights.run(limit=5)
    begun = {row["id"]: row["images"] for row in nights.table() if row["status"] == "succeeded"}
    random.Random(2).shuffle(lines)
    nights.write("id,prompt\n" + "".join(lines))
    assert nights.run().bought == 7
    assert nights.endpoint.account.seen == 12
    after = {row["id"]: row["images"] for row in nights.table()}
    assert begun.items() <= after.items()
    painted = {
        (row["prompt"], prompt_mark((nights.directory / row["file_name"]).read_bytes()))
        for row in nights.table()
    }
    assert len(painted) == len({prompt for prompt, _ in painted}) == len({mark for _, mark in painted}) == 2


def test_a_table_of_several_variants_is_a_manifest_by_its_task_keys(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(4)
    nights.run(variants=2)
    keys = [row["task_key"] for row in nights.table()]
    nights.manifest = nights.directory / "results.parquet"
    nights.directory = memory / "again"
    assert nights.run(columns={"id": "task_key"}).bought == 8
    assert [row["id"] for row in nights.table()] == keys
    assert [row["manifest_id"] for row in nights.table()] == [f"row-{n // 2}" for n in range(8)]
