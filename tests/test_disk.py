"""A full disk costs time, never a picture that was paid for, and nothing is bought that cannot be written."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen import disk
from batchgen.disk import PATIENCE, Disk, Free, Space
from batchgen.errors import InputError, StorageError
from batchgen.job import LEDGER
from batchgen.ledger import Ledger, Reader
from batchgen.records import ErrorClass, Image, Outcome, Status
from batchgen.simulator import Settings
from tests.nights import Nights, inline
from tests.test_end_to_end import ROOT, account, simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchgen.progress import Progress

AMPLE = Free(bytes=10**15, files=None)
FULL = OSError(28, "No space left on device")


# What fits


@given(
    st.integers(0, 10**13),
    st.none() | st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.floats(1, 5e7),
    st.integers(0, 10**10),
)
def test_as_many_pictures_fit_as_the_free_space_holds_and_not_one_more(
    free: int, files: int | None, most: int, picture: float, reserve: int
) -> None:
    found = Free(bytes=free, files=files)
    space = Space(directory=Path("run"), picture=picture, reserve=reserve, look=lambda _: found)
    fit, told = space.fitting(most)
    assert 0 <= fit <= most
    assert (told is None) == (fit == most) or (most == 0 and told is not None)
    assert fit == 0 or space.fitting(fit)[1] is None
    assert fit == most or space.fitting(fit + 1)[1] is not None


def test_a_file_system_that_tells_nothing_is_not_taken_for_a_full_one() -> None:
    space = Space(
        directory=Path("run"), picture=1e6, reserve=10**9, look=lambda _: Free(bytes=None, files=None)
    )
    assert space.fitting(10**6) == (10**6, None)


def test_what_is_free_is_what_df_says(tmp_path: Path) -> None:
    said = subprocess.run(
        ["df", "--output=avail,iavail", "-B1", tmp_path], capture_output=True, text=True, check=True
    )
    available, files = (int(number) for number in said.stdout.splitlines()[1].split())
    found = disk.free(tmp_path)
    assert found.bytes == pytest.approx(available, rel=0.05)
    assert found.files is None or found.files == pytest.approx(files, rel=0.05)
    with pytest.raises(StorageError, match="check that the run directory is still there"):
        disk.free(tmp_path / "gone")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_500_000, "1.5 MB"), (72e9, "72 GB"), (1.5e15, "1,500 TB")],
)
def test_sizes_are_told_as_people_say_them(count: float, said: str) -> None:
    assert disk.size(count) == said


# Waiting, in virtual time


class Refusing:
    """Something to write that the disk refuses until a moment."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.tries: list[float] = []

    async def __call__(self) -> str:
        self.tries.append(anyio.current_time())
        if anyio.current_time() < self.until:
            raise StorageError(f"refused at {anyio.current_time():g}")
        return "written"


def disk_with(look: Callable[[Path], Free]) -> Disk:
    return Disk(Space(directory=Path("run"), picture=1e6, reserve=10**7, look=look), blocking=inline)


@pytest.mark.virtual_time
async def test_a_write_is_tried_until_the_disk_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    began = anyio.current_time()
    write = Refusing(began + 40)
    assert await disk_with(lambda _: AMPLE).persist(write) == "written"
    assert 40 <= anyio.current_time() - began <= 45
    assert len(write.tries) < 20, "patiently"
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert re.search(
        r"refused at .*within 60 s, this run goes on by itself; nothing new is bought meanwhile", told[0]
    )


@pytest.mark.virtual_time
async def test_patience_ends_for_all_together() -> None:
    began = anyio.current_time()
    shared = disk_with(lambda _: AMPLE)
    ends: list[float] = []

    async def wait(after: float) -> None:
        await anyio.sleep(after)
        with pytest.raises(StorageError, match="refused"):
            await shared.persist(Refusing(began + 1e6))
        ends.append(anyio.current_time() - began)

    async with anyio.create_task_group() as group:
        for after in (0, 30, 59, 100):
            group.start_soon(wait, after)
    assert ends == [pytest.approx(end, abs=0.1) for end in (PATIENCE, PATIENCE, PATIENCE, 100)]


