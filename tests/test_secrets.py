"""The key: where it may come from, and that it is nowhere else afterwards, however a night ends."""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from batchgen import credentials
from batchgen.cli import cli
from batchgen.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SECRET = "plain/words+nobody=takes-for-a-key"
CONCURRENCY = 8


def key_file(folder: Path, content: bytes | str = f"{SECRET}\n", mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


# The file


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"\ufeff  {SECRET} \r\n\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_of_ones_own_is_read(tmp_path: Path, content: str, mode: int) -> None:
    assert credentials.from_file(str(key_file(tmp_path, content, mode))) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601, 0o610])
def test_a_key_file_open_to_others_is_refused_with_the_command_that_closes_it(
    tmp_path: Path, mode: int
) -> None:
    path = key_file(tmp_path, mode=mode).rename(tmp_path / "my key")
    with pytest.raises(InputError, match=rf"\(mode {mode:04o}\); run: chmod 600 '.*my key'") as caught:
        credentials.from_file(str(path))
    assert subprocess.run(str(caught.value).split("run: ")[1], shell=True, check=True).returncode == 0
    assert credentials.from_file(str(path)) == SECRET


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \r\n\n", "is empty"),
        (SECRET.encode() + b"\nsecond\n", "more than one line"),
        (b"\x7fELF\x00\xff" + SECRET.encode(), "more than one line"),
        (SECRET.encode() + b"\0", "more than one line"),
        (SECRET.encode() * 1000, "more than one line"),
        (b"Bearer " + SECRET.encode(), "a blank"),
        (f"{SECRET}é".encode(), "outside ASCII"),
        (f"{SECRET}\u2028x".encode(), "more than one line"),
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        credentials.from_file(str(key_file(tmp_path, content)))
    assert "plain" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_symbolic_links_lead_to_the_file_that_counts(tmp_path: Path) -> None:
    data = tmp_path / "..2026_11_21"  # as Kubernetes lays out a secret
    data.mkdir()
    path = key_file(data)
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "key").symlink_to("..data/key")
    assert credentials.from_file(str(tmp_path / "key")) == SECRET
    path.chmod(0o644)
    with pytest.raises(InputError, match="open to others"):
        credentials.from_file(str(tmp_path / "key"))


def test_what_is_no_regular_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with closing(socket.socket(socket.AF_UNIX)) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket")
        for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
            with pytest.raises(InputError, match="no regular file"):
                credentials.from_file(str(path))
        with pytest.raises(InputError, match="no such file"):
            credentials.from_file("socket")


@pytest.mark.parametrize("name", [SECRET, "x" * 300, "~nobody-of-this-name/key", "a\0b", "/etc/passwd/key"])
def test_a_key_given_for_the_name_of_its_file_is_not_shown(name: str) -> None:
    with pytest.raises(InputError, match="--key-file: no such file; it names the file") as caught:
        credentials.from_file(name)
    assert name not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    os.chown(path, 12345, -1)
    with pytest.raises(InputError, match="another user \\(uid 12345\\)"):
        credentials.from_file(str(path))


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    key_file(tmp_path)
    assert credentials.from_file("~/key") == SECRET


def test_a_variable_with_no_key_in_it_is_named_and_not_shown() -> None:
    environment = {"ONE": " \n", "TWO": f"Bearer {SECRET}"}
    assert credentials.from_environment(["ONE", "NONE"], environment) is None
    with pytest.raises(InputError, match="TWO: no key: it has a blank") as caught:
        credentials.from_environment(["ONE", "TWO"], environment)
    assert "plain" not in str(caught.value)


# Whole nights with a wrong key


class Refusing(BaseHTTPRequestHandler):
    """A gateway that quotes the key it was sent, everywhere and in every notation."""

    seen: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        key = self.headers["authorization"].split()[1]
        self.seen.append(key)
        forms = (key, quote(key, safe=""), base64.b64encode(f"Bearer {key}".encode()).decode(), key[:16])
        said = "Incorrect API key provided: " + ", ".join(forms)
        error = {"message": said, "code": "invalid_api_key", "param": key, "type": key}
        body = json.dumps({"error": error, "id": key}).encode()
        self.send_response(401, f"Unauthorized {key}")
        for name in ("x-request-id", "www-authenticate", "set-cookie", "location", "retry-after"):
            self.send_header(name, key)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    Refusing.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def traces(folder: Path, *printed: str) -> list[str]:
    """Where the key, or the larger part of it, is to be found after a run."""
    held = {f"output {number}": text.encode() for number, text in enumerate(printed)}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "key":
            held[str(path)] = path.read_bytes()
    for table in folder.rglob("*.parquet"):
        held[f"columns of {table.name}"] = json.dumps(pq.read_table(table).to_pylist(), default=str).encode()
    for ledger in folder.rglob("ledger.db"):
        with closing(sqlite3.connect(ledger)) as connection:
            held["rows of the ledger"] = "\n".join(connection.iterdump()).encode()
    assert "rows of the ledger" in held
    assert b'"run_ended"' in held[str(folder / "run.jsonl")]
    forms = [SECRET, quote(SECRET, safe=""), json.dumps(SECRET).replace("/", r"\/"), SECRET[:12], SECRET[12:]]
    forms += [base64.b64encode(f"{'x' * n}{SECRET}".encode()).decode()[4:36] for n in range(3)]
    return [f"{form} in {where}" for where, data in held.items() for form in forms if form.encode() in data]


