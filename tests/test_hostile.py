"""An endpoint that does its worst, a row each: every row ends as it should, whatever the others suffer."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
KEY = "plain-words/nobody+takes=for-a-key"
TIMEOUT = 8
HANGING = 300
"""Seconds: nothing here takes a tenth of it, however slow the machine; what is endless takes more."""
USAGE = {"prompt_tokens": 10, "completion_tokens": 1200, "total_tokens": 1210}
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


# Pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 8, height: int = 8, *, extra: bytes = b"", shade: int = 0) -> bytes:
    deflate = zlib.compressobj(1)
    line = bytes(1) + bytes([shade]) * (3 * width)
    pixels = b"".join(
        [*(deflate.compress(line) for _ in range(height if width < 10_000 else 1)), deflate.flush()]
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def gif(frames: int) -> bytes:
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    start = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return start + (frame + b"\x02\x02\x44\x01\x00") * frames + b"\x3b"


def pillow(kind: str, size: int = 8, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), "teal").save(file, kind, **options)
    return file.getvalue()


def animated_png(frames: int) -> bytes:
    still = png()
    control = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 8, 8, 0, 0, 1, 10, 0, 0)) for n in range(frames)]
    return (
        still[:33] + chunk(b"acTL", struct.pack(">II", frames, 0)) + control[0]
        + still[33:-12] + b"".join(control[1:]) + still[-12:]
    )  # fmt: skip


def many_scans(count: int) -> bytes:
    whole = pillow("JPEG", 2000, progressive=True)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


def deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


# Answers


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chat(content: object, usage: object = USAGE, **more: object) -> bytes:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **more}
    return json.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": usage}).encode()


def inline(picture: bytes, mime: str = "image/png") -> str:
    return f"![image](data:{mime};base64,{base64.b64encode(picture).decode()})"


def picture(data: bytes | None = None, mime: str = "image/png", text: str = "", **usage: object) -> bytes:
    return http(chat(text + inline(png() if data is None else data, mime), {**USAGE, **usage}))


def error(message: str, status: str = "400 Bad Request", **headers: str) -> bytes:
    return http(json.dumps({"error": {"message": message}}).encode(), status, **headers)


def drip(head: bytes, *, every: float = 0.1) -> Callable[[socket.socket], None]:
    def send(peer: socket.socket) -> None:
        peer.sendall(head)
        while True:
            peer.sendall(b" ")
            time.sleep(every)

    return send


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def send(peer: socket.socket) -> None:
        peer.sendall(head)
        while True:
            peer.sendall(piece)

    return send


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
KEY_ECHOES = {
    "plain": KEY,
    "URL": "plain-words%2Fnobody%2Btakes%3Dfor-a-key",
    "JSON": json.dumps(KEY).replace("/", r"\/"),
    "base64": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "cut": KEY[:20],
}


Answer = bytes | Callable[[socket.socket], None]


def later(build: Callable[[], bytes]) -> Answer:
    """What takes long to make is made when it is asked for, and not for every list of the tests."""
    return lambda peer: peer.sendall(build())


class Case(NamedTuple):
    """What the endpoint does, and how the row must end."""

    answer: Answer
    status: str
    kind: str | None = None
    paid: bool | None = None
    """Whether tokens are in the account; None where that is not the point."""


def good(answer: Answer) -> Case:
    return Case(answer, "succeeded", paid=True)


def lost(answer: Answer) -> Case:
    return Case(answer, "uncertain", "uncertain", paid=False)


def unreadable(answer: Answer) -> Case:
    return Case(answer, "failed", "bad_answer", paid=False)


def rejected(answer: Answer) -> Case:
    return Case(answer, "failed", "bad_request", paid=False)


def unfetched(link: str) -> Case:
    return Case(http(chat(f"![x]({link})")), "failed", "download", paid=True)


def counted(usage: str) -> Case:
    """A good picture beside this JSON for its usage."""
    body = chat(inline(png())).replace(json.dumps(USAGE).encode(), usage.encode())
    return Case(http(body), "succeeded")


def damaged(answer: Answer) -> Case:
    return Case(answer, "corrupt", "corrupt", paid=True)


def corrupt(data: bytes, mime: str = "image/png") -> Case:
    return damaged(picture(data, mime))


def small_cases(elsewhere: str) -> dict[str, Case]:
    """:param elsewhere: the address of a second server, on the same host."""
    return {
        "first good": good(picture()),
        # Addresses
        "redirect": rejected(http(b"", "302 Found", location=f"{elsewhere}/taken")),
        "redirect of the method": rejected(http(b"", "307 Temporary Redirect", location=f"{elsewhere}/307")),
        "permanent redirect": rejected(http(b"", "308 Permanent Redirect", location="https://evil.invalid/")),
        "link elsewhere": Case(http(chat(f"![x]({elsewhere}/picture.png)")), "succeeded", paid=True),
        "link with escapes": unfetched(f"{elsewhere}/\x1b[2J\x1b]0;owned\x07\u202e.png"),
        "link into the network": unfetched("http://169.254.169.254/latest/meta-data/"),
        # JSON
        "nested": unreadable(http(b'{"choices":' + b"[" * 100_000)),
        "nested and closed": unreadable(http(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
        "nested in an error": rejected(http(b'{"error":' * 100_000, "400 Bad Request")),
        "twice the same key": good(http(chat(inline(png())).replace(b'"usage"', b'"usage": 7, "usage"'))),
        "NaN": counted('{"prompt_tokens": NaN, "completion_tokens": Infinity}'),
        "negative": counted('{"prompt_tokens": -5, "completion_tokens": -9e9}'),
        "beyond a float": counted('{"total_tokens": 1e400, "cost": 1e400}'),
        "beyond 64 bits": counted(f'{{"prompt_tokens": {2**63}, "total_tokens": {2**64}}}'),
        "beyond Python": counted(f'{{"prompt_tokens": 10, "x": {"9" * 5000}}}'),
        "words for numbers": counted('{"prompt_tokens": "many", "completion_tokens": "1200.0"}'),
        "lists for numbers": counted('{"prompt_tokens": [1], "completion_tokens": {"a": null}}'),
        "no usage": counted("true"),
        # Text
        "NUL": good(picture(text="a\0b ")),
        "steering text": good(picture(text="\x1b[2J\x1b]0;owned\x07\u202egpj.exe\x9b31m ")),
        "formula": good(picture(text='=HYPERLINK("http://evil.invalid","click") ')),
        "half a character": good(http(chat("\ud800" + inline(png())))),
        "steering error": rejected(error("\x1b[31mno\r\n\x9b2Jbatchgen: all is well\u202e\0 \u2028next")),
        "steering reason": Case(
            http(chat("no", finish_reason="\x1b[2J\u202esafety")), "no_image", "no_image", paid=True
        ),
        "key in text": good(picture(text=" ".join(KEY_ECHOES.values()))),
        "key in an error": rejected(error("sent " + " ".join(KEY_ECHOES.values()))),
        "key at the end of an error": rejected(error("x" * 480 + KEY)),
        "key in headers": rejected(
            error("no", x_request_id=KEY, retry_after=KEY, set_cookie=f"k={KEY}", location=KEY)
        ),
        "key in the reason": Case(http(chat("no", finish_reason=KEY)), "no_image", "no_image", paid=True),
        "key in a code": rejected(
            http(json.dumps({"error": {"message": "", "code": KEY}}).encode(), "400 Bad Request")
        ),
        "key in no JSON": unreadable(http(f"<b>{KEY}</b>".encode())),
        "key in a link": unfetched(f"{elsewhere}/none?key={KEY_ECHOES['URL']}"),
        # Types
        "lying type": good(picture(pillow("JPEG"))),
        "SVG": Case(
            http(chat(inline(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"))),
            "corrupt",
            "corrupt",
            paid=True,
        ),
        "HTML": Case(http(chat(inline(b"<script>1</script>"))), "corrupt", "corrupt", paid=True),
        "type of a page": good(http(chat(inline(png())), content_type="text/html")),
        "one pixel": good(picture(png(1, 1))),
        "sixty thousand squared": corrupt(png(60_000, 60_000)),
        "nothing by nothing": corrupt(png(0, 0)),
        "bomb in zTXt": damaged(
            later(lambda: picture(png(extra=chunk(b"zTXt", b"k\0\0" + deflated(50_000_000)))))
        ),
        "bombs in iTXt": corrupt(png(extra=chunk(b"iTXt", b"k\0\x01\0\0\0" + deflated(1_000_000)) * 100)),
        "ten thousand frames of GIF": good(later(lambda: picture(gif(10_000), "image/gif"))),
        "ten thousand frames of PNG": good(later(lambda: picture(animated_png(10_000)))),
        # The wire
        "no HTTP": lost(b"SSH-2.0-OpenSSH_9.9\r\n"),
        "status 999": Case(http(b"", "999 Unheard"), "failed", "transient", paid=False),
        "status 99": lost(http(b"", "99 Low")),
        "chunked nonsense": lost(CHUNKED + b"zz\r\n{}\r\n"),
        "a chunk of minus one": lost(CHUNKED + b"-1\r\n{}\r\n"),
        "a chunk without end": lost(CHUNKED + b"FFFFFFFFFFFFFFFFFFFF\r\n{}\r\n"),
        "two lengths": lost(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
        "length of words": lost(HEAD + b"content-length: many\r\n\r\n{}"),
        "length of digits": unreadable(HEAD + b"content-length: " + b"9" * 19 + b"\r\n\r\n{}"),
        "truncated": lost(HEAD + b"content-length: 1000\r\n\r\n{}"),
        "damaged gzip": unreadable(http(b"nonsense", content_encoding="gzip")),
        "half a gzip": unreadable(http(gzip.compress(b"{}" * 999)[:-9], content_encoding="gzip")),
        "body that drips": lost(drip(CHUNKED)),
        "head that drips": lost(drip(HEAD + b"x-drip: ")),
        "continue for ever": lost(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100)),
        "silence": lost(lambda peer: time.sleep(TIMEOUT * 2)),
        "last good": good(picture(png(shade=9))),
    }


def large_cases() -> dict[str, Case]:
    mega = 1_000_000
    squeezed = {"content_encoding": "gzip"}
    return {
        "first good": good(picture()),
        "gzip bomb": unreadable(later(lambda: http(gzip.compress(bytes(300 * mega), 1), **squeezed))),
        "announced": unreadable(HEAD + b"content-length: 70000000\r\n\r\n"),
        "endless": unreadable(endless(CHUNKED, b"10000\r\n" + b" " * 0x10000 + b"\r\n")),
        "endless without length": unreadable(endless(HEAD + b"connection: close\r\n\r\n", b" " * 0x10000)),
        "headers of 10 MB": lost(later(lambda: HEAD + b"x-large: " + b"x" * 10 * mega + b"\r\n\r\n")),
        "a hundred thousand headers": lost(later(lambda: HEAD + b"x: y\r\n" * 100_000 + b"\r\n")),
        "keys of 10 MB": Case(
            later(lambda: http(b'{"choices": [{"' + b"k" * 10 * mega + b'": 1}]}')), "no_image", "no_image"
        ),
        "error keys of 10 MB": rejected(
            later(lambda: http(b'{"e": {"' + b"k" * 10 * mega + b'": 1}}', "400 Bad Request"))
        ),
        "five million lists": unreadable(later(lambda: http(b'{"choices": [' + b"[]," * 5 * mega + b"0]}"))),
        "nine thousand squared": good(later(lambda: picture(png(9000, 9000)))),
        "a thousand scans": damaged(later(lambda: picture(many_scans(1000), "image/jpeg"))),
        "a million chunks": damaged(later(lambda: picture(png(extra=chunk(b"teSt", b"") * mega)))),
        "last good": good(picture(png(shade=9))),
    }


# The servers and the run

MEASURED = """
import pathlib, resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
pathlib.Path(sys.argv[1]).write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""
"""Runs a command and writes down its peak: a process starts with the one of the process that started it."""


