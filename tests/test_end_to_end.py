"""The main job over real sockets: rows in order, each its own picture, the bill equal to the last token."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

import batchgen
from batchgen import job as jobs
from batchgen.records import Limit
from batchgen.runner import Surroundings, run
from batchgen.simulator.paint import prompt_mark

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PROMPTS = [
    "a red car",
    'a sign that says "open, all night"',
    "two lines\nof a poem",
    "carriage\r\nreturn",
    "trailing space ",
    "한복을 입은 고양이",
    "غروب الشمس فوق الصحراء",
    "夜の東京、雨、ネオン",
    "Ünïcödé naïveté — “quotes” … €",
    "emoji 🎨🖼️👩‍🎨",
    "=SUM(A1:A9)",
    "{not a template}",
    "null",
    "'; DROP TABLE tasks; --",
    "<script>alert(1)</script>",
    "x" * 100_000,
    "ключ\tтабуляция",
    "\u200bzero width",
    "the same prompt",
    "the same prompt",
]


@contextmanager
def simulator(*flags: str) -> Iterator[str]:
    command = [sys.executable, "-m", "batchgen", "simulate", "--latency", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[2].rstrip(";")
        finally:
            server.terminate()
            server.communicate(timeout=10)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with simulator("--seed", "4") as url:
        yield url


def account(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/account") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def bought(url: str, manifest: Path, folder: Path, backend: str, **values: object) -> batchgen.Summary:
    given = {"provider": "core-today", "base_url": f"{url}/v1", "output": str(folder), **values}
    return run(
        jobs.resolve(str(manifest), given),
        environment={"BATCHGEN_API_KEY": "cdt_any"},
        surroundings=Surroundings(backend=backend),
    )


def manifest_of(folder: Path, prompts: list[str]) -> Path:
    path = folder / "prompts.csv"
    table = pa.table(
        {"id": [f"row {n}" for n in range(len(prompts))], "prompt": prompts, "note": ["007"] * len(prompts)}
    )
    pyarrow.csv.write_csv(table, path)
    return path


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_row_has_its_own_picture_and_the_sums_are_the_endpoint_s(
    endpoint: str, tmp_path: Path, backend: str
) -> None:
    before = account(endpoint)
    summary = bought(endpoint, manifest_of(tmp_path, PROMPTS), tmp_path / "run", backend, concurrency=6)
    after = account(endpoint)
    table = pq.read_table(tmp_path / "run/results.parquet").to_pylist()
    assert summary.exit_status == 0, summary
    assert [row["prompt"] for row in table] == PROMPTS
    assert [row["id"] for row in table] == [f"row {n}" for n in range(len(PROMPTS))]
    assert Counter(row["note"] for row in table) == {"007": len(PROMPTS)}
    assert len({row["file_name"] for row in table}) == len(PROMPTS)
    for row in table:
        data = (tmp_path / "run" / row["file_name"]).read_bytes()
        (picture,) = row["images"]
        assert prompt_mark(data) == sha256(row["prompt"].encode()).hexdigest()[:16], row["id"]
        assert (sha256(data).hexdigest(), len(data)) == (picture["sha256"], picture["bytes"])
        assert Image.open(io.BytesIO(data)).size == (picture["width"], picture["height"])
    assert Decimal(after["usd"]) - Decimal(before["usd"]) == sum(row["cost_usd"] for row in table)
    (model,) = after["models"]
    for name in ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens"):
        billed = after["models"][model][name] - before["models"].get(model, {}).get(name, 0)
        assert billed == sum(row[name] for row in table) == getattr(summary, name)


def test_a_second_run_sends_nothing_and_one_edited_row_one_request(endpoint: str, tmp_path: Path) -> None:
    bought(endpoint, manifest_of(tmp_path, PROMPTS[:6]), tmp_path / "run", "asyncio")
    seen = account(endpoint)["seen"]
    bought(endpoint, tmp_path / "prompts.csv", tmp_path / "run", "trio")
    assert account(endpoint)["seen"] == seen
    bought(endpoint, manifest_of(tmp_path, ["a blue car", *PROMPTS[1:6]]), tmp_path / "run", "asyncio")
    assert account(endpoint)["seen"] == seen + 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_faults_on_the_wire_cost_no_row_and_hide_no_token(tmp_path: Path, backend: str) -> None:
    faults = (
        "overloaded=0.1",
        "reset_after=0.1",
        "truncated=0.1",
        "bad_json=0.05",
        "corrupt=0.05",
        "refusal=0.05",
    )
    flags = [word for fault in faults for word in ("--fault", fault)]
    limits = ("--rpm", "90000", "--quota-headers", "ietf")
    with simulator("--seed", "8", "--no-paint", *limits, *flags) as url:
        manifest = manifest_of(tmp_path, [f"picture {n}" for n in range(50)])
        summary = bought(url, manifest, tmp_path / "run", backend, concurrency=12)
        endpoint = account(url)
    table = pq.read_table(tmp_path / "run/results.parquet").to_pylist()
    assert len(table) == 50
    assert not {row["status"] for row in table} & {"pending"}
    assert summary.tasks["succeeded"] > 40
    assert summary.rate_limit == Limit(stated=90_000), "what headers say arrives"
    assert summary.uncertain > 0
    assert summary.spent_usd <= Decimal(endpoint["usd"]) <= summary.spent_usd + summary.uncertain_usd


def test_a_key_the_endpoint_does_not_take_stops_the_run_and_is_nowhere(tmp_path: Path) -> None:
    with simulator("--key", "another") as url:
        manifest = manifest_of(tmp_path, [f"picture {n}" for n in range(200)])
        given = {"provider": "core-today", "base_url": f"{url}/v1", "output": str(tmp_path / "run")}
        summary = run(
            jobs.resolve(str(manifest), given), environment={"BATCHGEN_API_KEY": "cdt_very_secret_key"}
        )
        assert account(url)["seen"] <= 8
    assert summary.exit_status == 3
    assert "cdt_very_secret_key" not in str(summary)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"very_secret" not in path.read_bytes(), path


def test_the_public_names_are_there_and_nothing_else_is_promised() -> None:
    assert sorted(batchgen.__all__) == batchgen.__all__
    for name in batchgen.__all__:
        assert getattr(batchgen, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = batchgen.nothing


def test_a_program_runs_a_job_in_two_lines(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, PROMPTS[:3])
    job = batchgen.Job(
        manifest=str(manifest),
        output=str(tmp_path / "run"),
        provider="simulator",
        simulator={"latency": 0.0, "paint": False},
    )
    assert batchgen.preview(job).new == 3
    seen: list[batchgen.Progress] = []
    assert batchgen.run(job, on_progress=seen.append).tasks == {"succeeded": 3}
    assert seen[-1].succeeded == 3


@pytest.mark.parametrize("shape", ["S2", "S3", "S6", "mixed"])
def test_every_shape_of_answer_becomes_the_row_s_picture(tmp_path: Path, shape: str) -> None:
    with simulator("--shape", shape) as url:
        summary = bought(url, manifest_of(tmp_path, PROMPTS[:5]), tmp_path / "run", "asyncio")
        assert account(url)["billed"] == 5
    assert summary.tasks == {"succeeded": 5}
    for row in pq.read_table(tmp_path / "run/results.parquet").to_pylist():
        data = (tmp_path / "run" / row["file_name"]).read_bytes()
        assert prompt_mark(data) == sha256(row["prompt"].encode()).hexdigest()[:16]


class _Echo(BaseHTTPRequestHandler):
    """A gateway that quotes the key it was sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        said = f"Incorrect API key provided: {self.headers['authorization'].split()[1]}"
        body = json.dumps({"error": {"message": said, "code": "invalid_api_key"}}).encode()
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_key_that_an_endpoint_quotes_is_nowhere(tmp_path: Path) -> None:
    secret = "plain-words-nobody-takes-for-a-key"
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        manifest = manifest_of(tmp_path, [f"picture {n}" for n in range(50)])
        given = {"provider": "core-today", "base_url": url, "output": str(tmp_path / "run")}
        summary = run(jobs.resolve(str(manifest), given), environment={"BATCHGEN_API_KEY": secret})
        server.shutdown()
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert "Incorrect API key provided" in summary.stopped.message
    assert secret not in str(summary)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
