"""
How does an httpx client reach the simulated endpoint without a socket?

What a connection does to its client is kept: the waits, the read timeout, the exceptions, and that a
request which was refused was never read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx

from batchgen.simulator.events import ALIVE_EVERY
from batchgen.simulator.reply import Ending

if TYPE_CHECKING:
    from typing import Self

    from batchgen.simulator.endpoint import Endpoint
    from batchgen.simulator.events import Stream
    from batchgen.simulator.reply import Reply

PAINTERS = 2
CHUNK = 65_536

Offload: TypeAlias = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Runs a painter away from the event loop; under virtual time, where there are no threads, in place."""


class SimulatorTransport(httpx.AsyncBaseTransport):
    """Carries requests to an endpoint in this process."""

    def __init__(self, endpoint: Endpoint, *, offload: Offload | None = None) -> None:
        self._endpoint = endpoint
        self._offload = offload or partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(PAINTERS))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, wait and answer as a connection of its own would."""
        if request.method == "POST" and self._endpoint.refuses():
            raise httpx.ConnectError("All connection attempts failed", request=request)
        content = await request.aread()  # reading the body is sending it
        path = request.url.raw_path.decode("ascii")
        reply = self._endpoint.answer(request.method, path, request.headers, content)
        if reply.stream is not None:
            events = _Events(request, reply, reply.stream, self._offload)
            return httpx.Response(reply.status, headers=reply.headers, stream=events, request=request)
        await _until_answered(request, reply.delay, reply.ending)
        body = reply.body if isinstance(reply.body, bytes) else await self._offload(reply.body)
        headers = {**reply.headers, "content-length": str(len(body))}
        stream = _Body(request, body, truncated=reply.ending is Ending.TRUNCATED)
        return httpx.Response(reply.status, headers=headers, stream=stream, request=request)


class _Body(httpx.AsyncByteStream):
    """
    A body in the pieces a socket gives, or the first half of one.

    Not a generator: a client may leave one unfinished. Nothing is awaited after the last piece: whoever has
    all of it cannot lose it to a cancellation.
    """

    def __init__(self, request: httpx.Request, body: bytes, *, truncated: bool) -> None:
        self._request = request
        self._body = body
        self._end = len(body) // 2 if truncated else len(body)
        self._at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._at < self._end:
            if self._at:
                await anyio.lowlevel.checkpoint()
            piece = self._body[self._at : min(self._at + CHUNK, self._end)]
            self._at += len(piece)
            return piece
        if self._end == len(self._body):
            raise StopAsyncIteration
        raise httpx.RemoteProtocolError(
            "peer closed connection without sending complete message body "
            f"(received {self._end} bytes, expected {len(self._body)})",
            request=self._request,
        )


class _Events(httpx.AsyncByteStream):
    """A body that begins before there is an answer; no generator, as above."""

    def __init__(self, request: httpx.Request, reply: Reply, stream: Stream, offload: Offload) -> None:
        self._request = request
        self._reply = reply
        self._stream = stream
        self._offload = offload
        self._first = stream.first
        self._left = reply.delay
        self._body: _Body | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._body is None:
            if self._stream.alive and self._left > ALIVE_EVERY and self._reply.ending is not Ending.HANG:
                self._left -= ALIVE_EVERY
                await _until_answered(self._request, ALIVE_EVERY, Ending.WHOLE)
                return self._stream.alive
            await _until_answered(self._request, self._left, self._reply.ending)
            content = self._reply.body
            whole = content if isinstance(content, bytes) else await self._offload(content)
            self._body = _Body(self._request, whole, truncated=self._reply.ending is Ending.TRUNCATED)
        return await anext(self._body)


async def _until_answered(request: httpx.Request, seconds: float, ending: Ending) -> None:
    """Wait for what comes next, at most as long as the client would."""
    patience: float | None = request.extensions.get("timeout", {}).get("read")
    with anyio.move_on_after(patience) as scope:
        if ending is Ending.HANG:
            await anyio.sleep_forever()
        await anyio.sleep(seconds)
    if scope.cancelled_caught:
        raise httpx.ReadTimeout("", request=request)
    if ending is Ending.RESET_AFTER:
        raise httpx.ReadError("", request=request)
