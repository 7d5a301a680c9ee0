"""
A run on several nodes of a real Ray cluster, all of them processes of this machine.

Is its quota held and used, and what is lost with a worker, with a node, with the driver?
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchgen.address import parsed
from batchgen.bucket import Bucket
from batchgen.cli import cli
from batchgen.objects import Objects
from batchgen.outpost import MARK
from bench.nodes import Nodes
from bench.seller import Account, Seller, Terms
from tests.test_depot import NAME, Cloud, local
from tests.test_end_to_end import account, simulator
from tests.test_kills import check_the_table_is_the_files, ledger, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: pip install -e '.[test,ray]' in an environment of its own",
    ),
]
ROOT = Path(__file__).parent.parent
KEY = "a-key-that-is-nowhere-else"
ROWS, AT_ONCE, NODES = 240, 12, 4


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes.up(NODES) as cluster:
        yield cluster


@pytest.fixture
def endpoint() -> Iterator[str]:
    with simulator("--no-paint", "--latency", "0.03") as url:
        yield url


def command(url: str, folder: Path, *more: str, at_once: int = AT_ONCE) -> list[str]:
    return [
        *("run", str(folder / "prompts.csv"), "--base-url", f"{url}/v1", "--provider", "core-today"),
        *("--output", str(folder / "run"), "--concurrency", str(at_once), "--json", *more),
    ]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHGEN_API_KEY": KEY}
    with subprocess.Popen(
        [sys.executable, "-m", "batchgen", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, Any, list[str]]:
    """Exit status, summary, and the lines on standard error."""
    out, err = process.communicate(timeout=300)
    return process.returncode, json.loads(out) if out else None, err.splitlines()


def wait_for(url: str, billed: int, process: subprocess.Popen[str]) -> None:
    while account(url)["billed"] < billed:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def check_every_request_is_accounted_for(
    url: str, folder: Path, summary: Any, *, place: str | None = None
) -> int:
    """Every row has its own picture, and every request its place; how many were lost."""
    bill, table = account(url), check_the_table_is_the_files(folder, ROWS)
    assert summary["tasks"] == {"succeeded": ROWS}
    bought = ledger(folder, "SELECT key, count(*) FROM attempts WHERE error_class IS NULL GROUP BY key")
    assert {count for _, count in bought} == {1}
    assert len(bought) == ROWS
    asked = "SELECT count(*) FROM attempts WHERE submitted_at IS NOT NULL"
    ((uncertain,),) = ledger(folder, f"{asked} AND error_class = 'uncertain'")
    ((found,),) = ledger(folder, f"{asked} AND error_class IS NULL AND cost IS NULL")
    ((submitted,),) = ledger(folder, asked)
    assert summary["uncertain"] == uncertain + found
    assert submitted == ROWS + uncertain, "each is a picture or uncertain"
    assert ROWS <= bill["billed"] == ROWS + bill["bought_again"] <= submitted
    spent = sum(row["cost_usd"] or 0 for row in table)
    assert spent == Decimal(summary["spent_usd"]) <= Decimal(bill["usd"])
    assert Decimal(bill["usd"]) <= (spent + Decimal(summary["uncertain_usd"])) * Decimal("1.01")
    assert cli(["verify", place or str(folder / "run")]) == 0
    return int(uncertain) + int(found)


def test_four_workers_hold_one_quota_and_use_it_as_one_process_does(nodes: Nodes, tmp_path: Path) -> None:
    def bought(name: str, *more: str) -> Account:
        folder = tmp_path / name
        folder.mkdir()
        rows(folder, 300)
        with Seller.opened(Terms(rpm=900, burst=15, answer_after=2.0, spread=0.3)) as seller:
            url = seller.url.removesuffix("/v1")
            with running(*command(url, folder, "--rpm", "900", *more, at_once=64)) as process:
                status, summary, _ = ended(process)
            assert (status, summary["tasks"], summary["uncertain"]) == (0, {"succeeded": 300}, 0)
            return seller.account()

    alone = bought("alone")
    many = bought("many", "--ray", nodes.address)
    print(f"{alone.seconds:.2f} s alone, {many.seconds:.2f} s with {NODES}; 429: {many.too_many}")
    assert many.too_many <= 0.01 * 300
    assert many.seconds < 1.03 * alone.seconds


def test_a_worker_that_is_killed_costs_what_it_had_in_flight_and_no_row(
    nodes: Nodes, endpoint: str, tmp_path: Path
) -> None:
    rows(tmp_path, ROWS)
    with running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
        for billed, node in ((40, 0), (90, 1)):
            wait_for(endpoint, billed, run)
            nodes.kill_worker(node)
        status, summary, told = ended(run)
    assert status == 0, (summary, told)
    lost = check_every_request_is_accounted_for(endpoint, tmp_path, summary)
    assert 0 < lost <= AT_ONCE
    assert len(told) == 2, told
    assert all("a worker on " in line and "lost, with " in line for line in told), told
    print(f"{lost} requests in flight with two workers that were killed")


def test_the_next_run_buys_nothing_of_what_was_settled_when_the_driver_was_killed(
    nodes: Nodes, endpoint: str, tmp_path: Path
) -> None:
    rows(tmp_path, ROWS)
    with running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
        wait_for(endpoint, 60, run)
        run.kill()
        run.communicate()
    settled = "error_class IS NULL AND settled_at IS NOT NULL"
    ((before,),) = ledger(tmp_path, f"SELECT count(*) FROM attempts WHERE {settled}")
    assert before >= 30
    with running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
        status, summary, told = ended(run)
    assert (status, told) == (0, []), summary
    lost = check_every_request_is_accounted_for(endpoint, tmp_path, summary)
    assert lost <= AT_ONCE
    assert summary["bought"] >= ROWS - before - AT_ONCE


def test_a_signal_lets_land_what_is_in_flight_on_all_nodes(
    nodes: Nodes, endpoint: str, tmp_path: Path
) -> None:
    rows(tmp_path, ROWS)
    with running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
        wait_for(endpoint, 40, run)
        run.send_signal(signal.SIGTERM)
        status, summary, told = ended(run)
    assert (status, summary["uncertain"]) == (143, 0), told
    assert summary["tasks"]["succeeded"] == account(endpoint)["billed"] < ROWS
    check_the_table_is_the_files(tmp_path, ROWS)


def test_a_second_signal_cuts_off_what_is_in_flight_on_all_nodes(nodes: Nodes, tmp_path: Path) -> None:
    rows(tmp_path, ROWS)
    with simulator("--no-paint", "--latency", "2") as url:
        with running(*command(url, tmp_path, "--ray", nodes.address)) as run:
            while account(url)["seen"] < AT_ONCE:
                time.sleep(0.02)
            for _ in range(2):
                run.send_signal(signal.SIGINT)
                time.sleep(0.5)
            status, summary, told = ended(run)
        assert (status, summary["uncertain"]) == (130, AT_ONCE), told
        assert account(url)["seen"] == AT_ONCE


def test_the_key_is_in_no_file_of_the_cluster_s(nodes: Nodes, endpoint: str, tmp_path: Path) -> None:
    rows(tmp_path, 5)
    with running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
        assert ended(run)[0] == 0
    files = [path for path in nodes.session.rglob("*") if path.is_file()]
    assert any("python-core-worker" in path.name for path in files)
    for path in [*files, *(tmp_path / "run").rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "a client of Ray's cannot drive a run"),
        ("nowhere", "it is auto, HOST:PORT or local"),
        ("127.0.0.1:1", "no cluster to join: Connection refused"),
    ],
)
def test_what_is_no_cluster_is_told_at_once(tmp_path: Path, address: str, message: str) -> None:
    rows(tmp_path, 5)
    with running(*command("http://127.0.0.1:1", tmp_path, "--ray", address)) as run:
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"batchgen: --ray {address}: {message}")


def test_a_folder_of_one_machine_s_own_is_refused_before_anything_is_sent(
    nodes: Nodes, endpoint: str, tmp_path: Path
) -> None:
    rows(tmp_path, 5)
    # What the driver sees under this name the nodes do not: it has a file system of its own.
    own = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
    (tmp_path / "run").mkdir()
    arguments = [sys.executable, "-m", "batchgen", *command(endpoint, tmp_path, "--ray", nodes.address)]
    found = subprocess.run(
        [*own, str(tmp_path / "run"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BATCHGEN_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 2, found
    assert "name one with -o that all nodes share under this path" in found.stderr
    assert account(endpoint)["seen"] == 0


def test_a_node_that_is_killed_costs_what_it_had_in_flight_and_no_row(endpoint: str, tmp_path: Path) -> None:
    rows(tmp_path, ROWS)
    with Nodes.up(2) as nodes:
        with running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
            wait_for(endpoint, 40, run)
            nodes.kill(0)
            status, summary, told = ended(run)
        assert status == 0, (summary, told)
        lost = check_every_request_is_accounted_for(endpoint, tmp_path, summary)
        assert 0 < lost <= AT_ONCE
        (line,) = told
        assert "a worker on " in line


def test_a_run_goes_on_without_the_cluster_s_head_and_ends_as_ever(endpoint: str, tmp_path: Path) -> None:
    rows(tmp_path, ROWS)
    with Nodes.up(2) as nodes, running(*command(endpoint, tmp_path, "--ray", nodes.address)) as run:
        wait_for(endpoint, 40, run)
        nodes.kill_head()
        status, summary, told = ended(run)
    assert (status, summary["uncertain"], told) == (0, 0, [])
    check_every_request_is_accounted_for(endpoint, tmp_path, summary)


def test_while_no_worker_is_left_nothing_is_bought_and_a_signal_ends_the_run_as_ever(
    endpoint: str, tmp_path: Path
) -> None:
    rows(tmp_path, ROWS)
    with Nodes.up(1) as nodes, running(*command(endpoint, tmp_path, "-v", "--ray", nodes.address)) as run:
        wait_for(endpoint, 40, run)
        nodes.kill(0)
        assert run.stderr is not None
        waiting = next(line for line in run.stderr if "no worker" in line)
        assert "unreachable: no worker of the cluster is there; again in" in waiting
        seen = account(endpoint)["seen"]
        run.send_signal(signal.SIGTERM)
        status, summary, _ = ended(run)
    assert (status, account(endpoint)["seen"]) == (143, seen)
    assert seen <= summary["tasks"]["succeeded"] + AT_ONCE < ROWS
    assert "--ray" in summary["resume"]
    # Nor does a run without a cluster miss anything.
    with running(*command(endpoint, tmp_path)) as run:
        status, summary, told = ended(run)
    assert (status, told) == (0, [])
    check_every_request_is_accounted_for(endpoint, tmp_path, summary)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One in a bucket, which whoever is started from here finds."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    cloud = Cloud()
    cloud.make(NAME)
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield f"s3://{NAME}/{tmp_path.name}/a b"
    cloud.stop()


def brought(place: str, folder: Path) -> Objects:
    """Lay what is in a bucket beside its ledger, as it would lie in a run directory."""
    objects, run = Objects(Bucket(parsed(place))), folder / "run"
    assert not (local(place) / "images").exists()
    shutil.copytree(local(place), run)
    (run / "results.parquet").unlink()
    for name in ("results.parquet", *objects.names("images")):
        (run / name).parent.mkdir(exist_ok=True)
        objects.bucket.fetch(name, run / name)
    return objects


def test_what_is_in_a_bucket_a_killed_worker_leaves_as_on_a_disk(
    endpoint: str, place: str, tmp_path: Path
) -> None:
    first = ROWS - 40
    lines = [f"row-{n},picture {n},{f'row-{n - first}' if n >= first else ''}\n" for n in range(ROWS)]
    (tmp_path / "prompts.csv").write_text(f"id,prompt,parent\n{''.join(lines)}")
    with Nodes.up(2) as nodes:
        arguments = [*command(endpoint, tmp_path), "--output", place, "--ray", nodes.address]
        with running(*arguments) as run:
            for billed, node in ((40, 0), (first + 10, 1)):  # while rows continue others, too
                wait_for(endpoint, billed, run)
                nodes.kill_worker(node)
            status, summary, told = ended(run)
        files = [path for path in nodes.session.rglob("*") if path.is_file()]
        assert not [path for path in files if b"nobodysbusiness" in path.read_bytes()]
    assert status == 0, (summary, told)
    assert len(told) == 2, told
    assert all("a worker on " in line and "lost, with " in line for line in told), told
    objects = brought(place, tmp_path)
    lost = check_every_request_is_accounted_for(endpoint, tmp_path, summary, place=place)
    assert 0 < lost <= AT_ONCE
    assert [found.name for found in objects.bucket.list("") if MARK in found.name] == []
