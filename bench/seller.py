"""
Which endpoint has a quota, fails now and then, and keeps an account of what it sold to whom?

    python -m bench.seller TERMS

A process of its own: it prints its port and sells one PNG a row, the rN of a prompt `picture N`, as a
Markdown data URL inside a chat completion; the row's name is written into the picture. `GET /account` tells
what was sold. A request is billed once it was read, whatever becomes of its answer. What goes wrong is drawn
from the row and how often it was asked for, never from time or order: every client meets the same faults.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import socket
import struct
import sys
import time
import urllib.request
import zlib
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec

from bench.servers import MODEL, end_with_parent, listening, picture

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE_TOKENS, REFUSAL_TOKENS = 1312, 42
_PROMPT_TOKENS = 12
_END = 12
"""Bytes of a PNG's last chunk, IEND."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint is like; rates are from 0 to 1."""

    rpm: float | None = None
    """Requests admitted a minute, a token bucket; None for no limit."""
    burst: int = 15
    answer_after: float = 2.0
    """Seconds."""
    spread: float = 0.3
    """The part of `answer_after` by which it wavers."""
    overloaded: float = 0.0
    """503, free."""
    truncated: float = 0.0
    """Half an answer and the connection closed: billed."""
    reset: float = 0.0
    """The connection reset after the request was read: billed."""
    refused: float = 0.0
    """Rows that get `content_filter` and no picture, however often they ask; billed as words."""
    side: int = 64
    """Pixels of the picture's side; 590 make 1 MB."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What was sold so far."""

    pictures: dict[str, int]
    """Pictures billed, by row."""
    refusals: dict[str, int]
    """Refusals billed, by row."""
    too_many: int
    """Answers 429."""
    admitted: int
    seconds: float
    """From the first to the last admitted request."""

    @property
    def tokens(self) -> int:
        """Tokens billed."""
        return sum(self.pictures.values()) * PICTURE_TOKENS + sum(self.refusals.values()) * REFUSAL_TOKENS

    @property
    def again(self) -> int:
        """Pictures billed beyond the first of each row."""
        return sum(self.pictures.values()) - len(self.pictures)


class Seller:
    """The endpoint, from the outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def account(self) -> Account:
        """What it sold so far."""
        with urllib.request.urlopen(f"{self.url}/account", timeout=30) as answer:
            return msgspec.json.decode(answer.read(), type=Account)

    @classmethod
    @contextmanager
    def opened(cls, terms: Terms) -> Iterator[Self]:
        """Start one, stop it at the end."""
        with listening("bench.seller", msgspec.json.encode(terms).decode()) as url:
            yield cls(url)


def mark(row: str) -> bytes:
    """What the picture of a row, and no other, has in it."""
    body = b"tEXtrow\0" + row.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


# In the process


class Shop:
    """What the process has and does."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.png = picture(terms.side, terms.side, 8)
        self.asked: Counter[str] = Counter()
        self.pictures: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.too_many = 0
        self.admitted: list[float] = []
        self._tokens = float(terms.burst)
        self._filled = time.monotonic()

    def admits(self) -> bool:
        """Whether the quota has room for one more request; takes it."""
        now = time.monotonic()
        if self.terms.rpm is not None:
            refill = (now - self._filled) * self.terms.rpm / 60
            self._tokens = min(self.terms.burst, self._tokens + refill)
            self._filled = now
            if self._tokens < 1:
                self.too_many += 1
                return False
            self._tokens -= 1
        self.admitted.append(now)
        return True

    def account(self) -> bytes:
        """`Account`, as JSON."""
        span = self.admitted[-1] - self.admitted[0] if self.admitted else 0.0
        return msgspec.json.encode(
            Account(
                pictures=self.pictures,
                refusals=self.refusals,
                too_many=self.too_many,
                admitted=len(self.admitted),
                seconds=span,
            )
        )

    async def answer(self, asked: bytes) -> tuple[str, bytes]:
        """How the request ends (`whole`, `truncated`, `reset`) and its answer."""
        messages = json.loads(asked)["messages"]
        found = re.search(r"picture (\d+)", json.dumps(messages))
        if found is None:
            return "whole", _http(400, _error(400, "no such row"))
        if not self.admits():
            return "whole", _http(429, _error(429, "Too many requests a minute."))
        row, terms = f"r{found[1]}", self.terms
        dice = random.Random(f"{row}/{self.asked[row]}")
        self.asked[row] += 1
        thrown, waits = dice.random(), dice.uniform(1 - terms.spread, 1 + terms.spread)
        if thrown < terms.overloaded:
            return "whole", _http(503, _error(503, "The model is overloaded."))
        if random.Random(f"{row} refused").random() < terms.refused:
            self.refusals[row] += 1
            await asyncio.sleep(waits * terms.answer_after)
            return "whole", _http(200, _completion("I cannot paint that.", "content_filter", REFUSAL_TOKENS))
        self.pictures[row] += 1
        await asyncio.sleep(waits * terms.answer_after)
        thrown -= terms.overloaded
        ending = "truncated" if thrown < terms.truncated else "whole"
        if terms.truncated <= thrown < terms.truncated + terms.reset:
            ending = "reset"
        png = self.png[:-_END] + mark(row) + self.png[-_END:]
        content = f"![image](data:image/png;base64,{base64.b64encode(png).decode()})"
        return ending, _http(200, _completion(content, "stop", PICTURE_TOKENS))

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith(b"get"):
                    ending, answer = "whole", _http(200, self.account())
                else:
                    ending, answer = await self.answer(body)
                if ending == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
                writer.write(answer if ending == "whole" else answer[: len(answer) // 2])
                await writer.drain()
                if ending == "truncated":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked is gone; what was billed stays billed
        writer.close()


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _completion(content: str, finish: str, tokens: int) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
        ],
        "usage": {
            "prompt_tokens": _PROMPT_TOKENS,
            "completion_tokens": tokens - _PROMPT_TOKENS,
            "total_tokens": tokens,
        },
    }


def _http(status: int, body: dict[str, Any] | bytes) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def _serve(terms: Terms) -> None:
    server = await asyncio.start_server(Shop(terms).talk, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=Terms)))
