"""What makes attempts on another machine, called as it is called there, without a cluster between."""

from __future__ import annotations

import logging
import sys
import threading
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from batchgen import cluster
from batchgen import job as jobs
from batchgen.address import parsed
from batchgen.bucket import Bucket
from batchgen.cli import cli
from batchgen.objects import Objects
from batchgen.outpost import MARK, Orders, Outpost, Presence
from batchgen.records import Outcome, Reference, Task
from batchgen.simulator.paint import prompt_key, prompt_mark
from batchgen.version import __version__
from tests.test_depot import NAME, Cloud, answering
from tests.test_end_to_end import account, simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
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


@pytest.fixture
async def hired() -> AsyncIterator[Callable[[], Outpost]]:
    """Outposts whose connections are closed; elsewhere their processes are ended."""
    made: list[Outpost] = []

    def one() -> Outpost:
        made.append(Outpost())
        return made[-1]

    yield one
    for outpost in made:
        await outpost._open.aclose()


async def unfit(outpost: Outpost, orders: Orders, version: str = __version__) -> str:
    answer = await outpost.begin(version, msgspec.msgpack.encode(orders))
    return msgspec.msgpack.decode(answer, type=Presence).unfit


def test_orders_do_not_show_the_key(orders: Orders) -> None:
    assert KEY.encode() in msgspec.msgpack.encode(orders)
    assert KEY not in f"{orders!r} {orders}"


async def test_attempts_come_back_without_bytes_and_their_pictures_are_in_the_run_directory(
    endpoint: str, orders: Orders, tmp_path: Path, hired: Callable[[], Outpost]
) -> None:
    (tmp_path / MARK).write_text("a mark")
    outpost = hired()
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


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    cloud = Cloud()
    cloud.make(NAME)
    yield cloud
    cloud.stop()


@pytest.fixture
def bucket(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A place of a test's own, with the driver's mark."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(parsed(f"s3://{NAME}/{tmp_path.name}"))
    bucket.put(MARK, b"a mark")
    return bucket


async def test_pictures_go_into_the_driver_s_bucket_and_those_of_parents_come_from_it(
    orders: Orders, bucket: Bucket, tmp_path: Path, hired: Callable[[], Outpost]
) -> None:
    outpost, objects = hired(), Objects(bucket)
    orders = msgspec.structs.replace(orders, root=str(tmp_path / "nowhere"), address=bucket.address)
    assert await unfit(outpost, orders) == ""
    assert [found.name for found in bucket.list("")] == [MARK], "nothing is left of the look"
    task = Task(key="", id="", variant=1, name="", model="gemini-3.1-flash-image-preview", prompt="parent")
    for name in ("parent", "child"):
        task = msgspec.structs.replace(task, key=name, id=name, name=name, prompt=name)
        answer = await outpost.attempt(msgspec.msgpack.encode(cluster._portable(task)), name)
        outcome = msgspec.msgpack.decode(answer, type=Outcome)
        assert outcome.kind is None, outcome
        (image,) = outcome.images
        data = objects.read(image.file_name) or b""
        assert (sha256(data).hexdigest(), prompt_mark(data)) == (image.sha256, prompt_key(name))
        source = objects.address(image.file_name)
        brought = Reference(source=source, sha256=image.sha256, mime=image.mime, bytes=image.bytes)
        task = msgspec.structs.replace(task, references=(brought,))
    objects.remove("images/child.jpg")
    outpost = hired()
    await unfit(outpost, orders)
    answer = await outpost.attempt(msgspec.msgpack.encode(task), "child")
    outcome = msgspec.msgpack.decode(answer, type=Outcome)
    assert outcome.message == f"{objects.address('images/child.jpg')}: it is gone"
    assert not (tmp_path / "nowhere").exists()


async def test_a_bucket_that_is_slow_holds_up_no_more_than_on_the_driver(
    orders: Orders, bucket: Bucket
) -> None:
    outpost, all_there = Outpost(), threading.Barrier(16)
    assert await unfit(outpost, msgspec.structs.replace(orders, address=bucket.address)) == ""
    async with anyio.create_task_group() as group:
        for _ in range(16):
            group.start_soon(outpost._blocking, partial(all_there.wait, 30))


async def test_a_bucket_that_is_not_the_driver_s_is_told(orders: Orders, bucket: Bucket) -> None:
    another = parsed(f"{bucket.address}/another")
    told = await unfit(Outpost(), msgspec.structs.replace(orders, address=another))
    assert told.startswith(f"{another} is another place there than here; on every node Ray is to be started")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "there is no answer; check the network"),
        ({"AWS_ENDPOINT_URL": "minio:9000"}, "AWS_ENDPOINT_URL is no server"),
        ({"AWS_SECRET_ACCESS_KEY": "nobodysbusiness\r"}, "AWS_SECRET_ACCESS_KEY has a character"),
        ({"AWS_ALLOW_HTTP": ""}, "its endpoint is not encrypted"),
    ],
)
async def test_a_bucket_that_is_out_of_reach_is_told(
    orders: Orders, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], why: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    told = await unfit(Outpost(), msgspec.structs.replace(orders, address=bucket.address))
    assert told.startswith(f"{bucket.address}")
    assert why in told
    assert "on every node" in told
    assert "nobodysbusiness" not in told


async def test_a_bucket_that_may_not_be_written_is_told_without_what_it_answers(
    orders: Orders, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = b"<Error><Code>AccessDenied</Code><Message>nobodysbusiness AKIAANYBODY</Message></Error>"
    with answering(403, denied) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        told = await unfit(Outpost(), msgspec.structs.replace(orders, address=bucket.address))
    with answering(200, b"a mark") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        unwritten = await unfit(Outpost(), msgspec.structs.replace(orders, address=bucket.address))
    assert unwritten.startswith(f"{bucket.address}/{MARK}-"), "it was tried"
    assert "access is denied (AccessDenied); see that the key is right and may read, write" in told
    assert "nobodysbusiness" not in told
    assert "AKIA" not in told


async def test_a_node_without_what_speaks_to_buckets_is_told(
    orders: Orders, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    told = await unfit(Outpost(), msgspec.structs.replace(orders, address=bucket.address))
    assert told.endswith("`pip install 'batchgen[cloud]'`; see to that on every node, where Ray is started")


def test_the_mark_of_who_has_taken_over_a_bucket_stays_there(bucket: Bucket, tmp_path: Path) -> None:
    with cluster._marked(tmp_path, Objects(bucket), b"one"):
        bucket.put(MARK, b"other")
    assert bucket.get(MARK) == b"other"
    with cluster._marked(tmp_path, Objects(bucket), b"one"):
        assert bucket.get(MARK) == b"one"
    assert bucket.get(MARK) is None
    assert not (tmp_path / MARK).exists()


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
