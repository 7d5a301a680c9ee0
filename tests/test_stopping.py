"""However a run ends, its table is there, what it leaves is told, and the told command goes on with it."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from batchgen.cli import cli
from tests.test_end_to_end import ROOT, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "batchgen"]
# Buffered, as at a user's: what cannot be written is tried again when the interpreter leaves.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
IGNORED = re.compile("Traceback|Exception ignored|BrokenPipe|Errno")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def night(folder: Path, *, rows: int = 40, latency: float = 0.0, settings: str = "", faults: str = "") -> str:
    (folder / "prompts.csv").write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(rows)))
    (folder / "a night.toml").write_text(
        f'manifest = "prompts.csv"\nprovider = "simulator"\n{settings}\n'
        f"[simulator]\nlatency = {latency}\npaint = false\n{faults}"
    )
    return "a night.toml"


def statuses(folder: Path) -> Counter[str]:
    return Counter(pq.read_table(folder / "runs/a night/results.parquet")["status"].to_pylist())


def resume_of(out: str) -> list[str]:
    (line,) = re.findall(r"^  (\S.* run .*)$", out, re.MULTILINE)
    return shlex.split(line, comments=True)


def until_pictures(folder: Path, count: int) -> None:
    pictures, deadline = folder / "runs/a night/images", time.monotonic() + 30
    while (not pictures.exists() or len(list(pictures.iterdir())) < count) and time.monotonic() < deadline:
        time.sleep(0.01)


def shell(line: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
        **options,
    )


# What is told


def test_a_drained_run_prints_the_command_that_finishes_it(folder: Path) -> None:
    source = night(folder, latency=0.02, settings="concurrency = 4")
    with subprocess.Popen(
        [*COMMAND, "run", source, "--system", "it's $HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as running:
        until_pictures(folder, 3)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "SIGINT: what is in flight may land for 300 s; once more ends it at once" in err
    left = statuses(folder)["pending"]
    assert f"left: {left} of 40 pictures, about $" in out
    resume = resume_of(out)
    assert resume == [*COMMAND, "run", source, "--system", "it's $HOME"]
    again = shell(f"{shlex.join(resume)} --json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["requests"], found["left"], found["resume"]) == (left, 0, None)
    assert statuses(folder) == {"succeeded": 40}


def test_an_endpoint_whose_chat_sends_no_pictures_is_asked_by_the_told_command_in_gemini_s_format(
    folder: Path,
) -> None:
    source = night(folder, rows=6, settings="concurrency = 2", faults="chat_pictures = false")
    stopped = shell(f"{shlex.join(COMMAND)} run {shlex.quote(source)}")
    assert stopped.returncode == 3
    assert statuses(folder) == {"pending": 6}
    resume = resume_of(stopped.stdout)
    assert resume == [*COMMAND, "run", source, "--dialect", "gemini"]
    assert shell(shlex.join(resume)).returncode == 0
    assert statuses(folder) == {"succeeded": 6}


def test_rows_that_wait_for_others_are_no_success_and_nothing_takes_them_up_as_failed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = night(folder, rows=2)
    (folder / "prompts.csv").write_text("id,prompt,parent\na,a pear,\nb,by night,a\n")
    (folder / "only.txt").write_text("b\n")
    assert cli(["run", source, "--only", "only.txt", "-q"]) == 1
    out = capsys.readouterr().out
    assert "waiting: 1 row waits for the one it continues, which this run was not about" in out
    assert "retry-failed" not in out
    assert cli(["run", source, "-q"]) == 0


def test_failures_are_taken_up_by_the_told_command_and_success_tells_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = night(folder, rows=5, settings="attempts = 1", faults="[simulator.faults]\nrefusal = 1.0")
    assert cli(["run", source]) == 1
    assert resume_of(capsys.readouterr().out)[1:] == ["run", source, "--retry-failed"]
    assert cli(["run", source, "--retry-failed", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["resume"][1:] == ["run", source, "--json", "--retry-failed"]
    night(folder, rows=5)
    assert cli(["run", "--retry-failed", source]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^next: .* report ", out, re.MULTILINE)
    assert " run " not in out


def test_a_budget_that_is_used_up_tells_what_is_left_and_which_one_is_enough(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = night(folder)
    assert cli(["run", source, "--budget=1", "-q"]) == 3
    out, err = capsys.readouterr()
    assert "stopped: the budget of $1.00 has no room for another picture" in out
    assert re.search(r"^left: 26 of 40 pictures, about \$1\.\d\d$", out, re.MULTILINE)
    assert err.count("80 % of the budget is used") == 1, "quiet means no progress, not no warnings"
    assert resume_of(out)[1:] == ["run", source, "-q", "--budget", "3"]
    assert cli(["run", source, "--budget", "1", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["left"], found["budget_needed"], found["requests"]) == (26, 3, 0)
    assert found["resume"][1:] == ["run", source, "--budget", "1", "--json"], (
        "a script raises nothing by itself"
    )
    assert re.fullmatch(r"1\.\d\d", found["left_usd"])
    assert cli(["run", source, "-q", "--budget", "3"]) == 0


def test_the_told_command_holds_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "p.csv").write_text("prompt\nx\n")
    key = "cdt_0123456789abcdef"
    with simulator("--no-paint", "--key", "another") as url:
        found = subprocess.run(
            [*COMMAND, "run", "p.csv", "--base-url", f"{url}/v1", "--system", f"key {key}"],
            capture_output=True,
            text=True,
            env={**ENVIRONMENT, "BATCHGEN_API_KEY": key},
            check=False,
        )
    assert found.returncode == 3
    assert resume_of(found.stdout)[-1] == "key [key]"
    assert key not in found.stdout + found.stderr


def test_a_table_from_standard_input_is_asked_for_again(folder: Path) -> None:
    night(folder)
    line = f"{shlex.join(COMMAND)} run - --provider simulator -o {folder}/x --budget 0.01 < prompts.csv"
    found = shell(line)
    assert found.returncode == 3
    assert found.stdout.rstrip().endswith("# with the same table on standard input")


def test_an_error_of_the_disk_ends_with_the_command_that_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = night(folder)
    (folder / "runs/a night/results.parquet").mkdir(parents=True)
    assert cli(["run", source]) == 3
    assert resume_of(capsys.readouterr().err)[1:] == ["run", source]


def test_uncertain_requests_are_told_with_their_number_and_money(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = night(folder, rows=5, faults="[simulator.faults]\nreset_after = 1.0")
    assert cli(["run", source, "--on-uncertain", "skip", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"] == {"uncertain": 5}
    assert cli(["status", "runs/a night", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["uncertain"], told["uncertain_usd"]) == (found["uncertain"], found["uncertain_usd"])
    assert told["counted_usd"] == found["counted_usd"] == found["uncertain_usd"]
    assert Decimal(told["uncertain_usd"]) > 0


# What is refused


def test_a_refused_mix_leaves_the_manifest_of_the_run_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(["run", night(folder, rows=5)]) == 0
    snapshot = folder / "runs/a night/manifest.parquet"
    before = snapshot.read_bytes()
    (folder / "other.csv").write_text("id,prompt\nz,another\n")
    monkeypatch.setenv("BATCHGEN_API_KEY", "cdt_any")
    assert cli(["run", "other.csv", "-o", "runs/a night", "--base-url", "http://127.0.0.1:1/v1"]) == 2
    assert "holds simulated pictures" in capsys.readouterr().err
    assert snapshot.read_bytes() == before


def test_a_budget_refuses_a_row_whose_model_has_no_price(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_API_KEY", "cdt_any")
    (folder / "p.csv").write_text("prompt,model\nx,priced\ny,other\n")
    (folder / "j.toml").write_text(
        'manifest = "p.csv"\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "priced"\n'
        '[models."priced"]\nprice = { input = 1, text = 1, image = 1 }\n'
    )
    assert cli(["run", "j.toml", "--budget", "5"]) == 2
    err = capsys.readouterr().err
    assert "row 2, column 'model': --budget: no price is known for the model 'other'" in err


# Who has stopped reading


OWNING = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def on_a_terminal(*command: str, own: bool) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A run whose output goes to a terminal; `own`: one that sends SIGHUP when it is closed."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 150))
    with subprocess.Popen(
        [sys.executable, "-c", OWNING, *COMMAND, *command] if own else [*COMMAND, *command],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as running:
        os.close(follower)
        try:
            yield running, leader
        finally:
            running.kill()


@pytest.mark.parametrize(("own", "status"), [(True, 143), (False, 0)])
def test_a_terminal_closed_in_mid_run_loses_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], own: bool, status: int
) -> None:
    source = night(folder, latency=0.015, settings="concurrency = 4")
    with on_a_terminal("run", source, "-v", own=own) as (running, leader):
        until_pictures(folder, 3)
        os.close(leader)
        assert running.wait(timeout=30) == status
    table = statuses(folder)
    assert table["succeeded"] == len(list((folder / "runs/a night/images").iterdir())) >= 3
    assert table["succeeded"] + table["pending"] == 40
    assert cli(["run", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == table["pending"]


def test_a_hang_up_that_nohup_keeps_away_does_not_stop_a_run(folder: Path) -> None:
    source = night(folder, rows=12, latency=0.015, settings="concurrency = 2")
    command = ["nohup", *COMMAND, "run", source]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT
    ) as running:
        until_pictures(folder, 3)
        running.send_signal(signal.SIGHUP)
        running.communicate(timeout=60)
    assert running.returncode == 0
    assert statuses(folder) == {"succeeded": 12}


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        ("-v 2>&1 | head -1", 0),
        ("-v <&- >&- 2>&-", 0),
        ("> /dev/full", 3),
    ],
)
def test_nobody_who_stops_reading_changes_how_a_run_ends(folder: Path, tail: str, status: int) -> None:
    faults = "[simulator.faults]\noverloaded = 0.2"
    source = night(folder, rows=12, settings="attempts = 30", faults=faults)
    found = shell(f"set -o pipefail; {shlex.join(COMMAND)} run {shlex.quote(source)} {tail}")
    assert statuses(folder) == {"succeeded": 12}
    assert not IGNORED.search(found.stdout + found.stderr), found.stderr
    assert found.returncode == status, found.stderr
    if status:
        assert found.stderr.startswith("batchgen: standard output: No space left on device")


def test_an_error_that_nobody_reads_keeps_its_status(folder: Path) -> None:
    assert shell(f"{shlex.join(COMMAND)} status {folder}/nowhere 2> >(true)").returncode == 2


def test_a_wait_for_the_day_s_quota_is_told_and_ends_at_once_on_a_signal(folder: Path) -> None:
    faults = "calm = 5\n[simulator.faults]\ndaily_quota = 1.0"
    source = night(folder, settings='on_daily_quota = "wait"\nconcurrency = 2', faults=faults)
    with on_a_terminal("run", source, own=False) as (running, leader):
        shown, deadline = "", time.monotonic() + 30
        while "quota: next in" not in shown and time.monotonic() < deadline:
            shown += os.read(leader, 65536).decode()
        began = time.monotonic()
        running.terminate()
        while running.poll() is None:
            try:
                shown += os.read(leader, 65536).decode()
            except OSError:  # the other end is closed
                break
        assert running.wait(timeout=30) == 143
        os.close(leader)
    assert time.monotonic() - began < 60, "the day's quota is hours away"
    assert re.search(
        r"daily quota used up; going on at \d{4}-\d\d-\d\d 00:00 P[SD]T, in \d+ h \d+ min", shown
    )
    assert re.search(r"quota: next in \d+ h \d+ min|quota: next in \d+ min", shown)
    assert statuses(folder) == {"succeeded": 5, "pending": 35}


# Over a socket


def test_a_budget_holds_over_sockets_and_across_resumes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    night(folder, rows=400)
    monkeypatch.setenv("BATCHGEN_API_KEY", "cdt_any")
    with simulator("--no-paint") as url:
        command = [
            "run",
            "prompts.csv",
            "--provider",
            "core-today",
            "--base-url",
            f"{url}/v1",
            "-c",
            "64",
            "--json",
        ]
        billed = []
        for budget in (5, 5, 10):
            assert cli([*command, "--budget", str(budget)]) == 3
            with urllib.request.urlopen(f"{url}/account") as answer:
                billed.append(Decimal(json.load(answer)["usd"]))
            found = json.loads(capsys.readouterr().out)
            assert Decimal(found["counted_usd"]) == billed[-1]
    assert Decimal("4.80") <= billed[0] == billed[1] <= 5
    assert Decimal("9.80") <= billed[2] <= 10
