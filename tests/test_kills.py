"""Real processes over real sockets, killed and interrupted: what that can cost, and what it never costs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from batchgen.simulator.paint import prompt_key, prompt_mark
from tests.test_end_to_end import account, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
ROWS, KILLS, AT_ONCE = 700, 50, 6
LATENCY = "0.015"
"""Times the real models': 180 ms a picture, so that fifty short lives cannot come to the end of the rows."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with simulator("--no-paint", "--latency", LATENCY) as url:
        yield url


def command(url: str, folder: Path, *, at_once: int = AT_ONCE) -> list[str]:
    return [
        *("run", str(folder / "prompts.csv"), "--base-url", f"{url}/v1", "--provider", "core-today"),
        *("--output", str(folder / "run"), "--concurrency", str(at_once), "--quiet"),
    ]


def rows(folder: Path, count: int) -> None:
    lines = "".join(f"row-{n},picture {n}\n" for n in range(count))
    (folder / "prompts.csv").write_text(f"id,prompt\n{lines}")


def process(module: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHGEN_API_KEY": "cdt_any"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finished(module: str, *arguments: str) -> tuple[int, str]:
    """Exit status and standard output of a process that has nothing to say on standard error."""
    with process(module, *arguments) as started:
        out, err = started.communicate(timeout=120)
    assert err == ""
    return started.returncode, out


def ledger(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "run/ledger.db")) as connection:
        return connection.execute(query).fetchall()


def check_the_table_is_the_files(folder: Path, count: int) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "run/results.parquet").to_pylist()
    assert [row["id"] for row in table] == [f"row-{n}" for n in range(count)]
    for row in table:
        for image in row["images"] or ():
            data = (folder / "run" / image["file_name"]).read_bytes()
            assert sha256(data).hexdigest() == image["sha256"]
            assert prompt_mark(data) == prompt_key(row["prompt"]), "another row's picture"
    return table


def test_fifty_kills_at_any_instant_cost_no_row_and_repeat_only_what_was_in_flight(
    tmp_path: Path, endpoint: str
) -> None:
    rows(tmp_path, ROWS)
    status, out = finished("tests.killing", str(KILLS), "0.05", "0.6", *command(endpoint, tmp_path))
    ends = Counter(out.split())
    assert (status, ends) == (0, {str(-signal.SIGKILL): KILLS}), "every run was killed in its midst"

    # A row whose request was lost twice is left alone until it is asked for.
    last = command(endpoint, tmp_path, at_once=32)
    status, out = finished("batchgen", *last, "--retry-failed", "--json")
    summary, bill = json.loads(out), account(endpoint)
    assert (status, summary["tasks"]) == (0, {"succeeded": ROWS})
    table = check_the_table_is_the_files(tmp_path, ROWS)
    assert len(list((tmp_path / "run/images").iterdir())) == ROWS, "and no file is left over"

    bought = ledger(tmp_path, "SELECT key, count(*) FROM attempts WHERE error_class IS NULL GROUP BY key")
    assert Counter(dict(bought).values()) == {1: ROWS}, "no picture that was recorded is bought again"
    lost = "submitted_at IS NOT NULL AND error_class = 'uncertain'"
    by_run = ledger(tmp_path, f"SELECT run, count(*) FROM attempts WHERE {lost} GROUP BY run")
    assert max(dict(by_run).values()) <= AT_ONCE, "a kill costs what was in flight, at most"
    uncertain = sum(dict(by_run).values())
    adopted = "error_class IS NULL AND cost IS NULL"
    ((found,),) = ledger(tmp_path, f"SELECT count(*) FROM attempts WHERE {adopted}")
    assert 0 < bill["bought_again"] <= uncertain
    assert uncertain + found == summary["uncertain"]
    ((submitted,),) = ledger(tmp_path, "SELECT count(*) FROM attempts WHERE submitted_at IS NOT NULL")
    assert submitted == ROWS + uncertain, "each is a picture or uncertain"
    assert bill["billed"] == bill["seen"] == ROWS + bill["bought_again"] <= submitted
    spent = sum(row["cost_usd"] or 0 for row in table)
    assert spent == Decimal(summary["spent_usd"]) <= Decimal(bill["usd"]), bill
    assert Decimal(bill["usd"]) <= (spent + Decimal(summary["uncertain_usd"])) * Decimal("1.01")
    print(
        f"{KILLS} kills: {len(by_run)} with requests in flight, {uncertain} uncertain, "
        f"{bill['bought_again']} bought again, {found} found on disk"
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_buys_nothing_twice_and_leaves_a_whole_table(
    tmp_path: Path, endpoint: str, number: signal.Signals, status: int
) -> None:
    rows(tmp_path, 150)
    with process("batchgen", *command(endpoint, tmp_path), "--json") as run:
        while account(endpoint)["billed"] < 40:
            time.sleep(0.01)
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
    assert run.returncode == status
    (told,) = err.splitlines()
    assert f"{number.name}: what is in flight may land" in told
    summary, bill = json.loads(out), account(endpoint)
    assert 40 <= bill["billed"] < 150, "in its midst"
    assert (summary["uncertain"], summary["tasks"]["succeeded"]) == (0, bill["billed"])
    statuses = Counter(row["status"] for row in check_the_table_is_the_files(tmp_path, 150))
    assert statuses == {"succeeded": bill["billed"], "pending": 150 - bill["billed"]}
    assert Decimal(summary["spent_usd"]) == Decimal(bill["usd"])

    resumed, out = finished("batchgen", *command(endpoint, tmp_path), "--json")
    bill = account(endpoint)
    assert (resumed, bill["billed"], bill["bought_again"]) == (0, 150, 0)
    assert Decimal(json.loads(out)["spent_usd"]) == Decimal(bill["usd"])
    check_the_table_is_the_files(tmp_path, 150)