class Server:
    """Answers a prompt with what its case says, and remembers what it was asked."""

    def __init__(self, cases: dict[str, Case] | None = None) -> None:
        self.cases = cases or {}
        self.heard: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError), peer:
            while head := self._head(peer):
                self.heard.append(head)
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = b""
                while length and len(body) < int(length[1]):
                    body += peer.recv(65536)
                answer = self._answer(head, body)
                if callable(answer):
                    answer(peer)
                    return
                peer.sendall(answer)
                if not re.search(rb"content-length: %d\r\n" % self._length(answer), answer[:2000]):
                    return

    @staticmethod
    def _length(answer: bytes) -> int:
        return len(answer.partition(b"\r\n\r\n")[2])

    @staticmethod
    def _head(peer: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = peer.recv(1)
            if not byte:
                return b""
            head += byte
        return head

    def _answer(self, head: bytes, body: bytes) -> Answer:
        if head.startswith(b"POST"):
            return self.cases[json.loads(body)["messages"][-1]["content"]].answer
        return http(png(), content_type="image/png") if b"picture.png" in head else http(b"", "404 Gone")


@dataclass(frozen=True)
class Night:
    """What a run of the command left behind."""

    cases: dict[str, Case]
    folder: Path
    status: int
    out: str
    err: str
    seconds: float
    peak: int
    """Resident memory at its highest, bytes."""
    heard_elsewhere: list[bytes]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        table = pq.read_table(self.folder / "run/results.parquet").to_pylist()
        return {row["prompt"]: row for row in table}


@contextmanager
def served(cases: dict[str, Case] | None = None) -> Iterator[Server]:
    server = Server(cases)
    try:
        yield server
    finally:
        server.close()


def night(folder: Path, cases: dict[str, Case], elsewhere: Server, *flags: str) -> Night:
    prompts = folder / "prompts.csv"
    prompts.write_text("prompt\n" + "".join(f"{name}\n" for name in cases))
    key = folder / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    with served(cases) as server, (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        command = [
            sys.executable, "-c", MEASURED, str(folder / "peak"), sys.executable, "-m", "batchgen", "run",
            str(prompts), "-o", str(folder / "run"), "-v", "--json", "--provider", "core-today",
            "--base-url", f"{server.url}/v1", "--key-file", str(key), "--attempts", "1",
            "--max-failure-rate", "1", "--timeout", str(TIMEOUT), *flags,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        done = subprocess.run(command, stdout=out, stderr=err, env=environment, check=False)
    return Night(
        cases=cases,
        folder=folder,
        status=done.returncode,
        out=(folder / "out").read_text(),
        err=(folder / "err").read_text(),
        seconds=time.monotonic() - began,
        peak=int((folder / "peak").read_text()) * (1 if sys.platform == "darwin" else 1024),
        heard_elsewhere=elsewhere.heard,
    )


def check_rows(found: Night) -> None:
    """Every row is there, in its order, and ended as its case says."""
    assert list(found.rows) == list(found.cases)
    ended = {name: (row["status"], row["error_class"]) for name, row in found.rows.items()}
    assert ended == {name: (case.status, case.kind) for name, case in found.cases.items()}
    for name, row in found.rows.items():
        paid = found.cases[name].paid
        assert paid is None or (row["total_tokens"] > 0) == ((row["cost_usd"] or 0) > 0) == paid, row
        assert 0 <= row["total_tokens"] <= 10**9
        assert len(row["error_message"] or "") < 9000


def check_books(found: Night) -> None:
    """Table, ledger, summary and files say the same."""
    assert found.status == 1, found.err
    summary, rows = json.loads(found.out), found.rows.values()
    with closing(sqlite3.connect(found.folder / "run/ledger.db")) as ledger:
        (open_ones,) = ledger.execute("SELECT count(*) FROM attempts WHERE settled_at IS NULL").fetchone()
        (cost,) = ledger.execute("SELECT sum(cost) FROM attempts").fetchone()
    assert open_ones == 0
    assert Decimal(cost).scaleb(-9) == sum(row["cost_usd"] or 0 for row in rows)
    assert Decimal(summary["cost_usd"]) == Decimal(cost).scaleb(-9)
    assert summary["uncertain"] == sum(row["error_class"] in {"uncertain", "bad_answer"} for row in rows)
    pictures = {row["file_name"]: row for row in rows if row["status"] == "succeeded"}
    on_disk = {f"images/{path.name}" for path in (found.folder / "run/images").iterdir()}
    assert on_disk == set(pictures), "no more files and no fewer"
    for name, row in pictures.items():
        assert sha256((found.folder / "run" / name).read_bytes()).hexdigest() == row["images"][-1]["sha256"]


def check_terminal(found: Night) -> None:
    """Nothing printed steers a terminal, passes for a line of ours or is a traceback."""
    for text in (found.out, found.err):
        assert not STEERING.search(text), STEERING.findall(text)
        assert "Traceback" not in text
    assert not re.search(r"^batchgen: all is well", found.err, re.MULTILINE)


def test_whatever_an_endpoint_says_each_row_ends_as_it_should_and_the_key_is_nowhere(tmp_path: Path) -> None:
    with served() as elsewhere:
        found = night(tmp_path, small_cases(elsewhere.url), elsewhere, "-c", "16")
    check_rows(found)
    check_books(found)
    check_terminal(found)
    assert r"\x1b[2J\x1b]0;owned\x07\u202e.png" in found.err, "spelt out, not left out"
    check_elsewhere(found)
    check_key(found)
    rows = found.rows
    assert rows["formula"]["text"] == '=HYPERLINK("http://evil.invalid","click")', "text is data"
    assert rows["NUL"]["text"] == "a\0b"
    assert rows["steering text"]["text"].startswith("\x1b[2J")
    assert rows["lying type"]["images"][-1]["mime"] == "image/jpeg"
    assert found.seconds < HANGING
    assert found.peak < 250 * 2**20


def check_elsewhere(found: Night) -> None:
    """No redirect is followed, and a link to a picture is, without the key."""
    assert any(b"/picture.png" in head for head in found.heard_elsewhere)
    for head in found.heard_elsewhere:
        assert head.startswith(b"GET")
        assert b"/taken" not in head
        assert b"authorization" not in head.lower()
        assert b"cookie" not in head.lower()


def check_key(found: Night) -> None:
    """The key that an endpoint echoes is in no output, column or file."""
    texts = [found.out, found.err, *(str(row) for row in found.rows.values())]
    with closing(sqlite3.connect(found.folder / "run/ledger.db")) as ledger:
        texts += ledger.iterdump()
    held = [text.encode() for text in texts]
    held += [path.read_bytes() for path in (found.folder / "run").rglob("*") if path.is_file()]
    for echo in KEY_ECHOES.values():
        assert not any(echo.encode() in data for data in held), echo
    assert found.rows["key in headers"]["request_id"] == "[key]"
    assert found.rows["key in the reason"]["finish_reason"] == "[key]"
    assert "[key]" in found.rows["key in text"]["text"]


def test_whatever_is_too_large_takes_bounded_time_and_memory(tmp_path: Path) -> None:
    with served() as elsewhere:
        found = night(tmp_path, large_cases(), elsewhere, "-c", "1", "--timeout", "20")
    check_rows(found)
    check_books(found)
    check_terminal(found)
    assert found.seconds < HANGING
    # The program, and 64 MB of an answer or 324 MB of a picture's pixels with what came of them.
    assert found.peak < 600 * 2**20


IDS = [
    "../../../etc/passwd", "..", "/absolute", "CON", "nul.txt", "a" * 300, "🎨👩\u200d🎨", "\u202egpj.exe",
    "Twin", "twin", "a\\b", "tab\tand\x1b[31m", ".hidden", "-rf", "$(reboot)", "a\u0301", "á", "com1",
    "trailing. ", "%2e%2e%2f", "=cmd|' /C calc'!A0",
]  # fmt: skip


def test_hostile_ids_become_files_of_the_run_directory_one_each(tmp_path: Path) -> None:
    table = pa.table({"id": IDS, "prompt": [f"number {n}" for n in range(len(IDS))]})
    pyarrow.csv.write_csv(table, tmp_path / "prompts.csv")
    (tmp_path / "job.toml").write_text(
        'manifest = "prompts.csv"\nprovider = "simulator"\nattempts = 1\n[simulator]\nlatency = 0.0\n'
        "paint = false\nfaults = { refusal = 0.5 }\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "batchgen", "run", "job.toml", "-v", "-o", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1, done.stderr
    assert not STEERING.search(done.stdout + done.stderr)
    rows = pq.read_table(tmp_path / "run/results.parquet").to_pylist()
    assert [row["id"] for row in rows] == IDS
    names = [row["file_name"] for row in rows if row["file_name"]]
    assert len({name.casefold() for name in names}) == len(names) > 0
    for name in names:
        assert (tmp_path / "run" / name).resolve().is_relative_to(tmp_path / "run/images")
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.csv", "job.toml", "run"}