@pytest.mark.virtual_time
async def test_who_gives_up_has_one_last_try_at_once() -> None:
    began = anyio.current_time()
    shared = disk_with(lambda _: AMPLE)
    write = Refusing(began + 20)
    async with anyio.create_task_group() as group:
        group.start_soon(shared.persist, write)
        await anyio.sleep(21)
        shared.give_up()
    assert write.tries[-1] == began + 21
    with pytest.raises(StorageError):
        await shared.persist(Refusing(began + 1e6))
    assert anyio.current_time() == began + 21


@pytest.mark.virtual_time
async def test_nothing_is_bought_while_anything_waits_to_be_written() -> None:
    began = anyio.current_time()
    shared = disk_with(lambda _: AMPLE)
    async with anyio.create_task_group() as group:
        group.start_soon(shared.persist, Refusing(began + 10))
        await anyio.sleep(1)
        assert await shared.room(1) is None
        assert anyio.current_time() >= began + 10


@pytest.mark.virtual_time
async def test_free_space_is_asked_for_once_a_second() -> None:
    asked: list[float] = []

    def look(_: Path) -> Free:
        asked.append(anyio.current_time())
        return AMPLE

    shared = disk_with(look)
    for _ in range(500):
        assert await shared.room(8) is None
        await anyio.sleep(0.01)
    assert len(asked) == 5


@pytest.mark.virtual_time
async def test_too_little_room_is_waited_for_and_then_told() -> None:
    began = anyio.current_time()
    for back, answer in ((30.0, None), (1e6, "run: 8 pictures of about 1.0 MB")):
        start = anyio.current_time()

        def look(_: Path, until: float = start + back) -> Free:
            return AMPLE if anyio.current_time() >= until else Free(bytes=10**6, files=None)

        told = await disk_with(look).room(8)
        assert (told or "").startswith(answer or "")
        assert (told is None) == (answer is None)
    assert anyio.current_time() - began == pytest.approx(30 + PATIENCE, abs=2)


@pytest.mark.virtual_time
async def test_a_file_system_that_does_not_answer_is_one_without_room() -> None:
    def look(directory: Path) -> Free:
        raise StorageError(f"{directory}: Stale file handle")

    assert await disk_with(look).room(1) == "run: Stale file handle"


@pytest.mark.virtual_time
async def test_what_a_picture_takes_is_learned() -> None:
    shared = disk_with(lambda _: Free(bytes=10**7 + 40_000_000, files=None))
    assert await shared.room(30) is None
    for _ in range(3):
        shared.observe(20_000_000)
    await anyio.sleep(1)
    assert "30 pictures of about 20 MB" in (await shared.room(30) or "")


# Whole nights, in virtual time


@pytest.fixture(params=["asyncio", "trio"])
def nights(memory: Path, request: pytest.FixtureRequest) -> Nights:
    return Nights(memory, backend=request.param)


def lost(reader: Reader) -> Counter[str]:
    """Requests in the ledger that were billed, or may have been, and made no picture; by their class."""
    rows = reader._connection.execute(
        "SELECT error_class, count(*) FROM attempts"
        " WHERE error_class IN ('uncertain', 'unwritten') GROUP BY 1"
    ).fetchall()
    return Counter(dict(rows))


def lost_in(nights: Nights) -> Counter[str]:
    with closing(Reader(nights.directory / LEDGER)) as reader:
        return lost(reader)


def statuses(nights: Nights) -> Counter[str]:
    return Counter(row["status"] for row in nights.table())


def after(seconds: float, then: Callable[[], object]) -> Callable[[Progress], None]:
    """Have something happen so many seconds into a run."""
    began: list[float] = []
    done: list[object] = []

    def watch(_: Progress) -> None:
        began.append(anyio.current_time())
        if not done and began[-1] - began[0] >= seconds:
            done.append(then())

    return watch


@pytest.mark.virtual_time
@pytest.mark.parametrize("back", [5, 50])
def test_a_disk_that_comes_back_in_time_leaves_no_trace_in_account_and_table(
    nights: Nights, back: int
) -> None:
    nights.rows(40)
    nights.directory.mkdir()
    way = nights.directory / "images"
    way.write_text("in the way")
    summary = nights.run(concurrency=4, on_progress=after(12 + back, way.unlink))
    assert (summary.exit_status, summary.bought, summary.requests) == (0, 40, 40)
    assert nights.endpoint.account.billed == 40
    assert summary.wasted_usd == 0