def start(
    folder: Path, url: str, *flags: str, program: str | None = None, **environment: str
) -> tuple[int, str, str]:
    (folder / "prompts.csv").write_text("prompt\n" + "".join(f"picture {n}\n" for n in range(10_000)))
    main = ["-m", "batchgen"] if program is None else ["-c", program]
    command = ["run", "prompts.csv", "-o", "run", "--provider", "core-today", "--base-url", url, "-v"]
    command += ["--log-file", "run.jsonl"]
    done = subprocess.run(
        [sys.executable, *main, *command, "-c", str(CONCURRENCY), *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("BATCHGEN_API_KEY", "text"),
        ("CORE_TODAY_API_KEY", "json"),
        ("--key-file", "text"),
        ("BATCHGEN_KEY_FILE", "json"),
    ],
)
def test_a_wrong_key_over_ten_thousand_rows_stops_at_once_and_is_nowhere(
    tmp_path: Path, refusing: str, source: str, form: str
) -> None:
    flags = ["--json"] if form == "json" else []
    path = str(key_file(tmp_path))
    variables = {source: path if source.endswith("FILE") else SECRET} if source[0] != "-" else {}
    flags += [source, path] if source[0] == "-" else []
    status, out, err = start(tmp_path, refusing, *flags, **variables)
    assert status == 3, err
    assert set(Refusing.seen) == {SECRET}
    assert 1 <= len(Refusing.seen) <= CONCURRENCY
    assert "Check the API key" in out
    assert "Incorrect API key provided: [key]" in out
    assert "Incorrect API key provided: [key]" in err, "a line of -v"
    assert "Traceback" not in err
    assert traces(tmp_path, out, err) == []


DEFECT = """
import os
from batchgen.worker import Worker

async def attempt(self, task, stem, *, sending):
    try:
        raise KeyError(os.environ)
    except KeyError as cause:
        raise RuntimeError("\\x1b[31m" + repr(open("key").read()) + os.environ["A_TOKEN"]) from cause

Worker.attempt = attempt
from batchgen.__main__ import main
main()
"""
"""A worker with a defect that has the key, and all of the environment, in its message."""


@pytest.mark.parametrize("source", ["CORE_TODAY_API_KEY", "--key-file"])
def test_a_defect_is_told_without_the_key(tmp_path: Path, refusing: str, source: str) -> None:
    path = str(key_file(tmp_path))
    variables = {source: SECRET} if source[0] != "-" else {}
    flags = [source, path] if source[0] == "-" else []
    status, out, err = start(
        tmp_path, refusing, *flags, program=DEFECT, A_TOKEN="of-something-else", **variables
    )
    assert status == 70, err
    assert "Traceback" in err
    assert "RuntimeError: \\x1b[31m'[key]\\n'[key]" in err
    assert "of-something-else" not in err
    assert "this is a defect" in err
    assert traces(tmp_path, out, err) == []


# Where it does not belong


@pytest.mark.parametrize(
    ("job", "flags"),
    [
        ("", ["--api-key", SECRET]),
        ("", [f"--api-key={SECRET}"]),
        ("", ["--key", SECRET]),
        ("", ["--API_KEY", SECRET]),
        ("", [SECRET]),
        ("", ["--key-file", SECRET]),
        ("", ["--base-url", SECRET]),
        ("", ["--base-url", f"https://user:{SECRET.replace('/', '')}@host/v1"]),
        ("", ["--base-url", f"https://host/v1?key={SECRET}"]),
        ("", ["--base-url", f"https://host/{SECRET}/v1"]),
        ("", ["--base-url", f"https://host/{quote(SECRET, safe='')}/v1"]),
        ("", ["--base-url", "https://host/sk-plain/words-and-more/v1"]),
        (f'api_key = "{SECRET}"', []),
        (f'API-Key = "{SECRET}"', []),
        (f'token = "{SECRET}"', []),
        (f'key_file = "{SECRET}"', []),
        (f'key_file = ["{SECRET}"]', []),
        (f'base_url = {{ key = "{SECRET}" }}', []),
        (f'provider = {{ api_key = "{SECRET}" }}', []),
        (f'[models."m"]\napi_key = "{SECRET}"', []),
        (f'columns = ["{SECRET}"]', []),
    ],
)
def test_a_key_where_it_does_not_belong_is_refused_and_not_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: str,
    flags: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORE_TODAY_API_KEY", SECRET)
    (tmp_path / "p.csv").write_text("prompt\nx\n")
    (tmp_path / "job.toml").write_text(f'manifest = "p.csv"\n{job}\n')
    assert cli(["run", "job.toml", *flags]) == 2
    out, err = capsys.readouterr()
    assert err
    assert "plain" not in out + err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists(), "nothing was begun"


def test_a_key_on_the_command_line_is_told_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "status"):
        assert cli([command, "x", "--api-key", SECRET]) == 2
        err = capsys.readouterr().err
        assert "--api-key: the command line is seen by every process" in err
        assert "BATCHGEN_API_KEY" in err
        assert "--key-file" in err
