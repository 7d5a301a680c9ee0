"""
Is a declared quota used to the full, and never passed?

    python -m bench.quota [--trio]

A server that enforces 900 requests a minute (a token bucket with room for 15) answers after 2 s, give or take
30 %. 300 rows are bought at `--rpm 900`. The time from the first to the last admitted start may be 5 % above
what the quota itself takes (299 starts at 15 a second), at most two answers may be 429, and no row is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

from batchgen import job as jobs
from batchgen import runner
from batchgen.simulator import Endpoint, Settings

RPM, BURST, ROWS, WORKERS = 900, 15, 300, 64
SLACK, MOST_429 = 1.05, 2
ANSWER_AFTER, SPREAD = 2.0, 0.3


class Server:
    """The quota and nothing else: a token bucket in front of one small picture."""

    def __init__(self) -> None:
        self.admitted: list[float] = []
        self.refused = 0
        self._tokens = float(BURST)
        self._filled = time.monotonic()
        self._random = random.Random(1)
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()
        self._ready.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._talk, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    def _admit(self) -> bool:
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RPM / 60)
        self._filled = now
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        self.admitted.append(now)
        return True

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                await reader.readexactly(length)
                status, body = b"429 Too Many Requests", b'{"error":{"code":429,"message":"slow down"}}'
                if self._admit():
                    await asyncio.sleep(ANSWER_AFTER * self._random.uniform(1 - SPREAD, 1 + SPREAD))
                    status, body = b"200 OK", ANSWER
                writer.write(
                    b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (status, len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _answer() -> bytes:
    """One good answer of the simulator, to be given again and again."""
    endpoint = Endpoint(Settings(latency=0.0, paint=False), clock=lambda: 0.0)
    body = {"model": "gemini-3.1-flash-image-preview", "messages": [{"role": "user", "content": "a"}]}
    reply = endpoint.answer(
        "POST", "/v1/chat/completions", {"authorization": "Bearer x"}, json.dumps(body).encode()
    )
    return reply.body if isinstance(reply.body, bytes) else reply.body()


ANSWER = _answer()


def main() -> int:
    """Run it, print the figures, return 1 where a bound is broken."""
    server = Server()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.csv"
        manifest.write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(ROWS)))
        given = {
            "base_url": f"http://127.0.0.1:{server.port}/v1",
            "provider": "core-today",
            "rpm": RPM,
            "concurrency": WORKERS,
            "output": f"{folder}/run",
        }
        around = runner.Surroundings(backend="trio" if "--trio" in sys.argv else "asyncio")
        summary = runner.run(
            jobs.resolve(str(manifest), given), environment={"BATCHGEN_API_KEY": "any"}, surroundings=around
        )
        done = pq.read_table(f"{folder}/run/results.parquet")["status"].to_pylist().count("succeeded")
    took = server.admitted[-1] - server.admitted[0]
    ideal = (ROWS - 1) / (RPM / 60)
    print(f"rows bought        {done} of {ROWS} with {summary.requests} requests")
    print(f"first to last start {took / ideal:.4f} x the quota's own {ideal:.2f} s (bound {SLACK})")
    print(f"answers 429        {server.refused} (bound {MOST_429})")
    return int(done != ROWS or took > SLACK * ideal or server.refused > MOST_429)


if __name__ == "__main__":
    sys.exit(main())
