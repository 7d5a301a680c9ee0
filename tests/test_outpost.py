"""What makes attempts on another machine, called as it is called there, without a cluster between."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from batchgen import cluster
from batchgen import job as jobs
from batchgen.cli import cli
from batchgen.outpost import MARK, Orders, Outpost, Presence
from batchgen.records import Outcome, Reference, Task
from batchgen.simulator.paint import prompt_key, prompt_mark
from batchgen.version import __version__
from tests.test_end_to_end import account, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "a-key-that-is-nowhere-else"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What calls it is Ray, which knows asyncio alone."""
    return "asyncio", {}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with simulator("--no-paint", "--key", KEY) as url:
        yield url


@pytest.fixture
def orders(endpoint: str, tmp_path: Path) -> Orders:
    job = jobs.resolve("p.csv", {"provider": "core-today", "base_url": f"{endpoint}/v1"})
    there = jobs.endpoint(job, {"BATCHGEN_API_KEY": KEY})
    return Orders(job=job, endpoint=there, root=str(tmp_path), mark="a mark")


async def unfit(outpost: Outpost, orders: Orders, version: str = __version__) -> str:
    answer = await outpost.begin(version, msgspec.msgpack.encode(orders))
    return msgspec.msgpack.decode(answer, type=Presence).unfit


def test_orders_do_not_show_the_key(orders: Orders) -> None:
    assert KEY.encode() in msgspec.msgpack.encode(orders)
    assert KEY not in f"{orders!r} {orders}"


async def test_attempts_come_back_without_bytes_and_their_pictures_are_in_the_run_directory(
    endpoint: str, orders: Orders, tmp_path: Path
) -> None:
    (tmp_path / MARK).write_text("a mark")
    outpost = Outpost()
    assert await unfit(outpost, orders) == ""
    outcomes: dict[str, Outcome] = {}

    async def attempt(name: str) -> None:
        task = Task(
            key=name, id=name, variant=1, name=name, model="gemini-3.1-flash-image-preview", prompt=name
        )
        answer = await outpost.attempt(msgspec.msgpack.encode(task), name)
        outcomes[name] = msgspec.msgpack.decode(answer, type=Outcome)

    for _ in range(2):
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(attempt, f"picture {number}")
    assert len(outcomes) == 5
    for name, outcome in outcomes.items():
        assert outcome.kind is None, outcome
        assert outcome.cost_usd
        (image,) = outcome.images
        assert image.file_name == f"images/{name}.jpg"
        data = (tmp_path / image.file_name).read_bytes()
        assert (len(data), prompt_mark(data)) == (image.bytes, prompt_key(name))
    assert account(endpoint)["billed"] == 10


async def test_another_version_is_not_put_to_work(orders: Orders) -> None:
    why = await unfit(Outpost(), orders, "0.0.1")
    assert why == f"batchgen {__version__} is installed there and 0.0.1 here; have the same everywhere"


@pytest.mark.parametrize(("there", "why"), [("other", "is another folder"), (None, "cannot be read")])
async def test_a_folder_that_is_not_the_driver_s_is_told(
    orders: Orders, tmp_path: Path, there: str | None, why: str
) -> None:
    if there is not None:
        (tmp_path / MARK).write_text(there)
    told = await unfit(Outpost(), orders)
    assert told.startswith(f"the run directory {tmp_path} {why}")
    assert told.endswith("name one with -o that all nodes share under this path")


def test_references_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Reference(source="a/b.png", sha256="0", mime="image/png")
    link = Reference(source="https://example.com/b.png", sha256="1")
    task = Task(key="k", id="r", variant=1, name="r", model="m", prompt="p", references=(here, link))
    assert [each.source for each in cluster._portable(task).references] == [
        str(tmp_path / "a/b.png"),
        "https://example.com/b.png",
    ]


def test_without_ray_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "p.csv").write_text("prompt\na\n")
    flags = ["--base-url", "http://127.0.0.1:1", "-o", str(tmp_path / "run"), "--ray", "auto"]
    assert cli(["run", str(tmp_path / "p.csv"), *flags]) == 2
    assert "Ray is not installed; `pip install 'batchgen[ray]'`" in capsys.readouterr().err


def test_the_simulator_in_this_process_is_not_for_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text("prompt\na\n")
    flags = ["--provider", "simulator", "-o", str(tmp_path / "run"), "--ray", "auto"]
    assert cli(["run", str(tmp_path / "p.csv"), *flags]) == 2
    assert "the simulator answers in this process alone" in capsys.readouterr().err
