"""A real gateway between the runner and the endpoint: what LiteLLM's proxy makes of requests and answers."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batchgen.dialects import chat
from batchgen.records import Attached, Expect, Generation, ImageOptions, Params, Task
from batchgen.simulator.paint import prompt_key, prompt_mark
from tests.test_end_to_end import ROOT, account, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.records import Failure

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason="LiteLLM is not installed: pip install -e '.[gateway]' in an environment of its own",
)

KEY = "sk-a-key-of-the-gateway"
START = 120.0
"""Seconds that the proxy may take to start."""
FLASH = "gemini-3.1-flash-image-preview"
OPENAI = FLASH
"""Passed on as chat completions."""
NATIVE = f"google/{FLASH}"
"""Translated to generateContent."""
GOOGLE = "flash"
"""Asked for in generateContent, and passed on as such."""


CALM = ("calm/chat", "calm/translated")
"""The same two ways to an endpoint at which nothing goes wrong."""


class Gateway(NamedTuple):
    """A proxy, and the endpoints behind it."""

    url: str
    upstream: str
    """Some of its answers are errors, some are refusals."""
    calm: str


def configuration(upstream: str, calm: str) -> str:
    """The proxy's: JSON is YAML. How often it asks again by itself is left as it is by default."""
    routes = {
        OPENAI: ("openai", f"{upstream}/v1"),
        NATIVE: ("gemini", f"{upstream}/v1beta"),
        GOOGLE: ("gemini", f"{upstream}/v1beta"),
        CALM[0]: ("openai", f"{calm}/v1"),
        CALM[1]: ("gemini", f"{calm}/v1beta"),
    }
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"{kind}/{FLASH}", "api_base": base, "api_key": "sk-upstream"},
        }
        for name, (kind, base) in routes.items()
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
def litellm(told: str, folder: Path) -> Iterator[str]:
    """LiteLLM's proxy on loopback, in a home of its own, which asks nothing of any other machine."""
    settings = folder / "litellm.yaml"
    settings.write_text(told)
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
            yield url
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
    names = ("overloaded", "server_error", "refusal", "draft")
    faults = [word for name in names for word in ("--fault", f"{name}=0.05")]
    # Pictures stand where OpenRouter puts them: LiteLLM takes them from nowhere else but Markdown.
    flags = ("--seed", "11", "--shape", "S2", "--no-paint")
    with (
        simulator(*flags, *faults) as upstream,
        simulator(*flags) as calm,
        litellm(configuration(upstream, calm), tmp_path_factory.mktemp("litellm")) as url,
    ):
        yield Gateway(url, upstream, calm)


def batchgen(folder: Path, rows: int, **job: object) -> dict[str, Any]:
    """Run a job of so many rows in a process of its own; its summary."""
    path = folder / "prompts.csv"
    prompts = [f'Poster № {n} with the words "sold, 完売, 매진"\nand a second line' for n in range(rows)]
    pyarrow.csv.write_csv(pa.table({"prompt": prompts}), path)
    told = {"manifest": str(path), "output": str(folder / "run"), "concurrency": 16, **job}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items())
    price = f"[models.{GOOGLE}]\nprice = {{ input = 0.5, text = 3, image = 60 }}\n"
    (folder / "job.toml").write_text(text + price)
    done = subprocess.run(
        [sys.executable, "-m", "batchgen", "run", str(folder / "job.toml"), "--json", "--quiet"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "BATCHGEN_API_KEY": KEY},
        check=False,
    )
    assert done.returncode in {0, 1}, (done.stdout, done.stderr)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


CHAT = {"provider": "core-today", "model": OPENAI}
TRANSLATED = {"provider": "openrouter", "model": NATIVE}
PASSED_ON = {"provider": "core-today", "model": GOOGLE, "dialect": "gemini"}


