"""A real gateway between the runner and the endpoint: what LiteLLM's proxy makes of requests and answers."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from batchgen.simulator.paint import prompt_key, prompt_mark
from tests.test_end_to_end import ROOT, account, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason="LiteLLM is not installed: pip install -e '.[gateway]' in an environment of its own",
)

ROWS = 200
KEY = "sk-a-key-of-the-gateway"
START = 120.0
"""Seconds that the proxy may take to start."""
OPENAI = "gemini-3.1-flash-image-preview"
"""Passed on as chat completions."""
NATIVE = "google/gemini-3.1-flash-image-preview"
"""Translated to generateContent."""


class Gateway(NamedTuple):
    """A proxy, and the endpoint behind it."""

    url: str
    upstream: str


def configuration(upstream: str) -> str:
    """The proxy's: JSON is YAML. How often it asks again by itself is left as it is by default."""
    routes = {
        OPENAI: ("openai/gemini-3.1-flash-image-preview", "/v1"),
        NATIVE: ("gemini/gemini-3.1-flash-image-preview", "/v1beta"),
    }
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": model, "api_base": upstream + path, "api_key": "sk-upstream"},
        }
        for name, (model, path) in routes.items()
    ]
    return json.dumps(
        {
            "model_list": models,
            "litellm_settings": {"telemetry": False},
            "router_settings": {"disable_cooldowns": True},
            "general_settings": {"master_key": KEY},
        }
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def litellm(upstream: str, folder: Path) -> Iterator[str]:
    """LiteLLM's proxy on loopback, in a home of its own, which asks nothing of any other machine."""
    settings = folder / "litellm.yaml"
    settings.write_text(configuration(upstream))
    port = free_port()
    command = [str(Path(sys.executable).parent / "litellm"), "--config", str(settings)]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    log = folder / "litellm.log"
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, *flags], stdout=output, stderr=output, env=environment) as proxy,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health/liveliness", proxy, log)
            yield f"{url}/v1"
        finally:
            proxy.kill()


def wait_for(url: str, proxy: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START
    while proxy.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"LiteLLM did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # Images stand where OpenRouter puts them: LiteLLM refuses what is no chat completion.
    faults = [
        word for name in ("overloaded", "server_error", "refusal") for word in ("--fault", f"{name}=0.03")
    ]
    with simulator("--seed", "11", "--shape", "S2", "--no-paint", *faults) as upstream:
        folder = tmp_path_factory.mktemp("litellm")
        with litellm(upstream, folder) as url:
            yield Gateway(url, upstream)


def batchgen(url: str, manifest: Path, folder: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "batchgen", "run", str(manifest), "--base-url", url, "-o", str(folder)]
    done = subprocess.run(
        [*command, "--json", "--quiet", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "BATCHGEN_API_KEY": KEY},
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def manifest_of(folder: Path) -> Path:
    path = folder / "prompts.csv"
    prompts = [f'Poster № {n} with the words "sold, 完売, 매진"\nand a second line' for n in range(ROWS)]
    pyarrow.csv.write_csv(pa.table({"prompt": prompts}), path)
    return path


@pytest.mark.parametrize(("model", "provider"), [(OPENAI, "core-today"), (NATIVE, "openrouter")])
def test_through_litellm_every_row_has_its_own_picture_and_the_sums_are_the_endpoint_s(
    gateway: Gateway, tmp_path: Path, model: str, provider: str
) -> None:
    before = account(gateway.upstream)
    flags = ["--provider", provider, "--model", model, "-c", "16"]
    summary = batchgen(gateway.url, manifest_of(tmp_path), tmp_path / "run", *flags)
    after = account(gateway.upstream)
    assert summary["tasks"] == {"succeeded": ROWS}, summary
    rows = pq.read_table(tmp_path / "run/results.parquet").to_pylist()
    for row in rows:
        assert row["status"] == "succeeded"
        picture = (tmp_path / "run" / row["file_name"]).read_bytes()
        assert prompt_mark(picture) == prompt_key(row["prompt"]), row["id"]
        # Of an answer that was refused LiteLLM hands on the sums alone.
        assert row["usage_quality"] in {"billed", "detailed"} or row["attempts"] > 1
    assert len({row["file_name"] for row in rows}) == ROWS
    assert after["seen"] - before["seen"] == summary["requests"] > ROWS  # nothing was asked behind our back
    (upstream,) = after["models"]
    for name in ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens"):
        billed = after["models"][upstream][name] - before["models"].get(upstream, {}).get(name, 0)
        assert billed == sum(row[name] for row in rows)
    assert Decimal(after["usd"]) - Decimal(before["usd"]) == sum(row["cost_usd"] for row in rows)
