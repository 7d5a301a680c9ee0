"""One run owns a run directory, for as long as it lives and no longer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchgen.errors import LockedError, StorageError
from batchgen.lock import RunLock

MOMENT = datetime(2026, 11, 21, 8, 30, 5, tzinfo=UTC)
HOLDER = """
import os, sys
from pathlib import Path
from batchgen.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is sent a line."""
    command = [sys.executable, "-c", HOLDER, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    return process


def refusal(directory: Path) -> str:
    with pytest.raises(LockedError) as caught, RunLock(directory):
        pass
    return str(caught.value)


def test_the_owner_writes_down_who_it_is_over_what_another_wrote(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"?" * 1000)
    with RunLock(tmp_path, now=MOMENT.timestamp):
        note = json.loads((tmp_path / "lock").read_bytes())
    assert note == {"pid": os.getpid(), "host": os.uname().nodename, "started": "2026-11-21T08:30:05Z"}


def test_a_second_owner_is_told_who_since_when_and_what_to_do(tmp_path: Path) -> None:
    with RunLock(tmp_path, now=MOMENT.timestamp):
        told = refusal(tmp_path)
    assert told == (
        f"{tmp_path}: another run is at work here (process {os.getpid()} on {os.uname().nodename}, "
        "since 2026-11-21 08:30:05 UTC); wait for its end or stop it, then run the same command again. "
        f"`batchgen status {tmp_path}` works meanwhile"
    )


def test_being_refused_takes_nothing_from_the_owner(tmp_path: Path) -> None:
    with RunLock(tmp_path) as owner:
        note = (tmp_path / "lock").read_bytes()
        for _ in range(2):
            refusal(tmp_path)
        with pytest.raises(LockedError), owner:
            pass
        assert (tmp_path / "lock").read_bytes() == note
    with RunLock(tmp_path):
        pass


def test_the_lock_can_be_taken_again_and_its_file_is_never_deleted(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with lock:
        inode = (tmp_path / "lock").stat().st_ino
    with lock:
        refusal(tmp_path)
    assert (tmp_path / "lock").stat().st_ino == inode


def test_a_run_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path):
        pass


def test_another_process_is_refused_until_the_owner_ends(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert f"process {process.pid} on" in refusal(tmp_path)
        process.communicate("\n")
    assert process.returncode == 0
    with RunLock(tmp_path):
        pass


def test_a_killed_owner_owns_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        refusal(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path):
            assert json.loads((tmp_path / "lock").read_bytes())["pid"] == os.getpid()


def test_a_child_of_the_owner_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with child, RunLock(tmp_path):
        child.communicate(b"\n")


def test_a_forked_child_does_not_keep_what_the_owner_gave_up(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with RunLock(tmp_path):
            pass
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("owned")


NOTE = b'{"pid":7,"host":"a","started":"2026-11-21T08:30:05Z"}'


@given(note=st.binary(max_size=60) | st.binary(max_size=3).map(lambda tail: NOTE[:-1] + tail))
@example(note=b"")
@example(note=b"\xff\xfe")
@example(note=b"[" * 4000)
@example(note=b'{"x":' + b"[" * 4000)
@example(note=NOTE.replace(b'"a"', b'"\xff"'))
@example(note=NOTE.replace(b"a", rb"\u001b[2J"))
@example(note=NOTE.replace(b'"a"', rb'"a\n"'))
@example(note=NOTE.replace(b":7", b":-7"))
@example(note=NOTE.replace(b"Z", b""))
def test_a_note_that_makes_no_sense_still_gives_a_clear_refusal(owned: Path, note: bytes) -> None:
    with RunLock(owned):
        (owned / "lock").write_bytes(note)
        told = refusal(owned)
    known = r"\(process \d+ on [\w.-]+, since [\d: -]+ UTC\)"
    assert re.search(rf"run is at work here ({known}|\(its lock file does not say which\)); wait", told)
    assert told.isprintable()


def test_a_note_of_another_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / "lock").write_bytes(NOTE[:-1] + b',"version":"9"}')
        assert "(process 7 on a, since 2026-11-21 08:30:05 UTC)" in refusal(tmp_path)


def test_a_directory_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run/lock").mkdir(parents=True)
    for directory, why in (
        ("gone", "No such file or directory"),
        ("file", "Not a directory"),
        ("run", "Is a directory"),
    ):
        with pytest.raises(StorageError) as caught, RunLock(tmp_path / directory):
            pass
        assert str(caught.value) == (
            f"{tmp_path}/{directory}/lock: {why}; the run directory must exist, be writable and lie on a "
            "file system that can lock (a local disk can)"
        )


def test_a_symbolic_link_in_place_of_the_lock_is_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(StorageError, match="symbolic links"), RunLock(tmp_path):
        pass
    assert precious.read_bytes() == b"precious"


FULL = """
import resource, signal, sys
from pathlib import Path
from batchgen.errors import StorageError
from batchgen.lock import RunLock
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in 0, before[0]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with RunLock(Path(sys.argv[1])):
            print("locked")
    except StorageError as error:
        print(error)
"""


def test_a_lock_that_cannot_be_signed_is_given_back(tmp_path: Path) -> None:
    # That no file may grow stands for a full disk.
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, locked = done.stdout.splitlines()
    assert refused.startswith(f"{tmp_path}/lock: File too large; ")
    assert locked == "locked"


def test_the_lock_is_released_with_its_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with RunLock(tmp_path):
        refusal(tmp_path)
        assert len(list(Path("/dev/fd").iterdir())) == before + 1
    assert len(list(Path("/dev/fd").iterdir())) == before
