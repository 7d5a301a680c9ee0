"""
How is the simulated endpoint served on a socket?

A connection that is to break is broken on the wire: a reset is a TCP reset, a cut body ends before its
Content-Length, or its last chunk. On the wire a client cannot tell a reset before its request was read from
one after it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchgen.errors import InputError
from batchgen.simulator import bodies, events
from batchgen.simulator.endpoint import Endpoint
from batchgen.simulator.reply import Ending, Reply

if TYPE_CHECKING:
    import asyncio

    from batchgen.simulator.events import Stream
    from batchgen.simulator.settings import Settings

PAINTERS = 2
LARGEST_REQUEST = 64 * 1024 * 1024
BACKLOG = 2048

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

RESET = "batchgen.reset"
"""Key of the scope's extension: a function that resets the connection."""
CLOSE = "batchgen.close"
"""Key of the scope's extension: a function that closes the connection once what was written has left."""


def serve(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 0, on_ready: Callable[[str], None]
) -> None:
    """
    Serve until SIGINT or SIGTERM; `on_ready` gets the base URL. Port 0 takes any free one.

    Raises:
        InputError: The address cannot be listened on.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(f"simulate: cannot listen on {host} port {port}: {error.strerror}") from error
    with listening:
        shown = f"[{host}]" if family is socket.AF_INET6 else host
        config = uvicorn.Config(
            make_app(Endpoint(settings, clock=time.monotonic)),
            http=Connection,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_level="warning",
            access_log=False,
            backlog=BACKLOG,
        )
        with contextlib.suppress(KeyboardInterrupt):
            on_ready(f"http://{shown}:{listening.getsockname()[1]}")
            uvicorn.Server(config).run(sockets=[listening])


class Connection(H11Protocol):
    """uvicorn's connection, which can also be broken; a server that stops waits for no unanswered one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hand the two ways to break this connection to the app."""
        super().connection_made(transport)
        app = self.app
        connected: socket.socket = transport.get_extra_info("socket")
        # asyncio does so only where the listening socket names its protocol; without it, head and body of
        # every answer are 40 ms apart.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def reset() -> None:
            # A linger of zero makes the close a RST. https://man7.org/linux/man-pages/man7/socket.7.html
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

        async def breakable(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  uvicorn's types
            scope["extensions"] = {RESET: reset, CLOSE: transport.close}
            await app(scope, receive, send)

        self.app = breakable

    def shutdown(self) -> None:
        """Called for every open connection when the server stops."""
        self.transport.abort()


def make_app(endpoint: Endpoint) -> App:
    """An ASGI application around an endpoint; breaking connections takes `Connection` as the protocol."""
    limiter = anyio.CapacityLimiter(PAINTERS)

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        extensions = scope["extensions"]
        if scope["method"] == "POST" and endpoint.refuses():
            await _break(extensions[RESET], receive)
            return
        content = await _read(receive)
        if content is None:
            return
        reply = _decide(endpoint, scope, content)
        if reply.stream is not None:
            await send(_start(reply, {}))
            await _send_piece(send, reply.stream.first)
        if not await _waited(reply, receive, send):
            return
        if reply.ending is Ending.RESET_AFTER:
            await _break(extensions[RESET], receive)
            return
        painted = reply.body
        if not isinstance(painted, bytes):
            painted = await anyio.to_thread.run_sync(painted, limiter=limiter)
        if reply.stream is None:
            await _send(send, reply, painted)
        else:
            await _send_stream(send, reply, reply.stream, painted)
        if reply.ending is Ending.TRUNCATED:
            await _break(extensions[CLOSE], receive)

    return app


def _decide(endpoint: Endpoint, scope: MutableMapping[str, Any], content: bytearray) -> Reply:
    if len(content) > LARGEST_REQUEST:
        told = bodies.gateway_error("Request body is too large", "request_too_large", "0")
        return Reply(status=413, body=bodies.encode(told))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    target = (scope["raw_path"] + b"?" + scope["query_string"]).decode("latin-1")
    return endpoint.answer(scope["method"], target, headers, bytes(content))


async def _read(receive: Receive) -> bytearray | None:
    """
    The request's body, kept no further than the cap; None when the client left before its end.

    What is over the cap is read all the same: a connection closed on unread bytes is reset, and the 413 lost.
    """
    content = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(content) <= LARGEST_REQUEST:
            content += message.get("body", b"")
        more = message.get("more_body", False)
    return content


async def _disconnected(receive: Receive, seconds: float) -> bool:
    """Wait this long or until the client leaves, and say whether it did."""
    with anyio.move_on_after(seconds):
        while (await receive())["type"] != "http.disconnect":
            pass
        return True
    return False


async def _break(connection: Callable[[], None], receive: Receive) -> None:
    """Break it, and stay until the server noticed: it answers 500 for an app that leaves early."""
    connection()
    await _disconnected(receive, math.inf)


async def _waited(reply: Reply, receive: Receive, send: Send) -> bool:
    """Wait until there is an answer, and say whether the client did, too; a stream tells that it is alive."""
    left = math.inf if reply.ending is Ending.HANG else reply.delay
    alive = b"" if reply.stream is None or reply.ending is Ending.HANG else reply.stream.alive
    while alive and left > events.ALIVE_EVERY:
        if await _disconnected(receive, events.ALIVE_EVERY):
            return False
        left -= events.ALIVE_EVERY
        await _send_piece(send, alive)
    return not await _disconnected(receive, left)


def _start(reply: Reply, headers: dict[str, str]) -> Message:
    told = {**reply.headers, **headers}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    return {"type": "http.response.start", "status": reply.status, "headers": encoded}


async def _send(send: Send, reply: Reply, body: bytes) -> None:
    await send(_start(reply, {"content-length": str(len(body))}))
    truncated = reply.ending is Ending.TRUNCATED
    sent = body[: len(body) // 2] if truncated else body
    await send({"type": "http.response.body", "body": sent, "more_body": truncated})


async def _send_stream(send: Send, reply: Reply, stream: Stream, body: bytes) -> None:
    truncated = reply.ending is Ending.TRUNCATED
    for event in events.apart(body[: len(body) // 2] if truncated else body, stream.blank):
        await _send_piece(send, event)
    if not truncated:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_piece(send: Send, piece: bytes) -> None:
    if piece:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