@pytest.mark.virtual_time
def test_nothing_is_dispatched_while_a_picture_waits(nights: Nights) -> None:
    nights.rows(40)
    nights.directory.mkdir()
    (nights.directory / "images").write_text("in the way")
    summary = nights.run(concurrency=4)
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert summary.stopped.reason == "unwritten"
    assert nights.endpoint.account.billed == 4
    assert lost_in(nights) == {"unwritten": 4}


@pytest.mark.virtual_time
def test_a_job_that_does_not_fit_is_refused_before_anything_is_sent(nights: Nights) -> None:
    nights.rows(1000)
    tight = partial(nights.run, free=lambda _: Free(bytes=150_000_000, files=None))
    with pytest.raises(
        InputError,
        match=r"run: 1,000 pictures of about 250 kB, the ledger and the table need 28\d MB, and 150 MB are"
        r" free; make room, choose another disk with -o, or buy only a part of the rows with --limit"
        r" \(\d+ more fit\)",
    ) as caught:
        tight()
    assert nights.endpoint.account.seen == 0
    fit = int(re.findall(r"(\d+) more fit", str(caught.value))[0])
    with pytest.raises(InputError):
        tight(limit=fit + 1)
    assert tight(limit=fit // 10).exit_status == 0


@pytest.mark.virtual_time
def test_a_job_without_room_for_its_files_is_refused(nights: Nights) -> None:
    nights.rows(1000)
    with pytest.raises(InputError, match=r"1,000 pictures need as many files, and 500 more can be made"):
        nights.run(free=lambda _: Free(bytes=10**12, files=500))


@pytest.mark.virtual_time
def test_only_what_is_still_to_buy_must_fit_at_the_size_of_what_was_bought(nights: Nights) -> None:
    nights.rows(1000)
    nights.run(limit=20)
    small = Free(bytes=40_000_000, files=None)
    assert nights.run(free=lambda _: small).exit_status == 0, "pictures here have 1 kB"
    none = Free(bytes=0, files=0)
    assert nights.run(free=lambda _: none).exit_status == 0, "there is nothing to buy"


@pytest.mark.virtual_time
def test_a_budget_that_ends_before_the_disk_does_is_no_reason_to_refuse(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(1000)
    tight = partial(nights.run, free=lambda _: Free(bytes=60_000_000, files=None))
    with pytest.raises(InputError, match="are free"):
        tight(budget=100)
    assert tight(budget=1).stopped is not None


@pytest.mark.virtual_time
def test_a_disk_that_others_fill_stops_the_run_before_it_buys_more(nights: Nights) -> None:
    nights.rows(200)
    found = [AMPLE]
    filled = after(20, lambda: found.append(Free(bytes=30_000_000, files=None)))
    summary = nights.run(concurrency=4, free=lambda _: found[-1], on_progress=filled)
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert (summary.stopped.reason, "and 30 MB are free" in summary.stopped.message) == ("disk", True)
    assert 4 <= summary.bought <= 16
    assert nights.endpoint.account.billed == summary.bought
    assert nights.run().exit_status == 0
    assert nights.endpoint.account.billed == 200


@pytest.mark.virtual_time
def test_a_disk_that_others_fill_for_half_a_minute_delays_the_run_only(nights: Nights) -> None:
    nights.rows(60)

    def look(_: Path) -> Free:
        return Free(bytes=10**6, files=None) if 20 <= anyio.current_time() - began[0] < 50 else AMPLE

    began: list[float] = []
    summary = nights.run(
        concurrency=4,
        free=lambda path: look(path) if began else AMPLE,
        on_progress=lambda _: began.append(anyio.current_time()),
    )
    assert (summary.exit_status, summary.bought, nights.endpoint.account.billed) == (0, 60, 60)


@contextmanager
def limited() -> Iterator[Callable[[int], None]]:
    """
    Set how large any file of this process may get, as a disk that takes no more for any user anywhere.

    A limit of 0 refuses every write; one of 4096 lets small pictures through and nothing into the ledger.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.virtual_time
def test_when_the_ledger_fails_what_is_in_flight_still_lands_on_disk(nights: Nights) -> None:
    nights.rows(60)
    with (
        limited() as limit,
        pytest.raises(StorageError, match=r"ledger\.db: .*then run the same command again") as caught,
    ):
        nights.run(concurrency=4, on_progress=after(30, lambda: limit(4096)))
    assert "results.parquet" not in str(caught.value)
    files = len(list((nights.directory / "images").iterdir()))
    assert files == nights.endpoint.account.billed < 60, "whatever was paid for is there"
    assert list(nights.directory.glob("*ballast*")) == []
    summary = nights.run()
    assert (summary.exit_status, statuses(nights)) == (0, {"succeeded": 60})
    assert 1 <= summary.uncertain <= 4, "nobody knows what these cost"
    assert nights.endpoint.account.billed == 60, "and their pictures were found on disk"


@pytest.mark.virtual_time
def test_an_outcome_that_the_ledger_takes_late_is_no_less_recorded(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    nights.rows(10)
    with limited() as limit:
        limit_at = after(30, lambda: limit(4096))
        lifted_at = after(65, lambda: limit(resource.RLIM_INFINITY))

        def watch(progress: Progress) -> None:
            limit_at(progress)
            lifted_at(progress)

        summary = nights.run(concurrency=1, on_progress=watch)
    assert any("ledger.db" in record.message for record in caplog.records), "it was late"
    assert (summary.exit_status, summary.requests, summary.uncertain) == (0, 10, 0)
    assert nights.endpoint.account.billed == 10


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("seed", range(8))
def test_a_disk_that_comes_and_goes_at_random_costs_no_row_and_buys_none_twice(
    memory: Path, backend: str, seed: int
) -> None:
    nights = Nights(memory, Settings(paint=False, seed=seed), backend=backend)
    nights.rows(25)
    rng = random.Random(seed)

    for _ in range(30):
        with limited() as limit:
            changes = [0.0]

            def watch(_: Progress, changes: list[float] = changes, limit: Any = limit) -> None:
                if anyio.current_time() >= changes[-1]:
                    limit(rng.choice([0, 4096, resource.RLIM_INFINITY, resource.RLIM_INFINITY]))
                    changes.append(anyio.current_time() + rng.expovariate(1 / 20))

            try:
                ended = nights.run(concurrency=4, seed=seed, on_progress=watch).exit_status
            except StorageError:
                ended = 3
        if ended != 3:
            break
    # A row whose picture the ledger could not take twice is uncertain, and left alone until one asks.
    assert nights.run(retry_failed=True).exit_status == 0
    assert statuses(nights) == {"succeeded": 25}
    again = lost_in(nights)
    assert nights.endpoint.account.billed <= 25 + again.total(), again


@pytest.mark.virtual_time
def test_a_table_that_cannot_be_written_is_written_by_the_same_command(nights: Nights) -> None:
    nights.rows(5)
    nights.directory.mkdir()
    (nights.directory / "results.parquet").mkdir()
    with pytest.raises(
        StorageError,
        match=r"results\.parquet: Is a directory; nothing is lost, .* the same command writes the table anew",
    ):
        nights.run()
    (nights.directory / "results.parquet").rmdir()
    assert list(nights.directory.glob(".*")) == []
    summary = nights.run()
    assert (summary.exit_status, summary.requests, nights.endpoint.account.billed) == (0, 0, 5)
    assert statuses(nights) == {"succeeded": 5}


# Real disks that are really full


class SmallDisk:
    """A file system of a few megabytes in a mount namespace of its own: no rights needed, nothing left."""

    def __init__(self, folder: Path, size: str) -> None:
        script = f'mount -t tmpfs -o size={size} tmpfs "$0" && echo ready && exec cat'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        self.refusal = None if said == "ready\n" else said.strip()
        self.inside: tuple[str, ...] = ("nsenter", f"--target={self._holder.pid}", "--user", "--mount")
        """Goes before a command that is to see the file system."""
        self.root = Path(f"/proc/{self._holder.pid}/root{folder.resolve()}")
        """Where it is for everybody else; SQLite would follow the link out of it."""

    def close(self) -> None:
        self._holder.communicate()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("no namespaces without util-linux; the file size limit stands in for the full disk")
    with closing(SmallDisk(tmp_path, "64m")) as made:
        if made.refusal is not None:
            pytest.skip(f"no tmpfs here ({made.refusal}); the file size limit stands in for the full disk")
        yield made


def fill(path: Path) -> None:
    """Leave not a single block."""
    with path.open("ab", buffering=0) as file:
        for piece in (2**20, 2**12, 1):
            try:
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)
            except OSError:
                continue


BOUGHT = """
import asyncio, sys
from pathlib import Path
from batchgen.errors import StorageError
from batchgen.ledger import Ledger, Reader
from batchgen.records import Outcome, Status
from tests.test_disk import fill
root = Path(sys.argv[1])

async def buy():
    ledger = Ledger(root / "ledger.db")
    ledger.begin(now=1, provider="p", simulated=False, tasks=100, version="1", in_flight=100)
    fill(root / "filler")
    try:
        (root / "picture").write_bytes(b"x" * 4096)
    except OSError as error:
        print(error.strerror)
    for number in range(100):
        name = str(number)
        attempt = ledger.start(
            key=name, row_id=name, stem=name, model="m", provider="p", reserved=None, now=1
        )
        await ledger.submitted(attempt, now=2)
        await ledger.settle(
            attempt, Outcome(), status=Status.SUCCEEDED, counts=True, in_credits=None, now=3
        )
    ledger.end(now=4, reason="done")
    print(Reader(root / "ledger.db").totals().tasks)
    (root / "results").write_bytes(b"x" * 1_000_000)  # the table has what is left of the ballast
    ledger.close()

asyncio.run(buy())
fill(root / "filler")
ledger = Ledger(root / "ledger.db")
try:
    ledger.begin(now=5, provider="p", simulated=False, tasks=1, version="1", in_flight=100)
except StorageError as error:
    print(error)
ledger.close()
print([*root.glob("*ballast")])
"""


def test_a_full_disk_cannot_keep_the_ledger_from_what_was_bought(
    small_disk: SmallDisk, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*small_disk.inside, sys.executable, "-c", BOUGHT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "No space left on device",
        "{'succeeded': 100}",
        f"{tmp_path}/ledger.db-ballast: No space left on device; make room or make it writable, then run the"
        " same command again",
        "[]",
    ], done.stderr


def test_a_dry_run_and_a_run_say_alike_that_there_is_too_little_room(
    small_disk: SmallDisk, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    manifest = tmp_path_factory.mktemp("job") / "prompts.csv"
    manifest.write_text("prompt,variants\na cat,1000\n", encoding="utf-8")
    command = [*small_disk.inside, sys.executable, "-m", "batchgen", "run", str(manifest)]
    command += ["--provider", "simulator", "-o", str(tmp_path / "new/run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=False)
    expected = re.compile(r": 1,000 pictures of about 250 kB, .* need 28\d MB, .* --limit \(\d+ more fit\)")
    foretold = run([*command, "--dry-run"])
    assert not (small_disk.root / "new").exists()
    refused = run(command)
    assert (foretold.returncode, refused.returncode) == (1, 2)
    assert expected.search(foretold.stdout), foretold
    assert expected.search(refused.stderr), refused


@pytest.mark.blocks
async def test_the_reader_tells_the_mean_size_of_what_was_bought_last(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    ledger.begin(now=1, provider="p", simulated=False, tasks=300, version="1", in_flight=8)
    with closing(ledger), closing(Reader(tmp_path / LEDGER)) as reader:
        assert reader.picture_bytes(most=100) is None
        for number, sizes in enumerate([(10**9,), (100, 2000), (300,), ()]):
            attempt = ledger.start(
                key=f"{number}", row_id="r", stem=f"{number}", model="m", provider="p", reserved=None, now=1
            )
            await ledger.submitted(attempt, now=2)
            images = tuple(
                Image(file_name="f", sha256="0", mime="m", width=1, height=1, bytes=size) for size in sizes
            )
            kind = None if sizes else ErrorClass.BLOCKED
            await ledger.settle(
                attempt,
                Outcome(images=images, kind=kind),
                status=Status.SUCCEEDED,
                counts=True,
                in_credits=None,
                now=3,
            )
        assert reader.picture_bytes(most=2) == (2100 + 300) / 2


class Filled:
    """A place for a run directory, and ways to fill the disk under a run and to free it again."""

    def __init__(self, folder: Path, inside: SmallDisk | None) -> None:
        self._small = inside
        self._inside = inside.inside if inside is not None else ()
        self._output = folder / "run"
        self.directory = (inside.root if inside is not None else folder) / "run"
        self.manifest = folder.parent / f"{folder.name}.csv"

    def rows(self, count: int) -> None:
        lines = (f"row-{n},picture {n}\n" for n in range(count))
        self.manifest.write_text("id,prompt\n" + "".join(lines), encoding="utf-8")

    def start(self, url: str, *flags: str) -> subprocess.Popen[str]:
        command = [*self._inside, sys.executable, "-m", "batchgen", "run", str(self.manifest)]
        command += ["-o", str(self._output), "--provider", "core-today", "--base-url", f"{url}/v1", *flags]
        # What measures coverage writes files as well, and fails with the limit on them.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        environment = {**kept, "BATCHGEN_API_KEY": "cdt_any", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    def learn(self, url: str) -> None:
        """Buy a few pictures, so that the run knows that they are small here and that all will fit."""
        if self._small is not None:
            with self.start(url, "--limit", "3") as run:
                assert run.wait() == 0

    def take(self, run: subprocess.Popen[str]) -> None:
        if self._small is not None:
            fill(self._small.root / "filler")
        else:
            resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free(self, run: subprocess.Popen[str]) -> None:
        if self._small is not None:
            (self._small.root / "filler").unlink()
        elif run.poll() is None:
            resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    def ledger(self, folder: Path) -> Reader:
        copy = shutil.copytree(self.directory, folder)
        return Reader(copy / LEDGER)


@pytest.fixture(params=["tmpfs", "file size limit"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    small = request.getfixturevalue("small_disk") if request.param == "tmpfs" else None
    return Filled(tmp_path, small)


def test_a_disk_filled_and_freed_at_random_under_a_real_run_costs_nothing(filled: Filled) -> None:
    rng = random.Random(seed := random.randrange(10**6))
    print("seed", seed)
    filled.rows(150)
    said = ""
    with simulator("--no-paint", "--latency", "0.02") as url:
        filled.learn(url)
        for _ in range(12):
            with filled.start(url) as run:
                for _ in range(4):
                    time.sleep(rng.uniform(0.2, 1.0))
                    if run.poll() is None:
                        filled.take(run)
                        time.sleep(rng.uniform(0.1, 1.0))
                        filled.free(run)
                said += run.communicate()[1]
            if run.returncode not in {2, 3}:  # on a slow machine it was filled before the run had begun
                break
        with filled.start(url) as run:
            assert run.wait() == 0, said
        found = account(url)
    assert "Traceback" not in said
    assert (found["bought_again"], found["billed"]) == (0, 150), said
    table = pq.read_table(filled.directory / "results.parquet").to_pylist()
    assert Counter(row["status"] for row in table) == {"succeeded": 150}
    for row in table:
        assert (filled.directory / row["file_name"]).stat().st_size == row["images"][0]["bytes"]


def test_a_signal_ends_the_waiting_at_once_and_the_account_has_what_was_bought(
    filled: Filled, tmp_path_factory: pytest.TempPathFactory
) -> None:
    filled.rows(60)
    with simulator("--no-paint", "--latency", "0.05") as url:
        filled.learn(url)
        with filled.start(url) as run:
            while account(url)["billed"] < 20:
                time.sleep(0.02)
            filled.take(run)
            assert run.stderr is not None
            said = next(line for line in run.stderr if "nothing new is bought meanwhile" in line)
            time.sleep(1)
            billed = account(url)["billed"]
            run.send_signal(signal.SIGTERM)
            began = time.monotonic()
            said += run.communicate()[1]
            assert time.monotonic() - began < 20, "and not after a minute"
            assert run.returncode in {143, 3}, said
            assert "Traceback" not in said
            assert account(url)["billed"] == billed
        filled.free(run)
        with filled.start(url) as run:
            assert run.wait() == 0, run.communicate()
        found = account(url)
    with closing(filled.ledger(tmp_path_factory.mktemp("copy") / "run")) as reader:
        assert found["bought_again"] == lost(reader).total()
