"""The command line as people and scripts use it: flags, streams, exit statuses, help."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from batchgen import __version__
from batchgen.cli import cli, commands, running
from batchgen.cli.counting import limit_told
from batchgen.job import Job
from batchgen.progress import Progress
from batchgen.records import Limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "batchgen"]
FAST = "[simulator]\nlatency = 0.0\npaint = false\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(folder: Path, *, rows: int = 5, settings: str = "", faults: str = "") -> str:
    (folder / "prompts.csv").write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(rows)))
    (folder / "night.toml").write_text(
        f'manifest = "prompts.csv"\nprovider = "simulator"\n{settings}\n{FAST}\n{faults}'
    )
    return "night.toml"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def batchgen(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
        **options,
    )


def test_a_run_tells_its_sum_on_stdout_and_that_it_was_simulated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["run", job(folder)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"5 of 5 pictures; 5 bought now with 5 requests", out)
    assert "simulated: no money was spent" in out
    assert "runs/night/results.parquet" in out
    assert err == "", "short and without a terminal: nothing to say"
    assert pq.read_table("runs/night/results.parquet").num_rows == 5


def test_json_is_one_object_with_money_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", job(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["bought"], found["exit_status"]) == ({"succeeded": 5}, 5, 0)
    assert re.fullmatch(r"0\.\d{9}", found["cost_usd"])
    assert found["simulated"] is True
    assert found["stopped"] is None


def test_flags_go_before_the_environment_and_that_before_the_job_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = job(folder, settings="limit = 4\nvariants = 2")
    monkeypatch.setenv("BATCHGEN_LIMIT", "3")
    assert cli(["run", source, "-o", "a"]) == 0
    assert cli(["run", source, "-o", "b", "--limit", "1"]) == 0
    counts = [
        pq.read_table(f"{name}/results.parquet", filters=[("status", "=", "succeeded")]).num_rows
        for name in "ab"
    ]
    assert counts == [3, 1]


def test_finishing_with_failures_is_status_1_and_names_the_next_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = job(folder, settings="attempts = 1", faults="[simulator.faults]\nrefusal = 1.0")
    assert cli(["run", source]) == 1
    out = capsys.readouterr().out
    assert "0 of 5 pictures (5 " in out
    assert "--retry-failed" in out


def test_verbose_tells_every_failure_and_quiet_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = job(folder, settings="attempts = 1", faults="[simulator.faults]\noverloaded = 1.0")
    assert cli(["run", source, "-v", "-o", "v"]) == 1
    assert capsys.readouterr().err.count("overloaded") == 5
    assert cli(["run", source, "-q", "-v", "-o", "q"]) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "gone.csv", "--provider", "simulator"], "gone.csv"),
        (["run", "prompts.csv"], "no API key for Core.Today"),
        (["run", "prompts.csv", "--provider", "simulater"], "did you mean 'simulator'?"),
        (
            ["run", "prompts.csv", "--provider", "simulator", "-c", "0"],
            "--concurrency: expected a whole number of at least 1, got 0",
        ),
        (["run", "prompts.csv", "--column", "prompt"], "'prompt' is not NAME=VALUE"),
        (["run", "prompts.csv", "--colum", "prompt=x"], "--column"),
        (["status", "nowhere"], "no such folder"),
        (["models", "--provider", "nobody"], "unknown provider 'nobody'"),
        (["simulate", "--fault", "overlode=1"], "did you mean 'overloaded'?"),
        (["simulate", "--shape", "S99"], "simulate:"),
    ],
)
def test_bad_input_is_status_2_one_message_and_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    job(folder)
    assert cli(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_bad_manifest_lists_its_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.csv").write_text("id,prompt,temperature\na,,1\na,x,9\n")
    assert cli(["run", "bad.csv", "--provider", "simulator"]) == 2
    err = capsys.readouterr().err
    assert "bad.csv: 3 problems; nothing was sent" in err
    assert "row 1, column 'prompt'" in err
    assert not (folder / "runs/bad/results.parquet").exists()


def test_a_dry_run_says_what_it_would_buy_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "prompts.csv").write_text("id,prompt\na,x\nb,y\n")
    assert cli(["run", "-n", "prompts.csv", "--variants", "2"]) == 0, "and it needs no key"
    out = capsys.readouterr().out
    assert "2 rows, 4 pictures; nothing was sent" in out
    assert "0 done · 4 new · $0." in out
    assert out.splitlines()[-1].endswith("run prompts.csv --variants 2"), "the command that does it"
    assert not (folder / "runs").exists()
    assert cli(["run", job(folder)]) == 0
    capsys.readouterr()
    assert cli(["run", "-n", "night.toml", "--json", "--variants", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["new"]) == (5, 5)


def test_status_tells_a_finished_run_in_words_and_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(["run", job(folder)])
    capsys.readouterr()
    assert cli(["status", "runs/night"]) == 0
    out = capsys.readouterr().out
    assert "5 of 5 pictures" in out
    assert "ended" in out
    assert cli(["status", "runs/night", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["requests"], found["run"]["simulated"]) == ({"succeeded": 5}, 5, True)


def test_models_lists_both_seed_models_with_their_prices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["models", "--provider", "core-today"]) == 0
    out = capsys.readouterr().out
    assert "1K $0.0672" in out
    assert "4K $0.4800" in out
    assert cli(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["core-today"]["usd_per_credit"] == "0.001"


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from every_command(child, (*path, name))


@pytest.mark.parametrize("path", list(every_command(commands)), ids=" ".join)
def test_every_command_has_help_that_fits_a_terminal(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli([*path, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: batchgen")
    assert max(map(len, out.splitlines())) <= 110


def test_the_defaults_told_by_the_help_are_the_job_s(capsys: pytest.CaptureFixture[str]) -> None:
    cli(["run", "--help"])
    out = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    given = Job(manifest="x")
    for name in ("model", "concurrency", "attempts", "variants", "on_uncertain", "check"):
        flag = f"--{name.replace('_', '-')}"
        assert re.search(rf"{flag} .*?\[default: {re.escape(str(getattr(given, name)))}\]", out), name
    assert "[default: 300]" in out
    assert "[default: core-today]" in out


def test_every_field_of_a_job_is_a_flag_or_a_table() -> None:
    run = commands.commands["run"]
    flags = {parameter.name for parameter in run.params}
    assert set(Job.__struct_fields__) - flags == {"manifest", "models", "simulator"}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from batchgen.cli import cli; cli(['--help']); cli(['run', '--help']);"
        "print([m for m in ('pyarrow', 'httpx', 'PIL', 'anyio', 'msgspec', 'tqdm') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_run_does_not_load_pandas(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt\na cat\n")
    code = "import sys, batchgen.__main__ as program; program.sys.exit = print; program.main();"
    code += "print('pyarrow.csv' in sys.modules, 'pandas.core' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code, "run", "t.csv", "--dry-run", "--provider", "simulator"],
        capture_output=True, text=True, env=environment(), check=True, cwd=tmp_path,
    )  # fmt: skip
    assert found.stdout.splitlines()[-2:] == ["0", "True False"]


def test_the_version_and_the_module_are_the_program() -> None:
    assert batchgen("--version").stdout == f"batchgen {__version__}\n"


def test_completion_knows_providers_and_models() -> None:
    words = {
        "COMP_WORDS": "batchgen run x --provider core",
        "COMP_CWORD": "4",
        "_BATCHGEN_COMPLETE": "bash_complete",
    }
    found = subprocess.run(
        COMMAND, capture_output=True, text=True, env={**environment(), **words}, check=False
    )
    assert "core-today" in found.stdout
    words["COMP_WORDS"] = "batchgen run x --model gemini-3-pro"
    found = subprocess.run(
        COMMAND, capture_output=True, text=True, env={**environment(), **words}, check=False
    )
    assert "gemini-3-pro-image-preview" in found.stdout


COMPLETED = """
complete() { shift; register="$*"; }
eval "$(batchgen completion bash)"
compopt() { local IFS=' '; echo "compopt $*"; }
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _batchgen_completion batchgen
  echo "${COMPREPLY[*]}"
}
try batchgen sta
try batchgen run x --provider core
try batchgen run x --log-f
try batchgen status runs/to
echo "$register"
"""


def test_bash_completes_commands_flags_values_and_folders_with_what_is_printed(folder: Path) -> None:
    program = folder / "batchgen"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batchgen "$@"\n')
    program.chmod(0o755)
    env = {**environment(), "PATH": f"{folder}:{os.environ['PATH']}"}
    found = subprocess.run(
        ["bash", "-c", COMPLETED], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert found.stdout.splitlines() == [
        "status",
        "core-today",
        "--log-file",
        "compopt -o dirnames",
        "",
        "nosort -F _batchgen_completion batchgen",
    ], found.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_every_shell_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert f"_BATCHGEN_COMPLETE={shell}_complete" in out
    checker = shutil.which(shell)
    if checker is not None:
        subprocess.run([checker, "-n"], input=out, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "prompt.csv"], "prompt.csv: no such file; did you mean 'prompts.csv'?"),
        (["run", "else.csv"], "else.csv: no such file; there are 'night.toml', 'prompts.csv'"),
        (["run", "knight.toml"], "knight.toml: no such file; did you mean 'night.toml'?"),
        (["run", "gone/x.csv"], "gone/x.csv: no such file, nor a folder 'gone'"),
        (["status", "runs/nigth"], "runs/nigth: no such folder; did you mean 'runs/night'?"),
        (["status", "prompts.csv"], "not a run directory; there are 'runs/night'"),
        (["status", "night.toml"], "not a run directory; did you mean 'runs/night'?"),
        (["verify", "runs"], "runs: no ledger here: this is no run directory; there are 'runs/night'"),
        (["rnu", "night.toml"], "Did you mean 'run'?"),
    ],
)
def test_a_slip_is_answered_with_what_is_there(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job(folder)
    (folder / "runs/night").mkdir(parents=True)
    (folder / "runs/night/ledger.db").touch()
    assert cli(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_manifest_comes_on_standard_input(folder: Path) -> None:
    found = batchgen("run", "-", "--provider", "simulator", "--limit", "0", input="id,prompt\na,x\n")
    assert (found.returncode, "--limit" in found.stderr) == (2, True)
    (folder / "fast.toml").write_text(f'manifest = "-"\nprovider = "simulator"\n{FAST}')
    found = batchgen("run", "fast.toml", input="id,prompt\na,x\nb,y\n")
    assert found.returncode == 0, found.stderr
    assert "2 of 2 pictures" in found.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_a_real_run_and_the_same_command_goes_on(
    folder: Path, number: signal.Signals, status: int
) -> None:
    source = job(folder, rows=40, settings="concurrency = 4")
    path = folder / source
    path.write_text(path.read_text().replace("latency = 0.0", "latency = 0.02"))
    with subprocess.Popen(
        [*COMMAND, "run", source, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as running:
        pictures = folder / "runs/night/images"
        deadline = time.monotonic() + 30
        while (not pictures.exists() or len(list(pictures.iterdir())) < 3) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == status, err
    first = json.loads(out)
    assert first["stopped"]["reason"] == number.name
    assert first["uncertain"] == 0
    assert first["tasks"]["succeeded"] + first["tasks"]["pending"] == 40
    second = json.loads(batchgen("run", source, "--json").stdout)
    assert second["tasks"] == {"succeeded": 40}
    assert second["requests"] == first["tasks"]["pending"]


def test_a_terminal_shows_a_bar_with_money_and_failures(folder: Path) -> None:
    source = job(folder, rows=30, settings="attempts = 1", faults="[simulator.faults]\nrefusal = 0.2")
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    with subprocess.Popen(
        [*COMMAND, "run", source], stdout=subprocess.DEVNULL, stderr=follower, env=environment()
    ):
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(leader)
    text = shown.decode()
    assert re.search(r"100%\|.*30/30", text)
    assert re.search(r"\d+ failed, \$\d+\.\d\d", text)


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    source = job(folder, rows=2)
    command = " ".join([*COMMAND, "run", source, "--json"])
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""


def test_a_defect_is_told_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("batchgen.cli.watching.status", broken)
    assert cli(["status", "x"]) == 70
    assert "this is a defect" in capsys.readouterr().err


def test_an_interrupt_before_anything_was_sent_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("batchgen.cli.watching.status", interrupted)
    assert cli(["status", "x"]) == 130


def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.cli.running._LINE_EVERY", 0.0)
    assert cli(["run", job(folder, rows=6, settings="concurrency = 2")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d 6/6, \$0\.\d\d, \d in flight, \d+\.\d/min, 0 s left", lines[-1])
    assert not any("\r" in line for line in lines)


def test_an_uncertain_request_is_told_with_its_money_and_an_unpriced_model_as_such(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = job(folder, settings="attempts = 1", faults="[simulator.faults]\nreset_after = 1.0")
    assert cli(["run", source]) == 1
    out = capsys.readouterr().out
    assert re.search(r"uncertain 5 requests may have been billed .*; up to \$0\.\d+ more", out)
    assert cli(["status", "runs/night"]) == 0
    assert "uncertain 5 requests" in capsys.readouterr().out


def test_a_stop_tells_reason_and_remedy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = job(folder, rows=30)
    assert cli(["run", source, "--budget", "0.5"]) == 3
    out = capsys.readouterr().out
    assert "stopped: the budget of $0.50 has no room for another picture" in out
    assert "next: raise --budget" in out


def test_a_damaged_picture_is_kept_aside_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = job(folder, rows=1, faults="[simulator.faults]\ncorrupt = 1.0")
    assert cli(["run", source]) == 1
    assert "1 x corrupt:" in capsys.readouterr().out
    (row,) = pq.read_table("runs/night/results.parquet").to_pylist()
    assert (row["status"], row["attempts"], row["file_name"]) == ("corrupt", 2, None)
    assert row["wasted_usd"] == row["cost_usd"] > 0
    assert len(list((folder / "runs/night/corrupt").iterdir())) == 2, "retried once"


def test_a_dry_run_prices_the_models_of_the_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p.csv").write_text("prompt,model\nx,gemini-3-pro-image-preview\ny,gemini-3-pro-image\n")
    assert cli(["run", "-n", "p.csv"]) == 0
    low, high = map(float, re.findall(r"\$([0-9.]+)–([0-9.]+) for 2 to buy", capsys.readouterr().out)[0])
    assert low < 0.55 < high


@pytest.mark.parametrize("dry", [[], ["-n"]])
@pytest.mark.parametrize(
    ("table", "message"),
    [("latncy = 1", "latncy"), ("latency = -1", "latency"), ("faults = { foo = 1 }", "foo")],
)
def test_what_is_wrong_with_the_simulator_is_told_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str], table: str, message: str, dry: list[str]
) -> None:
    (folder / "p.csv").write_text("prompt\nx\n")
    (folder / "n.toml").write_text(f'manifest = "p.csv"\nprovider = "simulator"\n[simulator]\n{table}\n')
    assert cli(["run", "n.toml", *dry]) == 2
    assert message in capsys.readouterr().err


def test_a_variable_that_means_nothing_is_told_with_the_nearest_one(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_CONCURENCY", "3")
    assert cli(["run", job(folder)]) == 0
    assert (
        "BATCHGEN_CONCURENCY is set and means nothing; did you mean 'BATCHGEN_CONCURRENCY'?"
        in capsys.readouterr().err
    )


def test_again_is_never_taken_from_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = job(folder)
    assert cli(["run", source]) == 0
    monkeypatch.setenv("BATCHGEN_AGAIN", "1")
    assert cli(["run", source, "--json"]) == 0
    assert '"bought":0' in capsys.readouterr().out


def test_an_unfinished_again_is_not_to_be_repeated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = job(folder, rows=30)
    assert cli(["run", source]) == 0
    capsys.readouterr()
    assert cli(["run", source, "--again", "--budget", "2.5"]) == 3
    assert re.search(r"^  .* run night.toml --budget 5$", capsys.readouterr().out, re.MULTILINE)
    path = folder / source
    path.write_text("again = true\nbudget = 2.5\n" + path.read_text())
    assert cli(["run", source]) == 3
    assert "# after `again` is out of the job file" in capsys.readouterr().out


def test_an_unpriced_run_says_that_its_cost_is_unknown(folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "simulate", "--latency", "0", "--no-paint"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2].rstrip(";")
        job(folder)
        found = subprocess.run(
            [*COMMAND, "run", "prompts.csv", "--base-url", f"{url}/v1"],
            capture_output=True,
            text=True,
            env={**environment(), "BATCHGEN_API_KEY": "any"},
            check=False,
        )
        server.terminate()
    assert found.returncode == 0, found.stderr
    assert "cost      unknown: the model has no known price" in found.stdout


def test_status_knows_a_killed_run_from_a_running_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = job(folder, rows=500)
    path = folder / source
    path.write_text(path.read_text().replace("latency = 0.0", "latency = 0.1"))
    with subprocess.Popen([*COMMAND, "run", source, "-q"], env=environment()) as running:
        ledger = folder / "runs/night/ledger.db"
        deadline = time.monotonic() + 30
        while not (folder / "runs/night/images").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert cli(["status", "runs/night"]) == 0
        assert f"running (pid {running.pid} on" in capsys.readouterr().out
        running.kill()
    assert ledger.exists()
    assert cli(["status", "runs/night"]) == 0
    assert "killed; the same command goes on" in capsys.readouterr().out


def test_the_environment_s_key_goes_before_the_job_file_s_and_a_named_file_before_both(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = job(folder, settings='key_file = "of-the-job"')

    def kept(*flags: str) -> object:
        assert cli(["run", source, "-q", *flags]) == 0
        return json.loads((folder / "runs/night/job.json").read_text())["key_file"]

    assert kept() == "of-the-job"
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("BATCHGEN_API_KEY", "of-the-environment")
    assert kept() is None
    assert capsys.readouterr().err == ""
    assert kept("--key-file", "of-the-flag") == "of-the-flag"
    told = "batchgen: the key is the one in of-the-flag, not in BATCHGEN_API_KEY\n"
    assert capsys.readouterr().err == told
    monkeypatch.setenv("BATCHGEN_KEY_FILE", "of-the-flag")
    assert kept() == "of-the-flag"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_ids_of_any_script_are_told_in_any_encoding_and_steer_nothing(folder: Path, encoding: str) -> None:
    source = job(folder, faults="[simulator.faults]\nrefusal = 1.0", settings="attempts = 1")
    (folder / "prompts.csv").write_text("id,prompt\n고양이 \x1b[2J\u202e🎨,x\n", encoding="utf-8")
    done = subprocess.run(
        [*COMMAND, "run", source, "-v", "-o", "고양이"],
        capture_output=True,
        env={**environment(), "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\\x1b[2J\\u202e" in done.stderr
    assert "고양이".encode(encoding, "backslashreplace") in done.stdout


def test_json_spells_out_what_would_steer_a_terminal_and_says_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = "run \x9b31m\u202e\x7f고"
    assert cli(["run", job(folder), "--json", "-o", directory]) == 0
    out = capsys.readouterr().out
    assert not re.search("[\x7f-\x9f\u202e]", out)
    assert json.loads(out)["directory"] == directory


LONG = "x" * 300
"""A name that no file system has: it cannot be looked at, nor can what lies in a closed folder."""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["status", LONG], ["verify", LONG], ["report", LONG], ["export", LONG, "--to", "csv"]),
        *(
            ["init", LONG],
            ["plan", LONG],
            ["run", LONG],
            ["plan", "p.csv", "-o", LONG],
            ["run", "p.csv", "-o", LONG],
        ),
    ],
)
def test_a_place_that_cannot_even_be_looked_at_is_bad_input(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("prompt\nx\n")
    provider = ["--provider", "simulator"] if arguments[0] in {"plan", "run"} else []
    assert cli([*arguments, *provider]) == 2
    assert re.fullmatch(rf"batchgen: {LONG}: File name too long; .+\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("limit", "line", "short"),
    [
        (Limit(), [], ""),
        (
            Limit(felt=870.4, stated=5000),
            ["  limit     about 870 requests a minute, as its answers 429 tell"],
            "limit ~870/min",
        ),
        (
            Limit(felt=1200, stated=900),
            ["  limit     900 requests a minute, as the endpoint says"],
            "limit 900/min",
        ),
        (
            Limit(felt=4.25),
            ["  limit     about 4.2 requests a minute, as its answers 429 tell"],
            "limit ~4/min",
        ),
    ],
)
def test_what_was_found_out_of_a_limit_is_told_with_who_says_so(
    limit: Limit, line: list[str], short: str
) -> None:
    assert limit_told(limit) == line
    progress = Progress(
        total=0,
        skipped=0,
        succeeded=0,
        failed=0,
        in_flight=0,
        waiting=0,
        hedges=0,
        spent_usd=Decimal(0),
        cooling=0.0,
        rate_limit=limit,
        stopping=None,
    )
    assert running._postfix(progress) == f", $0.00, 0 in flight{short and ', '}{short}"
