"""What a lost worker leaves: its picture is its task's, what it began to write is nobody's."""

from __future__ import annotations

from contextlib import asynccontextmanager, closing
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from batchgen import job as jobs
from batchgen import recovery, runner
from batchgen.cli import cli
from batchgen.imaging import Check, examine
from batchgen.ledger import Ledger, Reader
from batchgen.records import Expect, Image, Outcome, Status
from batchgen.store import Store
from bench.servers import picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from batchgen.ledger import Attempt
    from batchgen.records import Task
    from batchgen.worker import Attempting

pytestmark = pytest.mark.blocks
ONE, OTHER = picture(8, 8, 8), picture(8, 8, 8)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db")) as opened:
        opened.begin(now=1, provider="p", simulated=False, tasks=1, version="0", in_flight=1, command=None)
        yield opened


async def in_flight(ledger: Ledger, key: str = "k", expect: Expect = Expect.IMAGE) -> Attempt:
    attempt = ledger.start(
        key=key, row_id=key, stem=key, model="m", provider="p", reserved=Decimal(1), now=2, expect=expect
    )
    await ledger.submitted(attempt, now=3)
    return attempt


def put(store: Store, stem: str, data: bytes) -> Image:
    seen = examine(data, Check.FULL)
    return Image(
        file_name=store.put(stem, seen.extension, data),
        sha256=sha256(data).hexdigest(),
        mime=seen.mime,
        width=seen.width,
        height=seen.height,
        bytes=len(data),
    )


async def test_what_a_lost_worker_stored_is_its_task_s_and_what_it_began_is_deleted(
    ledger: Ledger, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    await in_flight(ledger)
    await in_flight(ledger, "another")
    put(store, "another", OTHER)
    begun = tmp_path / "images/.k.0.part"
    begun.write_bytes(ONE[:20])
    assert recovery.left_by(ledger.path, store, "k", "k") is None
    assert not begun.exists()
    stored = put(store, "k", ONE)
    assert recovery.left_by(ledger.path, store, "k", "k") == stored
    (tmp_path / stored.file_name).write_bytes(ONE[:-20])
    assert recovery.left_by(ledger.path, store, "k", "k") is None, "it is not whole"


async def test_a_picture_of_an_earlier_purchase_is_not_taken_for_a_lost_one(
    ledger: Ledger, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    bought = Outcome(images=(put(store, "k", ONE),), cost_usd=Decimal("0.07"))
    await ledger.settle(
        await in_flight(ledger), bought, status=Status.SUCCEEDED, counts=True, in_credits=None, now=4
    )
    ledger.take_up_again(["k"])
    await in_flight(ledger)
    assert recovery.left_by(ledger.path, store, "k", "k") is None
    new = put(store, "k", OTHER)
    assert recovery.left_by(ledger.path, store, "k", "k") == new


async def test_words_are_not_made_good_by_a_picture(ledger: Ledger, tmp_path: Path) -> None:
    await in_flight(ledger, expect=Expect.TEXT)
    put(Store(tmp_path), "k", ONE)
    assert recovery.left_by(ledger.path, Store(tmp_path), "k", "k") is None


class Lost:
    """Workers of which nothing is left but their pictures."""

    def __init__(self, **parts: Any) -> None:
        self._store: Store = parts["store"]

    @asynccontextmanager
    async def hired(self, hands: int) -> AsyncIterator[Sequence[Attempting]]:
        yield [self] * hands

    async def attempt(
        self, task: Task, stem: Callable[[], Awaitable[str | None]], *, sending: Callable[[], Awaitable[None]]
    ) -> Outcome:
        await sending()
        name = await stem()
        assert name is not None
        return Outcome(images=(put(self._store, name, picture(8, 8, 8)),), started_at=1)


def test_what_it_cost_is_unknown_and_counts_against_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "Workers", Lost)
    (tmp_path / "p.csv").write_text("prompt\n" + "".join(f"picture {n}\n" for n in range(30)))
    job = jobs.resolve(
        str(tmp_path / "p.csv"), {"output": str(tmp_path / "run"), "budget": 1, "concurrency": 1}
    )
    summary = runner.run(job, environment={"BATCHGEN_API_KEY": "any"})
    bought = summary.tasks["succeeded"]
    assert summary.stopped is not None
    assert (summary.stopped.reason, summary.exit_status) == ("budget", 3)
    assert 0 < bought == summary.uncertain < 30
    assert summary.spent_usd == 0
    assert Decimal("0.8") < summary.uncertain_usd == summary.counted_usd <= 1
    assert cli(["verify", str(tmp_path / "run")]) == 0
    with closing(Reader(tmp_path / "run/ledger.db")) as reader:
        assert reader.totals().uncertain == bought
