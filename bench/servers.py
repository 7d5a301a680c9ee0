"""
Which endpoint do the benchmarks talk to?

    python -m bench.servers WIDTH HEIGHT BITS ANSWERS

A process of its own, so that its CPU and memory are nobody's: it prints its port and gives every request
the same answer, a picture as a Markdown data URL inside a chat completion. Threads and blocking sockets,
nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
MODEL = "gemini-3.1-flash-image-preview"
_CHUNK = 32 * 1024


@contextmanager
def listening(module: str, *arguments: str) -> Iterator[str]:
    """Start `python -m module`, which prints its port; give its base URL, stop it at the end."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise SystemExit(f"{module} did not start")
            yield f"http://127.0.0.1:{int(port)}/v1"
        finally:
            process.kill()


def end_with_parent() -> None:
    """End this process when standard input does, however the one that holds it came to its end."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def serving(*, width: int, height: int, bits: int = 8, chunked: bool = False) -> Iterator[str]:
    """
    Start an endpoint, give its base URL, stop it.

    :param bits: random bits a sample, of 8: how well the picture compresses.
    :param chunked: answer without a Content-Length.
    """
    kind = "chunked" if chunked else "whole"
    with listening("bench.servers", str(width), str(height), str(bits), kind) as url:
        yield url


def picture(width: int, height: int, bits: int) -> bytes:
    """A PNG of noise."""
    low = bytes(value >> 8 - bits for value in range(256))
    noise = Image.frombytes("RGB", (width, height), os.urandom(width * height * 3).translate(low))
    file = BytesIO()
    noise.save(file, "PNG", compress_level=1)
    return file.getvalue()


def answer(png: bytes, *, chunked: bool) -> bytes:
    """Head and body, as they go over the wire."""
    usage = {"prompt_tokens": 12, "completion_tokens": 1300, "total_tokens": 1312}
    content = f"![image](data:image/png;base64,{base64.b64encode(png).decode()})"
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    table = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    body = json.dumps({**table, "choices": [choice], "usage": usage}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    if not chunked:
        return head + b"content-length: %d\r\n\r\n" % len(body) + body
    pieces = (body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _talk(connection: socket.socket, reply: bytes) -> None:
    with connection, connection.makefile("rb") as stream:
        while stream.readline():
            length = 0
            while (line := stream.readline()) not in {b"\r\n", b""}:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            stream.read(length)
            connection.sendall(reply)


def main() -> None:
    """Serve until standard input ends."""
    end_with_parent()
    width, height, bits, kind = sys.argv[1:]
    reply = answer(picture(int(width), int(height), int(bits)), chunked=kind == "chunked")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_talk, args=(connection, reply), daemon=True).start()


if __name__ == "__main__":
    main()
