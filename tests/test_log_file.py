"""The log file: every request and every task of a run, one line each, whatever happens to the file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchgen import events
from batchgen.cli import cli
from batchgen.errors import InputError
from batchgen.events import EVENTS, Cooled, Log, Stopped
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PLAIN = "{}".format


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log(tmp_path / "run.jsonl", wall=lambda: 1_800_000_000.5, redact=PLAIN)
    yield opened
    opened.close()


@pytest.mark.blocks
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_request_and_every_task_of_a_night_is_told_as_the_ledger_has_it(
    tmp_path: Path, backend: str
) -> None:
    settings = Settings(paint=False, rpm=20, faults=Faults(overloaded=0.1, refusal=0.3, reset_after=0.05))
    nights = Nights(tmp_path, settings, backend=backend)
    nights.write(
        "id,prompt,parent\n"
        + "".join(f"row-{n},picture {n},\n" for n in range(60))
        + "".join(f"child-{n},more,row-{n}\n" for n in range(20))
    )
    path = tmp_path / "run.jsonl"
    summary = nights.run(log_file=str(path), max_failure_rate=1.0, attempts=2, seed=3)
    lines = told(path)
    assert [lines[0]["event"], lines[-1]["event"]] == ["run_started", "run_ended"]
    assert {line["run"] for line in lines} == {f"{nights.directory}#1"}
    assert lines[-1]["summary"]["cost_usd"] == f"{summary.cost_usd:f}"
    assert lines[-1]["exit_status"] == summary.exit_status
    by_event = {name: [line for line in lines if line["event"] == name] for name in ("attempt", "task")}
    assert (
        len([line for line in by_event["attempt"] if line["error_class"] != "unreachable"])
        == summary.requests
    )
    spent = sum(round(float(line["cost_usd"] or 0) * 1e9) for line in by_event["attempt"])
    assert spent == summary.run_usd.scaleb(9)
    final = {(line["task_key"], line["status"], line["file_name"]) for line in by_event["task"]}
    assert final == {(row["task_key"], row["status"], row["file_name"]) for row in nights.table()}
    assert len(final) == len(by_event["task"]) == 80, "each once"
    assert any(line["error_class"] == "parent_failed" for line in by_event["task"])
    assert {"cooled"} <= {line["event"] for line in lines}


@pytest.mark.parametrize("left", ["", '{"whole":1}\n', '{"to', '{"torn":"'])
def test_what_a_dead_run_tore_does_not_spoil_the_next_line(tmp_path: Path, left: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(left)
    log = Log(path, wall=lambda: 0.0, redact=PLAIN)
    log.put("r#1", Cooled(seconds=1.0))
    log.close()
    last = path.read_text().splitlines()[-1]
    assert json.loads(last) == {
        "time": "1970-01-01T00:00:00.000Z",
        "run": "r#1",
        "event": "cooled",
        "seconds": 1.0,
    }
    assert path.read_text().startswith(left)
    assert "\n\n" not in path.read_text()


def test_a_file_that_is_moved_away_is_made_anew_and_no_line_is_lost(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "run.jsonl"
    for number in range(50):
        log.put("r", Cooled(seconds=number))
        if number % 10 == 5:
            while not path.exists() or path.stat().st_size == 0:
                os.sched_yield()
            path.rename(tmp_path / f"run.jsonl.{number}")
    log.close()
    found = sorted(line["seconds"] for file in tmp_path.iterdir() for line in told(file))
    assert found == [float(number) for number in range(50)]


def test_what_cannot_be_written_is_told_once_counted_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = Log(folder / "run.jsonl", wall=lambda: 0.0, redact=PLAIN)
    (folder / "run.jsonl").unlink()
    folder.rmdir()
    for number in range(20):
        log.put("r", Cooled(seconds=number))
        while not log._queue.empty():
            os.sched_yield()
    while log._lost < 20:
        os.sched_yield()
    folder.mkdir()
    log.put("r", Cooled(seconds=99))
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}/run.jsonl: No such file or directory; events are missed there, the run goes on"
    ]
    assert [(line["event"], line.get("events")) for line in told(folder / "run.jsonl")] == [
        ("missed", 20),
        ("cooled", None),
    ]


FULL = """
import resource, signal, sys
from pathlib import Path
from batchgen.events import Cooled, Log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Log(Path(sys.argv[1]), wall=lambda: 0.0, redact=str)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for n in range(5):
    log.put("r", Cooled(seconds=n))
