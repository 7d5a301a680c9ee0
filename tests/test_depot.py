"""A run whose pictures go into a bucket is as safe as one on a disk: held against a real S3 server."""

from __future__ import annotations

import http.server
import json
import logging
import pickle
import shlex
import shutil
import signal
import sqlite3
import sys
import threading
import time
import urllib.request
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchgen
from batchgen import copies, disk, lease
from batchgen.address import parsed
from batchgen.bucket import Bucket, Version
from batchgen.cli import cli
from batchgen.errors import DamagedError, InputError, LockedError, StorageError
from batchgen.ledger import Ledger
from batchgen.objects import Objects
from batchgen.verify import verify
from tests.test_end_to_end import account, simulator
from tests.test_kills import ROOT, process
from tests.test_uses import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "pictures"
FASTER: dict[str, Any] = {"latency": 0.0, "paint": False}


class Cloud:
    """An S3 server on loopback, whose buckets outlive it."""

    def __init__(self) -> None:
        self._port = 0
        self.start()

    def start(self) -> None:
        # Half a second of imports, for the one process that needs it.
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer  # noqa: PLC0415

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What leads to it and is taken there."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "AKIAANYBODY",
            "AWS_SECRET_ACCESS_KEY": "nobodysbusiness",
            "AWS_REGION": "us-east-1",
        }

    def make(self, name: str) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")).close()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    cloud = Cloud()
    cloud.make(NAME)
    yield cloud
    cloud.stop()


