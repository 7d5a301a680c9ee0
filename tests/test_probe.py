"""One request to an endpoint, told from all sides: over real sockets, to endpoints good and bad."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec
import pytest

from batchgen import inquiry as inquiries
from batchgen import job as jobs
from batchgen import probe
from batchgen.cli import cli, commands
from batchgen.dialects import anatomy, chat
from batchgen.findings import advice
from batchgen.records import Attached, ErrorClass, ImageOptions, UsageQuality
from batchgen.simulator import bodies
from batchgen.simulator.paint import prompt_key, prompt_mark
from tests.test_client import Server, answering, http
from tests.test_end_to_end import ROOT, account, simulator
from tests.test_hostile import KEY as SECRET
from tests.test_hostile import KEY_ECHOES, pillow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.inquiry import Inquiry
    from batchgen.probe import Answered

MODEL = "gemini-3.1-flash-image-preview"
MODELS = http(json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 847,
    "total_tokens": 857,
    "completion_tokens_details": {"image_tokens": 747},
}
SMALL = pillow("PNG", 512)
JPEG = pillow("JPEG", 1024)
INCAPABLE = b'[{"error":{"code":400,"message":"Unhandled generated data mime type: image/jpeg"}}]'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(
    picture: bytes = SMALL, *, mime: str = "image/png", text: str = "", usage: object = USAGE, **more: Any
) -> bytes:
    url = f"data:{mime};base64,{base64.b64encode(picture).decode()}"
    return said(f"{text}![image]({url})", usage=usage, **more)


def said(
    content: object, *, usage: object = USAGE, model: str = MODEL, reason: str = "stop", **headers: str
) -> bytes:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason}
    return http(json.dumps({"model": model, "choices": [choice], "usage": usage}).encode(), **headers)


def error(status: str, message: str, **headers: str) -> bytes:
    return http(json.dumps({"error": {"message": message}}).encode(), status, **headers)


def prepared(url: str, source: str | None = None, **given: Any) -> Inquiry:
    folder = Path.cwd()
    job = jobs.resolve(
        source or str(inquiries.write_manifest(folder)),
        {"provider": "core-today", "base_url": f"{url}/v1", **given},
    )
    return inquiries.prepare(job, {"BATCHGEN_API_KEY": SECRET}, scratch=folder)


async def asked(url: str, **given: Any) -> Answered:
    return await probe.ask(await anyio.to_thread.run_sync(lambda: prepared(url, **given)))


# A good endpoint


SIMULATED = {
    "S1": anatomy.MARKDOWN,
    "S2": anatomy.IMAGES,
    "S3": anatomy.PARTS,
    "S4": anatomy.DATA_URL,
    "S5": anatomy.BASE64,
    "S6": anatomy.MARKDOWN_LINK,
    "S7": anatomy.IMAGES_API,
}


@pytest.fixture(scope="module", params=bodies.SHAPES)
def shaped(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    with simulator("--shape", request.param) as url:
        yield request.param, url


async def test_every_shape_of_answer_is_told_and_its_picture_is_the_one_asked_for(
    shaped: tuple[str, str],
) -> None:
    shape, url = shaped
    before = account(url)["seen"]
    answered = await asked(url)
    found = answered.findings
    assert (answered.exit_status, found.kind, found.status) == (0, None, 200)
    assert found.shapes == (SIMULATED[shape],)
    assert answered.picture is not None
    assert prompt_mark(bytes(answered.picture)) == prompt_key(inquiries.PROMPT)
    assert (found.mime, found.bytes) == ("image/jpeg", len(answered.picture))
    assert (found.listed, found.streamed) == (True, False)
    assert (found.link is not None) == (shape == "S6")
    assert found.total_tokens == found.prompt_tokens + found.text_tokens + found.image_tokens > 0
    assert found.cost_usd is not None
    assert found.credits == found.cost_usd * 1000
    assert 0 <= (found.headed or -1) <= found.latency
    assert account(url)["seen"] == before + 1, "one request, whatever comes"


async def test_nothing_but_one_request_reaches_the_endpoint() -> None:
    with answering(MODELS, answer()) as server:
        answered = await asked(server.url)
    assert answered.exit_status == 0
    assert [sent.split(b" HTTP/")[0] for sent in server.requests] == [
        b"GET /v1/models",
        b"POST /v1/chat/completions",
    ]
    assert json.loads(server.requests[1].partition(b"\r\n\r\n")[2])["messages"] == [
        {"role": "user", "content": inquiries.PROMPT}
    ]


async def test_what_would_be_shown_is_what_is_sent_but_for_the_key() -> None:
    with answering(MODELS, answer()) as server:
        inquiry = await anyio.to_thread.run_sync(prepared, server.url)
        await probe.ask(inquiry)
    shown = inquiries.shown(inquiry)
    head, _, body = server.requests[1].partition(b"\r\n\r\n")
    lines = head.decode().replace(SECRET, "[key]").split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert shown["url"] == f"{server.url}/v1/chat/completions"
    assert sorted(lines[1:]) == sorted(f"{name}: {value}" for name, value in shown["headers"].items())
    assert json.loads(body) == shown["body"]


async def test_a_picture_as_it_should_be_is_told_to_the_last_figure() -> None:
    headers: dict[str, Any] = {
        "x_request_id": "r-1",
        "x_ratelimit_limit_requests": "60",
        "set_cookie": "a=b",
    }
    with answering(MODELS, answer(text="Here. ", **headers)) as server:
        found = (await asked(server.url)).findings
    assert (found.mime, found.declared, found.width, found.height) == ("image/png", "image/png", 512, 512)
    assert (found.image_size, found.own_size, found.size_ok) == ("512", True, True)
    assert (found.text, found.finish_reason, found.echoed, found.request_id) == (
        "Here.",
        "stop",
        MODEL,
        "r-1",
    )
    assert found.headers == {"x-request-id": "r-1", "x-ratelimit-limit-requests": "60"}
    assert (found.prompt_tokens, found.text_tokens, found.image_tokens) == (10, 100, 747)
    assert found.quality is UsageQuality.DETAILED
    assert found.reported[-1] == "completion_tokens_details.image_tokens"
    assert found.cost_usd == Decimal("0.045125000")
    assert found.credits == Decimal("45.125")
    assert [one.text for one in advice(found)] == [
        "The endpoint names a limit of 60 requests (x-ratelimit-limit-requests): if that is a minute's,"
        " --rpm 60 keeps a run below it."
    ]


async def test_a_draft_before_the_picture_is_counted_and_is_not_the_picture() -> None:
    drafted = f"![image](data:image/png;base64,{base64.b64encode(pillow('PNG', 64)).decode()}) then "
    with answering(MODELS, answer(text=drafted)) as server:
        answered = await asked(server.url)
    assert (answered.findings.drafts, answered.findings.width, answered.picture) == (1, 512, SMALL)


async def test_money_the_endpoint_names_is_told_beside_the_price_list_s() -> None:
    with answering(MODELS, answer(usage={**USAGE, "cost": 0.09})) as server:
        found = (await asked(server.url)).findings
    assert (found.billed_usd, found.credits) == (Decimal("0.09"), Decimal(90))
    assert found.quality is UsageQuality.BILLED


async def test_an_endpoint_of_one_s_own_has_no_prices_and_is_asked_for_no_size() -> None:
    with answering(MODELS, answer()) as server:
        found = (await asked(server.url, provider=None)).findings
    assert b"extra_body" not in server.requests[1]
    assert (found.image_size, found.size_ok, found.priced, found.estimate_usd, found.cost_usd) == (
        None, None, False, None, None,
    )  # fmt: skip


# An endpoint with its faults


@pytest.mark.parametrize(
    ("reply", "kind", "status", "advised"),
    [
        (http(INCAPABLE, "400 Bad Request"), ErrorClass.ENDPOINT_INCAPABLE, 1, "Gemini's own format"),
        (error("401 Unauthorized", "invalid api key"), ErrorClass.AUTH, 3, "Check the API key"),
        (error("402 Payment Required", "Insufficient funds"), ErrorClass.CREDITS, 3, "Top up"),
        (error("404 Not Found", "models/x is not found"), ErrorClass.MODEL, 1, "Check --model"),
        (error("429 Too Many", "slow down", retry_after="7"), ErrorClass.RATE, 3, "asks to wait 7 s"),
        (error("429 Too Many", "requests per day"), ErrorClass.DAILY_QUOTA, 3, "after the quota's reset"),
        (
            error("400 Bad Request", "Unknown name image_size"),
            ErrorClass.BAD_REQUEST,
            1,
            "probe's own choice",
        ),
        (error("503 Unavailable", "overloaded"), ErrorClass.TRANSIENT, 1, "overloaded or broken"),
        (http(b"<html>504</html>", "504 Gateway Timeout"), ErrorClass.TRANSIENT, 1, "a stream is not silent"),
        (http(b"<html>welcome</html>"), ErrorClass.BAD_ANSWER, 1, "could not be read"),
        (said("I would rather not."), ErrorClass.NO_IMAGE, 1, "Only words came"),
        (said("", reason="content_filter"), ErrorClass.NO_IMAGE, 1, "Only words came"),
        (said("", reason="image_safety"), ErrorClass.BLOCKED, 1, "rephrase"),
        (said("", reason="length"), ErrorClass.LENGTH, 1, "Raise max_tokens"),
        (answer(SMALL[:-30]), ErrorClass.CORRUPT, 1, "came damaged"),
        (said("![x](http://169.254.169.254/x.png)"), ErrorClass.DOWNLOAD, 1, "its link failed"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            ErrorClass.UNCERTAIN,
            1,
            "may have been billed",
        ),
    ],
)
async def test_every_fault_has_its_name_its_exit_status_and_its_remedy_and_is_asked_once(
    reply: bytes, kind: ErrorClass, status: int, advised: str
) -> None:
    with answering(MODELS, reply, then="close") as server:
        answered = await asked(server.url)
    assert (answered.findings.kind, answered.exit_status) == (kind, status)
    assert advised in " ".join(one.text for one in advice(answered.findings))
    assert [sent[:4] for sent in server.requests] == [b"GET ", b"POST"], "no retry: it would be a second bill"


async def test_what_came_damaged_is_told_and_can_be_kept() -> None:
    with answering(MODELS, answer(SMALL[:-30])) as server:
        answered = await asked(server.url)
    assert answered.picture == SMALL[:-30]
    assert (answered.findings.bytes, answered.findings.mime) == (len(SMALL) - 30, None)


async def test_a_wrong_type_and_a_wrong_size_are_seen_in_the_picture_itself() -> None:
    with answering(MODELS, answer(JPEG, mime="image/png")) as server:
        answered = await asked(server.url)
    found = answered.findings
    assert (found.declared, found.mime, found.width, found.size_ok) == (
        "image/png",
        "image/jpeg",
        1024,
        False,
    )
    assert answered.exit_status == 0, "a sound picture"
    told = advice(found)
    assert told[0].settings == {"image_options": "openrouter"}
    assert "is said to be image/png and is image/jpeg" in told[1].text


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, "none"])
async def test_without_a_usage_the_cost_is_an_estimate_and_called_one(usage: object) -> None:
    with answering(MODELS, answer(usage=usage)) as server:
        found = (await asked(server.url)).findings
    assert (found.quality, found.image_tokens) == (UsageQuality.ESTIMATED, 747)
    assert "costs will be estimates" in advice(found)[0].text


async def test_no_answer_within_the_timeout_may_be_billed_and_says_so() -> None:
    with answering(MODELS) as server:
        answered = await asked(server.url, timeout=0.5)
    found = answered.findings
    assert (found.kind, found.status, found.cost_usd, found.headed) == (
        ErrorClass.UNCERTAIN,
        None,
        None,
        None,
    )
    assert advice(found)[1].settings == {"timeout": 300.0}


async def test_nobody_there_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = (await asked(f"http://127.0.0.1:{port}")).findings
    assert (found.kind, found.listed, found.status) == (ErrorClass.UNREACHABLE, None, None)


# The list of models


@pytest.mark.parametrize(
    ("listing", "listed"),
    [
        (MODELS, True),
        (http(json.dumps({"models": [{"name": f"models/{MODEL}"}]}).encode()), True),
        (http(json.dumps({"data": [{"id": f"models/{MODEL}"}]}).encode()), True),
        (http(json.dumps({"data": [{"id": "another"}]}).encode()), False),
        (http(json.dumps({"models": [{"name": "models/another"}], "nextPageToken": "x"}).encode()), None),
        (http(b'{"data": []}'), None),
        (http(b'{"data": [1, null, {"id": 7}], "models": 3}'), None),
        (http(b"[" * 100_000), None),
        (http(b"<html>"), None),
        (http(b"", "404 Not Found"), None),
        (error("401 Unauthorized", "no"), None),
        (http(b"{}", content_length="99999999999"), None),
    ],
)
async def test_a_model_is_listed_or_not_or_nobody_knows_and_it_is_asked_all_the_same(
    listing: bytes, listed: bool | None
) -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        peer.sendall(listing if number == 0 else answer())

    with Server(behave) as server:
        answered = await asked(server.url)
    assert (answered.findings.listed, answered.exit_status) == (listed, 0)


# The key


@pytest.mark.parametrize("echo", KEY_ECHOES)
async def test_a_key_that_is_echoed_anywhere_is_in_nothing_that_is_told(echo: str) -> None:
    code = KEY_ECHOES[echo]
    usage = {**USAGE, code: 1, "details": {code: 1}}
    replies = [
        answer(text=code, usage=usage, model=code, x_request_id=code, x_ratelimit_limit_requests=code),
        answer(mime="image/png", reason=code, usage=usage),
        error("400 Bad Request", f"bad: {code}", retry_after=code, x_ratelimit_reset=code),
        said(f"![x](http://169.254.169.254/{code})"),
        b"HTTP/1.1 200 OK\r\n" + code.encode() + b"\r\n\r\n",
    ]
    for reply in replies:
        with answering(http(code.encode(), "418 Teapot"), reply, then="close") as server:
            answered = await asked(server.url)
        told = msgspec.json.encode([answered.findings, advice(answered.findings)]).decode()
        assert code not in told
        assert SECRET[:8] not in told


# What is asked


def test_the_first_row_of_a_manifest_is_asked_for_with_what_it_says(folder: Path) -> None:
    (folder / "p.csv").write_text("id,prompt,system,temperature\na,first,be brief,0.5\nb,second,,\n")
    inquiry = prepared("http://127.0.0.1:1", "p.csv")
    body = json.loads(b"".join(inquiry.request.body))
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
    ]
    assert body["temperature"] == 0.5


def test_the_smallest_size_a_model_has_is_asked_for_unless_somebody_asked(folder: Path) -> None:
    def config(**given: Any) -> object:
        body = json.loads(b"".join(prepared("http://127.0.0.1:1", **given).request.body))
        return body.get("extra_body") or body.get("image_config") or body.get("image_size") or body["model"]

    def google(size: str) -> object:
        return {"google": {"image_config": {"image_size": size}}}

    assert config() == google("512")
    assert config(model="gemini-3-pro-image-preview") == google("1K")
    assert config(image_options="flat") == "512"
    assert config(image_options="openrouter") == {"image_size": "512"}
    assert config(image_options="none") == MODEL
    assert config(image_options="suffix") == MODEL, "a size in its name would be another model"


def test_the_estimate_is_that_of_the_size_and_of_what_goes_along() -> None:
    small = prepared("http://127.0.0.1:1").estimate_usd
    large = prepared("http://127.0.0.1:1", model="gemini-3-pro-image-preview").estimate_usd
    assert small is not None
    assert large is not None
    assert Decimal("0.0448") < small < Decimal("0.047")
    assert Decimal("0.2688") < large < Decimal("0.28")


def test_base64_is_shortened_and_words_are_not() -> None:
    inquiry = prepared("http://127.0.0.1:1")
    attached = [Attached(mime="image/png", base64=b"A" * 1_000_000)]
    task = msgspec.structs.replace(inquiry.task, prompt="many words " * 100)
    request = chat.request(task, attached, options=ImageOptions.NONE, stream=False)
    shown = inquiries.shown(dataclasses.replace(inquiry, request=request))
    picture, words = shown["body"]["messages"][0]["content"]
    assert picture["image_url"]["url"] == f"data:image/png;base64,{'A' * 24}… (1,000,000 characters)"
    assert words["text"] == "many words " * 100
    multipart = msgspec.structs.replace(
        request, body=(b"--x\r\n", b"\x89PNG" * 10_000), content_type="multipart/form-data; boundary=x"
    )
    assert inquiries.shown(dataclasses.replace(inquiry, request=multipart))["body"] == "--x\r\n(40,000 bytes)"


# The command


def test_a_dry_run_shows_the_request_sends_nothing_and_needs_no_key(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering() as server:
        assert cli(["probe", "-n", "--provider", "core-today", "--base-url", f"{server.url}/v1"]) == 0
        assert server.connections == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"POST {server.url}/v1/chat/completions\nhost: 127.0.0.1:{server.port}\n")
    assert "\nauthorization: Bearer [key]\n" in out
    assert json.loads(out[out.index("{") : out.rindex("}") + 1])["model"] == MODEL
    assert out.endswith("\nnothing was sent; it would cost about $0.0456\n")
    assert (err, [*folder.iterdir()]) == ("", [])
    assert cli(["probe", "-n", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["headers"]["authorization"]) == ("POST", "Bearer [key]")
    assert found["body"]["messages"][0]["content"] == inquiries.PROMPT


def test_a_key_that_stands_in_a_prompt_is_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BATCHGEN_API_KEY", SECRET)
    (folder / "p.csv").write_text(f"prompt\ndraw {SECRET}\n")
    for flags in (["-n"], ["-n", "--json"]):
        assert cli(["probe", "p.csv", *flags]) == 0
        out = capsys.readouterr().out
        assert "draw [key]" in out
        assert SECRET not in out
    with answering(MODELS, answer()) as server:
        assert cli(["probe", "p.csv", "--base-url", f"{server.url}/v1"]) == 0
    assert SECRET.encode() in server.requests[1].partition(b"\r\n\r\n")[2], "what is sent is the row's"
    out = capsys.readouterr().out
    assert '"draw [key]"' in out
    assert SECRET not in out


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHGEN_API_KEY", SECRET)


@pytest.mark.usefixtures("key")
def test_the_terminal_tells_the_price_before_and_everything_after(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(MODELS, answer()) as server:
        status = cli(
            ["probe", "--provider", "core-today", "--base-url", f"{server.url}/v1", "--save", "a.png"]
        )
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert re.search(r"^asking Core.Today for one picture: gemini-3.1-flash-image-preview, 512, ", out)
    assert re.search(r"about \$0\.0456; one request, no retry; nothing is booked, no run directory", out)
    assert re.search(r"request +POST http://127.*: HTTP 200 after \d+\.\d s, its head after \d", out)
    assert re.search(r"picture +image/png, 512 × 512, as asked \(512\), [\d,]+ bytes", out)
    assert re.search(r"shape +Markdown with a data URL in the content", out)
    assert re.search(r"cost +\$0\.0451 by tokens and price, 45\.1 credits", out)
    assert "what follows: use it as it is\nnext\n" in out
    assert re.search(r"\n  .* run prompts.csv --provider core-today --base-url \S+\n$", out)
    assert (folder / "a.png").read_bytes() == SMALL
    assert [path.name for path in folder.iterdir()] == ["a.png"], "no run directory, nothing else"
    assert SECRET not in out


@pytest.mark.usefixtures("key")
def test_the_next_command_has_the_settings_that_follow(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(MODELS, http(INCAPABLE, "400 Bad Request")) as server:
        url = f"{server.url}/v1beta/openai"
        assert cli(["probe", "--base-url", url, "--save", "x.png"]) == 1
    out = capsys.readouterr().out
    assert "no sound picture came: endpoint_incapable" in out
    assert 'job file: dialect = "gemini"' in out
    assert out.endswith(f" probe --dialect gemini --base-url {server.url}/v1beta\n")
    assert not Path("x.png").exists()


@pytest.mark.usefixtures("key")
def test_json_is_one_object_with_advice_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(MODELS, error("401 Unauthorized", f"no such key {SECRET}")) as server:
        assert cli(["probe", "--base-url", f"{server.url}/v1", "--json"]) == 3
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["kind"], found["status"], found["exit_status"]) == ("auth", 401, 3)
    assert found["advice"][0]["text"].startswith("Check the API key")
    assert found["next"]["probe"][-4:] == ["probe", "--base-url", f"{server.url}/v1", "--json"]
    assert "no price is known" in err, "what it will cost is told before it is spent"
    assert SECRET not in out + err


def test_the_simulator_in_this_process_answers_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "j.toml").write_text(
        'manifest = "p.csv"\nprovider = "simulator"\n[simulator]\nlatency = 0.0\nshape = "S2"\n'
    )
    (folder / "p.csv").write_text("prompt\na cat\n")
    assert cli(["probe", "j.toml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["simulated"], found["shapes"], found["listed"]) == (True, ["message.images"], True)
    assert cli(["probe", "j.toml"]) == 0
    assert "(simulated: no money was spent)" in capsys.readouterr().out
    assert not (folder / "runs").exists()
    (folder / "j.toml").write_text((folder / "j.toml").read_text() + "[simulator.faults]\nrefusal = 1.0\n")
    assert cli(["probe", "j.toml"]) == 1


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.csv"], "gone.csv"),
        (["bad.csv"], "row 1, column 'prompt'"),
        (["--save", "bad.csv"], "bad.csv is there already"),
        (["--save", "nowhere/x.png"], "--save: nowhere/x.png: No such file"),
        (["--template", "a {thing}"], "--template: takes a manifest"),
        (["--column", "prompt=Caption"], "--column: takes a manifest"),
        (["--timeout", "0"], "--timeout: expected a number above 0"),
        (["--dialect", "chit"], "--dialect: 'chit' is unknown"),
        (["--rpm", "5"], "No such option"),
        (["--provider", "openrouter", "-m", "nothing"], "--model"),
    ],
)
def test_bad_input_is_status_2_and_nothing_is_sent(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "bad.csv").write_text("id,prompt\na,\n")
    with answering() as server:
        url = [] if "openrouter" in arguments else ["--base-url", f"{server.url}/v1"]
        assert cli(["probe", *url, *arguments]) == 2
        assert server.connections == 0
    out, err = capsys.readouterr()
    assert message in err
    assert (out, "Traceback" in err) == ("", False)


def test_without_a_key_nothing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["probe"]) == 2
    assert "no API key for Core.Today" in capsys.readouterr().err


def test_what_says_where_and_how_is_said_as_to_run() -> None:
    run = {parameter.name: parameter for parameter in commands.commands["run"].params}
    own = {parameter.name: parameter for parameter in commands.commands["probe"].params}
    shared = {name for name in own if own[name] is run.get(name)}
    assert own.keys() - shared == {"source", "save", "dry_run", "as_json"}
    assert shared >= {
        "provider",
        "base_url",
        "dialect",
        "model",
        "key_file",
        "allow_http",
        "timeout",
        "max_tokens",
    }


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_probe_says_that_it_may_be_billed_and_leaves_no_file(
    folder: Path, number: signal.Signals, status: int
) -> None:
    picture = folder / "first.jpg"
    with answering(MODELS) as server:
        command = [sys.executable, "-m", "batchgen", "probe", "--base-url", f"{server.url}/v1"]
        command += ["--save", str(picture)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as running:
            deadline = time.monotonic() + 60
            while len(server.requests) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            running.send_signal(number)
            _, err = running.communicate(timeout=30)
    assert running.returncode == status
    assert not picture.exists()
    assert b"it may be billed" in err
    assert b"Traceback" not in err