while not log._lost:
    pass
while not log._queue.empty():
    pass
import time; time.sleep(0.1)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.put("r", Cooled(seconds=9))
log.close()
"""


def test_a_disk_full_amid_a_line_spoils_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    subprocess.run([sys.executable, "-c", FULL, str(path)], check=True, cwd=ROOT, timeout=60)
    lines = path.read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(lines) - len(whole) == 1, "the torn one"
    missed = sum(line["events"] for line in whole if line["event"] == "missed")
    assert missed + sum(line["event"] == "cooled" for line in whole) == 6


def test_keys_and_halves_of_characters_do_not_get_into_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = Log(path, wall=lambda: 0.0, redact=lambda text: text.replace("secret", "[key]"))
    log.put("r", Stopped(reason="secret", message='a "secret\\\n\ud800'))
    log.close()
    (line,) = told(path)
    assert (line["reason"], line["message"]) == ("[key]", 'a "[key]\\\n\\ud800')


@pytest.mark.parametrize("name", ["nowhere/run.jsonl", ".", "pipe", "prompts.csv/run.jsonl"])
def test_a_file_that_cannot_be_opened_is_bad_input_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "prompts.csv").write_text("prompt\nx\n")
    assert cli(["run", "prompts.csv", "--provider", "simulator", "--log-file", name]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"batchgen: --log-file: {name}: ")
    assert (err.count("\n"), out) == (1, "")
    assert not (tmp_path / "runs/prompts/ledger.db").exists()
    with pytest.raises(InputError):
        Log(Path(name), wall=lambda: 0.0, redact=PLAIN)


@pytest.mark.parametrize(
    "name",
    ["prompts.jsonl", "more.csv", "link.jsonl", "out/job.json", "out/ledger.db", "out/results.parquet"],
)
def test_lines_are_not_added_to_what_is_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt":"x"}\n')
    (tmp_path / "more.csv").write_text("prompt\ny\n")
    (tmp_path / "link.jsonl").symlink_to(prompts)
    (tmp_path / "out").mkdir()
    arguments = ["run", "prompts.jsonl", "--provider", "simulator", "-o", "out", "--log-file", name]
    assert cli(arguments) == 2
    assert re.match(rf"batchgen: --log-file: {name}: th.*; name another\n\Z", capsys.readouterr().err)
    assert prompts.read_text() == '{"prompt":"x"}\n'
    assert (tmp_path / "more.csv").read_text() == "prompt\ny\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lock"}


def test_a_job_file_names_it_beside_itself_and_a_failing_run_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/p.csv").write_text("prompt\n" + "x\n" * 3)
    (tmp_path / "jobs/night.toml").write_text(
        'manifest = "p.csv"\nprovider = "simulator"\nlog_file = "night.jsonl"\nattempts = 1\n'
        "[simulator]\nlatency = 0.0\npaint = false\n[simulator.faults]\nrefusal = 1.0\n"
    )
    for _ in range(2):
        assert cli(["run", "jobs/night.toml", "--retry-failed"]) == 1
    lines = told(tmp_path / "jobs/night.jsonl")
    assert [line["run"] for line in lines if line["event"] == "run_started"] == [
        "runs/night#1",
        "runs/night#2",
    ]
    assert sum(line["event"] == "task" and line["status"] == "no_image" for line in lines) == 6
    capsys.readouterr()


def test_the_document_has_every_event_with_its_fields_and_no_others() -> None:
    page = (ROOT / "docs/events.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    documented = {}
    for name, text in sections:
        cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
        inline = re.findall(r"`(\w+)`", text.split("|", maxsplit=1)[0]) if not cells else []
        documented[name] = {field for cell in cells for field in re.findall(r"`(\w+)`", cell)} | set(inline)
    assert documented == {event.__struct_config__.tag: set(event.__struct_fields__) for event in EVENTS}
    assert set(events.Event.__args__) == set(EVENTS)
