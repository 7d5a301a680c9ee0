"""
How does an httpx client reach the simulated endpoint without a socket?

What a connection does to its client is kept: the waits, the read timeout, the exceptions, and the `trace` extension
with httpcore's event names (https://www.encode.io/httpcore/extensions/#trace).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread
import httpx

from batchgen.simulator.endpoint import Ending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batchgen.simulator.endpoint import Endpoint, Reply

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
        content = await request.aread()
        async with _traced(request, "connection.connect_tcp"):
            if self._endpoint.refuses():
                raise httpx.ConnectError("All connection attempts failed", request=request)
        async with _traced(request, "http11.send_request_headers"):
            pass
        async with _traced(request, "http11.send_request_body"):
            path = request.url.raw_path.decode("ascii")
            reply = self._endpoint.answer(request.method, path, request.headers, content)
        async with _traced(request, "http11.receive_response_headers"):
            await _until_answered(request, reply)
        body = reply.body if isinstance(reply.body, bytes) else await self._offload(reply.body)
        headers = {**reply.headers, "content-length": str(len(body))}
        stream = _Body(request, body, truncated=reply.ending is Ending.TRUNCATED)
        return httpx.Response(reply.status, headers=headers, stream=stream, request=request)


class _Body(httpx.AsyncByteStream):
    """A body in the pieces a socket gives, or the first half of one."""

    def __init__(self, request: httpx.Request, body: bytes, *, truncated: bool) -> None:
        self._request = request
        self._body = body
        self._truncated = truncated

    async def __aiter__(self) -> AsyncIterator[bytes]:
        whole = len(self._body)
        end = whole // 2 if self._truncated else whole
        async with _traced(self._request, "http11.receive_response_body"):
            for start in range(0, end, CHUNK):
                yield self._body[start : min(start + CHUNK, end)]
                await anyio.lowlevel.checkpoint()
            if self._truncated:
                raise httpx.RemoteProtocolError(
                    "peer closed connection without sending complete message body "
                    f"(received {end} bytes, expected {whole})",
                    request=self._request,
                )


async def _until_answered(request: httpx.Request, reply: Reply) -> None:
    """Wait for the status line, at most as long as the client would."""
    patience: float | None = request.extensions.get("timeout", {}).get("read")
    with anyio.move_on_after(patience) as scope:
        if reply.ending is Ending.HANG:
            await anyio.sleep_forever()
        await anyio.sleep(reply.delay)
    if scope.cancelled_caught:
        raise httpx.ReadTimeout("", request=request)
    if reply.ending is Ending.RESET_AFTER:
        raise httpx.ReadError("", request=request)


@asynccontextmanager
async def _traced(request: httpx.Request, name: str) -> AsyncIterator[None]:
    trace: Callable[[str, dict[str, Any]], Awaitable[None]] | None = request.extensions.get("trace")
    if trace is None:
        yield
        return
    await trace(f"{name}.started", {})
    try:
        yield
    except BaseException as error:
        await trace(f"{name}.failed", {"exception": error})
        raise
    await trace(f"{name}.complete", {"return_value": None})