@pytest.mark.parametrize(
    ("rows", "path", "job"),
    [
        pytest.param(200, "/v1", CHAT, id="chat"),
        pytest.param(200, "/v1", TRANSLATED, id="translated"),
        pytest.param(40, "/v1beta", PASSED_ON, id="native"),
        pytest.param(40, "/v1", {**CHAT, "stream": True}, id="chat-streamed"),
        pytest.param(40, "/v1", {**TRANSLATED, "stream": True}, id="translated-streamed"),
        pytest.param(40, "/v1beta", {**PASSED_ON, "stream": True}, id="native-streamed"),
    ],
)
def test_through_litellm_every_row_has_its_own_picture_and_the_sums_are_the_endpoint_s(
    gateway: Gateway, tmp_path: Path, rows: int, path: str, job: dict[str, object]
) -> None:
    before = account(gateway.upstream)
    summary = batchgen(tmp_path, rows, base_url=gateway.url + path, **job)
    after = account(gateway.upstream)
    # Passed on as it is, a blocked prompt is told as one; of the others LiteLLM says that it was filtered.
    ends = {"succeeded", "refused"} if "dialect" in job else {"succeeded"}
    assert summary["tasks"].keys() <= ends
    table = pq.read_table(tmp_path / "run/results.parquet").to_pylist()
    bought = [row for row in table if row["status"] == "succeeded"]
    assert len(bought) > 0.8 * rows
    for row in bought:
        picture = (tmp_path / "run" / row["file_name"]).read_bytes()
        assert prompt_mark(picture) == prompt_key(row["prompt"]), row["id"]
        # Of an answer that was refused LiteLLM hands on the sums alone.
        assert row["usage_quality"] in {"billed", "detailed"} or row["attempts"] > 1
    assert len({row["file_name"] for row in bought}) == len(bought)
    # Nothing is asked for behind our back.
    assert after["seen"] - before["seen"] == summary["requests"] > rows
    added = difference(before, after)
    for name in ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens"):
        assert added[name] == sum(row[name] for row in table)
    assert Decimal(after["usd"]) - Decimal(before["usd"]) == sum(row["cost_usd"] for row in table)


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """What the endpoint has booked in between."""
    old, new = before["models"].get(FLASH, {}), after["models"][FLASH]
    return {name: new[name] - old.get(name, 0) for name in new if name != "usd"}


def asked(gateway: Gateway, task: Task, *attached: Attached) -> tuple[Generation | Failure, dict[str, int]]:
    """What comes of one request, and what it adds to the calm endpoint's bill."""
    written = chat.request(task, attached, options=ImageOptions.OPENROUTER, stream=False)
    headers = {"authorization": f"Bearer {KEY}", "content-type": written.content_type}
    before = account(gateway.calm)
    request = urllib.request.Request(f"{gateway.url}/v1{written.path}", b"".join(written.body), headers)
    with urllib.request.urlopen(request) as answer:
        read = chat.read(answer.status, {}, answer.read(), now=0.0, expect=task.expect)
    return read, difference(before, account(gateway.calm))


def task_of(model: str, params: Params, expect: Expect = Expect.IMAGE) -> Task:
    return Task(
        key="k", id="i", variant=1, name="n", model=model, prompt="a fox", params=params, expect=expect
    )


@pytest.mark.parametrize("model", CALM)
def test_litellm_hands_on_references_shape_and_size(gateway: Gateway, model: str) -> None:
    written = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(written, "PNG")
    picture = Attached(mime="image/png", base64=base64.b64encode(written.getvalue()))
    read, added = asked(gateway, task_of(model, Params(aspect_ratio="16:9", image_size="2K")), picture)
    assert isinstance(read, Generation)
    assert prompt_mark(read.images[-1].data or b"") == prompt_key("a fox")
    assert added["image_tokens"] == 1680
    assert added["prompt_tokens"] > 500


@pytest.mark.parametrize("model", CALM)
def test_litellm_hands_on_tools_and_their_calls(gateway: Gateway, model: str) -> None:
    parameters = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
    tools = [{"type": "function", "function": {"name": "tag", "parameters": parameters}}]
    asking = Params(tools=json.dumps(tools), tool_choice='"required"')
    read, added = asked(gateway, task_of(model, asking, Expect.TEXT))
    assert isinstance(read, Generation)
    (call,) = json.loads(read.tool_calls or "[]")
    assert json.loads(call["function"]["arguments"]) == {"label": "a fox"}
    assert added["image_tokens"] == 0


@pytest.mark.parametrize("model", CALM)
def test_litellm_hands_on_the_wish_for_json(gateway: Gateway, model: str) -> None:
    asking = Params(response_format='{"type": "json_object"}')
    read, added = asked(gateway, task_of(model, asking, Expect.TEXT))
    assert isinstance(read, Generation)
    assert "a fox" in json.loads(read.text).values()
    assert added["image_tokens"] == 0
