"""
How many tasks a second does the ledger take, and how large is one?

    python -m bench.ledger [ROWS] [--trio]

A million tasks (or so many) go through started, submitted and settled, 64 at a time, each step durable before
the next, as in a run. Beside it, in the same run, what the disk lets SQLite do at most: one row a task in a
table of its own, committed as often, by nobody who waits. Bound: 3,000 tasks a second.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import anyio

from batchgen.ledger import Ledger
from batchgen.records import Expect, Image, Outcome, Status, Usage, UsageQuality

IN_FLIGHT, BOUND = 64, 3000


async def tasks(ledger: Ledger, count: int) -> None:
    """Lead so many tasks through the ledger."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            attempt = ledger.start(
                key=key(number), row_id=f"row-{number}", stem=f"row-{number}",
                model="gemini-3.1-flash-image-preview", provider="core-today", reserved=None, now=number,
                expect=Expect.IMAGE, parent_sha=None,
            )  # fmt: skip
            await ledger.submitted(attempt, now=number)
            await ledger.settle(
                attempt, outcome(number), status=Status.SUCCEEDED, counts=True, in_credits=None, now=number
            )

    async with anyio.create_task_group() as group:
        for _ in range(IN_FLIGHT):
            group.start_soon(worker)


def key(number: int) -> str:
    """A task's key: a hash, so that no two neighbours lie side by side in the ledger."""
    return f"{sha256(str(number).encode()).hexdigest()[:40]}-1-1"


def outcome(number: int) -> Outcome:
    """A picture as it is settled."""
    image = Image(
        file_name=f"images/row-{number}.jpg", sha256=f"{number:064x}", mime="image/jpeg", width=1024,
        height=1024, bytes=800_000,
    )  # fmt: skip
    usage = Usage(
        prompt_tokens=20, text_tokens=300, image_tokens=1120, total_tokens=1440, quality=UsageQuality.DETAILED
    )
    return Outcome(images=(image,), usage=usage, request_id=f"{number:032x}", finish_reason="stop")


def floor(path: Path, count: int) -> float:
    """Seconds that SQLite takes for one row a task, in groups of as many as are in flight."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE tasks (key TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
    began = time.monotonic()
    for start in range(0, count, IN_FLIGHT):
        rows = [(key(number), "x" * 300) for number in range(start, start + IN_FLIGHT)]
        for _ in range(2):  # submitted and settled are two commits
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO tasks VALUES (?, ?)", rows)
            connection.execute("COMMIT")
    connection.close()
    return time.monotonic() - began


def main() -> int:
    """Run it, print the figures, return 1 where a bound is broken."""
    count = next((int(argument) for argument in sys.argv[1:] if argument.isdigit()), 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        least = floor(Path(folder) / "floor.db", count)
        path = Path(folder) / "ledger.db"
        ledger = Ledger(path)
        ledger.begin(
            now=0, provider="core-today", simulated=True, tasks=count, version="bench", in_flight=IN_FLIGHT
        )
        began = time.monotonic()
        anyio.run(tasks, ledger, count, backend="trio" if "--trio" in sys.argv else "asyncio")
        took = time.monotonic() - began
        ledger.close()
        size = path.stat().st_size
    print(f"tasks a second   {count / took:,.0f} (bound {BOUND:,})")
    print(f"of the floor's   {least / took:.2f} x {count / least:,.0f}")
    print(f"bytes a task     {size / count:.0f}")
    return int(count / took < BOUND)


if __name__ == "__main__":
    sys.exit(main())