@pytest.fixture
def place(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of a test's own, and a folder to be in."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return f"s3://{NAME}/{tmp_path.name}/a b"


def rows(count: int, *, more: str = "") -> None:
    lines = "".join(f"row/{n},picture {n}{more}\n" for n in range(count))
    Path("prompts.csv").write_text(f"id,prompt\n{lines}")


def bought(place: str, **told: Any) -> batchgen.Summary:
    job = {"manifest": "prompts.csv", "provider": "simulator", "output": place, "simulator": FASTER, **told}
    return batchgen.run(batchgen.Job(**job))


def table(path: Path, *, but: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    found = pq.read_table(path)
    told: list[dict[str, Any]] = found.drop_columns([*but & {*found.schema.names}]).to_pylist()
    return told


def local(place: str) -> Path:
    return parsed(place).local


def check_the_pictures_are_there(place: str, count: int) -> None:
    objects = Objects(Bucket(parsed(place)))
    objects.bucket.fetch("results.parquet", Path("fetched.parquet"))
    found = table(Path("fetched.parquet"))
    assert len(found) == count
    for row in found:
        (image,) = row["images"]
        assert sha256(objects.read(image["file_name"]) or b"").hexdigest() == image["sha256"]


OF_THE_MOMENT = frozenset({"started_at", "finished_at", "latency_s", "request_id"})


def test_rows_and_bytes_are_those_of_the_same_run_on_a_disk(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(6)
    on_disk, in_bucket = bought("run"), bought(place, embed=False, quality=True)
    assert (in_bucket.bought, in_bucket.directory, in_bucket.table) == (6, place, f"{place}/results.parquet")
    but = OF_THE_MOMENT | {"phash", "blank", "near_duplicate_of"}
    assert table(local(place) / "results.parquet", but=but) == table(Path("run/results.parquet"), but=but)
    objects = pickle.loads(pickle.dumps(Objects(Bucket(parsed(place)))))
    names = sorted(objects.names("images"))
    assert names == sorted(f"images/row/{n}.jpg" for n in range(6))
    assert [objects.read(name) for name in names] == [Path("run", name).read_bytes() for name in names]
    assert not (local(place) / "images").exists()
    assert on_disk.cost_usd == in_bucket.cost_usd

    assert (bought(place).requests, cli(["verify", place]), cli(["status", place])) == (0, 0, 0)
    assert "6 pictures are as they were bought" in capsys.readouterr().out
    assert cli(["export", place, "--to", "imagefolder", "-o", "out"]) == 0
    assert Path("out", names[0]).read_bytes() == objects.read(names[0])
    assert cli(["export", place, "--to", "csv"]) == 0
    assert f"{place}/{names[0]}" in (local(place) / "export/csv/results.csv").read_text()
    assert cli(["export", place, "--to", "imagefolder", "--link", "hard"]) == 2


@pytest.mark.blocks
def test_the_commands_of_the_page_run_as_they_stand(cloud: Cloud, place: str, tmp_path: Path) -> None:
    cloud.make("my-bucket")
    shutil.copy(ROOT / "sample_prompts.csv", tmp_path)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    lines = [line for line, _ in commands("object_storage") if line.startswith("batchgen ")]
    assert len(lines) == 5
    assert [cli(shlex.split(line)[1:]) for line in lines] == [0] * 5, place


def test_a_row_follows_its_parent_s_picture_into_the_bucket_and_back(place: str) -> None:
    Path("prompts.csv").write_text("id,prompt,parent\na,a fox,\nb,make it night,a\nc,add snow,b\n")
    done = bought(place)
    assert (done.bought, done.exit_status) == (3, 0)
    bought("run")
    assert [row["images"] for row in table(local(place) / "results.parquet")] == [
        row["images"] for row in table(Path("run/results.parquet"))
    ]


@pytest.mark.blocks
def test_a_machine_that_is_lost_costs_what_its_last_copy_did_not_know(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count, at_once = 30, 2
    with simulator("--no-paint", "--latency", "0.03") as url:
        rows(count)
        arguments = [
            *("run", str(tmp_path / "prompts.csv"), "--base-url", f"{url}/v1", "--provider", "core-today"),
            *("-o", place, "--concurrency", str(at_once), "--quiet"),
        ]
        with process("batchgen", *arguments) as run:
            while sum(found.name.endswith(".wal") for found in Bucket(parsed(place)).list("ledger")) < 2:
                time.sleep(0.05)
            run.send_signal(signal.SIGKILL)
            run.communicate(timeout=60)
        lost = account(url)["billed"] + at_once  # what was on its way may be billed a little later
        known = last_ledger(place, "SELECT count(*) FROM attempts WHERE settled_at IS NOT NULL")
        assert known > 0
        shutil.rmtree("runs")

        # The lease of the lost machine has not run out; its token is gone with its disk.
        monkeypatch.setenv("BATCHGEN_API_KEY", "cdt_any")
        assert cli(arguments) == 2
        assert "another run is at work here" in capsys.readouterr().err
        Bucket(parsed(place)).remove([lease.NAME])
        assert cli(["status", place]) == 0
        assert cli([*arguments, "--json"]) == 0
        summary, bill = json.loads(capsys.readouterr().out.splitlines()[-1]), account(url)
    assert summary["tasks"] == {"succeeded": count}
    assert bill["bought_again"] <= lost - known, "nothing that the copy knew is bought twice"
    assert bill["billed"] == count + bill["bought_again"]
    unknown = Decimal(bill["usd"]) - Decimal(summary["counted_usd"])
    assert unknown <= (lost - known) * Decimal("0.2")
    check_the_pictures_are_there(place, count)


def last_ledger(place: str, query: str) -> int:
    """What the copy says."""
    folder = Path("copy")
    folder.mkdir()
    copies.restored(Bucket(parsed(place)), folder)
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        return int(ledger.execute(query).fetchone()[0])


def test_two_machines_take_turns_and_the_later_account_is_the_one_that_counts(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("batchgen").propagate = True
    for machine in ("one", "other"):
        Path(machine).mkdir()
    for machine, count, new in (("one", 3, 3), ("other", 5, 2), ("other", 5, 0), ("one", 6, 1)):
        monkeypatch.chdir(Path(place and machine))
        rows(count)
        caplog.clear()
        assert bought(place).requests == new
        outdated = [*local(place).glob("ledger.db.outdated-*")]
        assert bool(outdated) == (machine == "one" and count == 6)
        assert bool(caplog.messages) == bool(outdated)
        monkeypatch.chdir("..")
    monkeypatch.chdir("one")
    (aside,) = local(place).glob("ledger.db.outdated-*")
    with closing(sqlite3.connect(aside)) as ledger:
        assert ledger.execute("SELECT count(*) FROM tasks").fetchone() == (3,)
    generations = {found.name.split("/")[1] for found in Bucket(parsed(place)).list("ledger")}
    assert len(generations) == 2, "HEAD and one generation"


def test_what_a_stranger_keeps_beside_the_copies_is_left_alone(place: str) -> None:
    bucket = Bucket(parsed(place))
    theirs = {"ledger/2026/accounts.csv", "ledger/images/row.jpg", "ledger/notes"}
    for name in theirs:
        bucket.put(name, b"anything")
    rows(1)
    for _ in range(2):
        bought(place)
    names = {found.name for found in bucket.list("ledger")}
    assert theirs < names
    assert len({name.split("/")[1] for name in names - theirs}) == 2, "HEAD, and the generation it names"


def test_pictures_without_an_account_are_not_bought_once_more(place: str) -> None:
    rows(2)
    bought(place)
    bucket = Bucket(parsed(place))
    bucket.remove([copies.HEAD])
    assert bought(place).requests == 0, "this machine has the account"
    bucket.remove([copies.HEAD])
    shutil.rmtree("runs")
    with pytest.raises(DamagedError, match=r"no copy of the ledger beside results\.parquet and images"):
        bought(place)
    (piece, *_) = (found.name for found in bucket.list("ledger") if found.name.endswith("0.wal"))
    generation = piece.split("/")[1]
    bucket.put(
        copies.HEAD,
        b'{"generation":"%s","host":"x","pid":1,"at":"2026-11-21T00:00:00Z"}' % generation.encode(),
    )
    bucket.copy(piece, piece.replace("0.wal", "1.wal"))
    with pytest.raises(DamagedError, match="a piece of the ledger's copy is missing"):
        bought(place)


def test_a_place_has_one_owner(place: str) -> None:
    bucket, now = Bucket(parsed(place)), [0.0]
    first = lease.Lease(bucket, token="a" * 16, clock=lambda: now[0])
    with first:
        with pytest.raises(LockedError, match=r"process .* heard of") as refused:
            lease.Lease(bucket, token="b" * 16).__enter__()
        assert "batchgen status" in str(refused.value)
        rows(1)
        with pytest.raises(LockedError):
            bought(place)
        now[0] = lease.GIVEN_UP - 1
        first.check()
        now[0] = lease.GIVEN_UP + 1
        with pytest.raises(StorageError, match="could not be renewed for 121 s"):
            first.check()
        first.renew()
        first.check()
        # A process of the same state on the same machine follows one that is dead.
        with lease.Lease(bucket, token="a" * 16):
            first.renew()
            with pytest.raises(StorageError, match="another run has taken over"):
                first.check()
    assert lease.seen(bucket) is None, "given back"
    assert [found.name for found in bucket.list("")] == []


class _Deaf(Bucket):
    """Carries out what it is told to replace, and its answers are lost."""

    def replace(self, name: str, data: bytes, version: Version) -> Version | None:
        super().replace(name, data, version)
        raise StorageError("there is no answer")


def test_a_renewal_whose_answer_is_lost_is_nobody_else_s(place: str) -> None:
    bucket = Bucket(parsed(place))
    with lease.Lease(bucket, token="a" * 16) as held:
        held._bucket = _Deaf(parsed(place))
        for _ in range(2):
            with pytest.raises(StorageError, match="there is no answer"):
                held.renew()
        held._bucket = bucket
        held.confirm()
    assert lease.seen(bucket) is None, "given back"


@settings(max_examples=10)
@given(st.booleans(), st.booleans(), st.floats(0, 1000))
def test_a_lease_is_taken_from_the_dead_alone(same_state: bool, same_host: bool, age: float) -> None:
    holder = msgspec.convert(
        {"token": "a" * 16, "pid": 1, "host": "x", "started": "2026-11-21T00:00:00Z"}, lease.Holder
    )
    taken = lease.may_take(
        holder, age, token="a" * 16 if same_state else "b" * 16, host="x" if same_host else "y"
    )
    assert taken == ((same_state and same_host) or age > lease.STALE)
    assert lease.may_take(None, age, token="a" * 16, host="x") == (age > lease.STALE)
    assert lease.STALE - lease.GIVEN_UP >= 2 * lease.EVERY, (
        "who gives up has given up before another takes it"
    )


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that always says the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_wrong_with_a_bucket_is_told_before_anything_is_bought(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(1)
    command = ["run", "prompts.csv", "--provider", "simulator", "-q", "-o"]
    assert cli([*command, "s3://nosuchbucket/x"]) == 3
    assert "there is no such bucket (NoSuchBucket); make it" in capsys.readouterr().err
    assert cli(["plan", "prompts.csv", "--provider", "simulator", "-o", "s3://nosuchbucket/x"]) == 3
    assert cli(["status", f"{place}/none"]) == 2
    assert "no run has begun here" in capsys.readouterr().err
    denied = b"<Error><Code>AccessDenied</Code><Message>nobodysbusiness AKIAANYBODY</Message></Error>"
    with answering(403, denied) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert cli([*command, place]) == 3
    told = capsys.readouterr().err
    assert "access is denied (AccessDenied)" in told
    assert "nobodysbusiness" not in told
    assert "AKIA" not in told
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    assert cli([*command, place]) == 3
    assert "AWS_ALLOW_HTTP" in capsys.readouterr().err
    assert not (local(place) / "ledger.db").exists()


def test_without_its_library_what_to_install_is_told(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(1)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert cli(["run", "prompts.csv", "--provider", "simulator", "-o", place]) == 2
    assert "pip install 'batchgen[cloud]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("AWS_ENDPOINT_URL=", "is no server"),
        ("AWS_ENDPOINT_URL=minio:9000", "is no server"),
        ("AWS_ENDPOINT_URL=http://user:nobodysbusiness@host:99999", "is no server"),
        ("AWS_ENDPOINT_URL=http://[::1", "is no server"),
        ("AWS_ENDPOINT_URL=http://127.0.0.1:9/ ", "is no server"),
        ("AWS_ACCESS_KEY_ID=AKIAANYBODY\r", "has a character that it cannot have"),
        ("AWS_SECRET_ACCESS_KEY=nobodysbusiness\n", "has a character that it cannot have"),
        ("AWS_REGION=us east", "has a character that it cannot have"),
    ],
)
def test_a_setting_that_leads_to_no_bucket_is_told_by_its_name_alone(
    place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], setting: str, why: str
) -> None:
    rows(1)
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    assert cli(["run", "prompts.csv", "--provider", "simulator", "-q", "-o", place]) == 2
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith(f"batchgen: {place}: {name} {why}")
    assert "nobodysbusiness" not in told
    assert "AKIA" not in told


def test_half_a_key_is_told_as_none(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert cli(["status", place]) == 3
    assert "no credentials were found; set AWS_ACCESS_KEY_ID, AWS_SECRET" in capsys.readouterr().err


class _Once:
    """Does something when the first pictures have come."""

    def __init__(self, after: int, what: Callable[[], None]) -> None:
        self._after = after
        self._what = what

    def __call__(self, progress: batchgen.Progress) -> None:
        if progress.succeeded >= self._after:
            what, self._what = self._what, lambda: None
            what()


@pytest.mark.blocks
@pytest.mark.parametrize("back", [True, False])
def test_a_bucket_that_does_not_answer_holds_the_run_and_then_ends_it(
    cloud: Cloud, place: str, monkeypatch: pytest.MonkeyPatch, *, back: bool
) -> None:
    rows(12)
    if not back:
        monkeypatch.setattr(disk, "PATIENCE", 0.1)
    job = batchgen.Job(
        manifest="prompts.csv", provider="simulator", output=place, simulator=FASTER, concurrency=2
    )

    def fail() -> None:
        cloud.stop()
        if back:
            threading.Timer(1.0, cloud.start).start()

    watch = _Once(2, fail)
    if back:
        done = batchgen.run(job, on_progress=watch)
        assert (done.requests, done.bought, done.exit_status) == (12, 12, 0)
    else:
        with pytest.raises(StorageError, match="there is no answer"):
            batchgen.run(job, on_progress=watch)
        cloud.start()
        done = batchgen.run(job)
        assert done.exit_status == 0
        assert done.uncertain == 0, "what was bought is in the account, picture or not"
        with closing(sqlite3.connect(local(place) / "ledger.db")) as ledger:
            ((lost,),) = ledger.execute("SELECT count(*) FROM attempts WHERE error_class = 'unwritten'")
        assert 1 <= lost <= 2, "a picture that found no place in time is lost, with its cost in the account"
    check_the_pictures_are_there(place, 12)


def test_a_run_that_another_machine_has_taken_over_buys_nothing_more(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(200)
    monkeypatch.setattr(lease, "EVERY", 0.02)
    bucket, held = Bucket(parsed(place)), threading.Event()

    def take_over() -> None:
        other = lease.Lease(bucket, token="b" * 16)
        bucket.put(lease.NAME, other._note())
        held.set()

    job = batchgen.Job(
        manifest="prompts.csv",
        provider="simulator",
        output=place,
        simulator={**FASTER, "latency": 0.002},
        concurrency=1,
    )
    thread = threading.Thread(target=take_over)
    with pytest.raises(StorageError, match="another run has taken over"):
        batchgen.run(job, on_progress=_Once(2, thread.start))
    thread.join()
    with closing(sqlite3.connect(local(place) / "ledger.db")) as ledger:
        ((sent,),) = ledger.execute("SELECT count(submitted_at) FROM attempts")
    assert 2 <= sent < 200
    holder = lease.seen(bucket)
    assert holder is not None
    assert holder.token == "b" * 16, "it was not given back by whom it had been taken from"


def test_an_audit_finds_what_is_lost_and_puts_it_right(place: str) -> None:
    rows(4)
    bought(place)
    objects = Objects(Bucket(parsed(place)))
    one, other = (objects.read(f"images/row/{n}.jpg") for n in (0, 1))
    assert one is not None
    assert other is not None
    objects.bucket.put("images/row/0.jpg", other)
    objects.bucket.put("images/row/1.jpg", one)
    objects.remove("images/row/2.jpg")
    objects.bucket.put("images/row/3.jpg", b"edited")
    objects.bucket.put("images/nobody.jpg", b"anything")
    shutil.rmtree("runs")
    assert cli(["verify", place, "--repair"]) == 1, "a file that belongs to nobody is left to a person"
    assert [objects.read(f"images/row/{n}.jpg") for n in (0, 1)] == [one, other]
    assert bought(place).requests == 2
    objects.remove("images/nobody.jpg")
    assert cli(["verify", place]) == 0


def test_a_directory_stands_for_one_place(place: str) -> None:
    rows(1)
    bought(place)
    shutil.copytree(local(place), local(f"{place}2"))
    with pytest.raises(InputError, match="this directory stands for"):
        bought(f"{place}2")
    for use in (bought, verify, partial(verify, repair=True)):
        with pytest.raises(InputError, match=f"stands for {place}, where the pictures are"):
            use(str(local(place)))


def test_a_generation_counts_even_if_nobody_could_say_so(
    cloud: Cloud, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "EVERY", 3600.0)
    noted: list[str] = []
    bucket = Bucket(parsed(place))
    with (
        closing(Ledger(tmp_path / "ledger.db", shipped=True)) as ledger,
        copies.Copies(bucket, ledger.path, version=None, noted=noted.append) as made,
    ):
        ledger.recover(now=1)
        with closing(sqlite3.connect(ledger.path)) as other:  # the log begins anew behind its back
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        ledger.recover(now=2)
        cloud.stop()
        for _ in range(2):
            with pytest.raises(StorageError, match="no answer"):
                made.step()
        cloud.start()
        assert len(noted) == 2, "what did not come to count is tried again under its name"
        bucket.put(copies.HEAD, msgspec.json.encode(made._next))
        made.step()
        found = copies.head(bucket)
        assert found is not None
        assert [found[0].generation] == noted[1:]


def test_copies_that_fail_for_minutes_end_a_run(
    cloud: Cloud, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "EVERY", 3600.0)
    now = [0.0]
    with closing(Ledger(tmp_path / "ledger.db", shipped=True)) as ledger:
        made = copies.Copies(
            Bucket(parsed(place)),
            ledger.path,
            version=None,
            noted=lambda _: None,
            clock=lambda: now[0],
        )
        made.__enter__()
        ledger.recover(now=1)
        cloud.stop()
        try:
            with pytest.raises(StorageError, match="no answer"):
                made.step()
            now[0] = copies.PATIENCE - 1
            made.check()
            now[0] = copies.PATIENCE + 1
            with pytest.raises(StorageError, match="no copy of the ledger could be made for 181 s"):
                made.check()
            with pytest.raises(StorageError, match=r"the ledger itself, .*, has it all"):
                made.__exit__(None)
        finally:
            cloud.start()
