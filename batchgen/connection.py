"""
How do bytes travel over one HTTP/1.1 connection?

h11 reads and writes all of HTTP but one thing: the bytes of a body whose length is known. They go from the
socket straight to where they are needed. A picture has megabytes; through the layers of a client each byte is
copied five times and the event loop turns for every few of them, which was half of a run's CPU.

Sockets are non-blocking and waited for by anyio, so it is the same on asyncio and trio.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar, cast

import anyio
import anyio.abc
import anyio.lowlevel
import h11
import httpx

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_IDLE = 4.0
"""Seconds; most servers close an idle connection after five or more, and a request must not meet that."""
_HEAD = 100 * 1024
"""Bytes of an answer's head, at most."""
_PIECE = 64 * 1024
_TURN = 4 * 2**20
"""Bytes after which others get their turn, however fast these come."""
RESET = struct.pack("ii", 1, 0)


class Wire:
    """A connected socket, with TLS or without. It raises OSError, as sockets do."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        # anyio has done the connecting; it reads through queues of its own, so the rest is done beside it.
        self._stream = stream
        inner = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  not Django's
        self._socket = socket.socket(fileno=os.dup(inner.fileno()))
        self._socket.settimeout(0)
        self._unbroken = 0

    def get_extra_info(self, info: str) -> object:
        """What httpcore's streams tell under the same name: the 'socket'."""
        return self._socket if info == "socket" else None

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Shake hands with a server whose certificate must be for `name`."""
        secured = context.wrap_socket(self._socket, server_hostname=name, do_handshake_on_connect=False)
        self._socket = secured
        await self._when(anyio.wait_readable, secured.do_handshake)

    async def heard(self) -> None:
        """Wait until something comes."""
        if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            await anyio.wait_readable(self._socket)

    async def receive_into(self, view: memoryview) -> int:
        """Fill the start of `view`; how many bytes, 0 at the end of the connection."""
        return await self._received(
            await self._when(anyio.wait_readable, lambda: self._socket.recv_into(view))
        )

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the connection."""
        data = await self._when(anyio.wait_readable, lambda: self._socket.recv(_PIECE))
        await self._received(len(data))
        return data

    async def send(self, data: memoryview) -> int:
        """Hand over the start of `data`; how many bytes."""
        return await self._when(anyio.wait_writable, lambda: self._socket.send(data))

    def is_quiet(self) -> bool:
        """Whether nothing came and the other side is there, as far as can be known without a request."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return False
        try:
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)  # what is under TLS, too
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def aclose(self, *, reset: bool) -> None:
        """
        Close it.

        :param reset: a peer in the midst of sending would not notice a polite goodbye.
        """
        if reset:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    async def _received(self, count: int) -> int:
        self._unbroken += count
        if self._unbroken > _TURN:
            self._unbroken = 0
            await anyio.lowlevel.checkpoint()
        return count

    async def _when(self, wait: Callable[[socket.socket], Awaitable[None]], call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except BlockingIOError:
                wanted = wait
            except ssl.SSLWantReadError:
                wanted = anyio.wait_readable
            except ssl.SSLWantWriteError:
                wanted = anyio.wait_writable
            self._unbroken = 0
            await wanted(self._socket)


class Body(httpx.AsyncByteStream):
    """
    The body of an answer. It is iterated over or, if its length (bytes) is known, filled into memory.

    Closed before its end, it takes the connection along.
    """

    def __init__(self, connection: Connection, wire: Wire, http: h11.Connection, length: int | None) -> None:
        self._connection = connection
        self._wire = wire
        self._http = http
        self._came, _ = http.trailing_data
        self._left = length

    async def receive_into(self, view: memoryview) -> int:
        """Fill the start of `view` with the next bytes of a body of known length; how many."""
        if self._came:
            got = min(len(self._came), len(view))
            view[:got] = self._came[:got]
            self._came = self._came[got:]
        else:
            got = await self._wire.receive_into(view)
        if not got:
            raise httpx.RemoteProtocolError("the connection was closed in the midst of the answer")
        self._left = (self._left or 0) - got
        return got

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        event = await _event(self._http, self._wire)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give the connection back, unless there is more to come or more came than the answer."""
        filled = self._left == 0 and not self._came
        read = self._http.their_state is h11.DONE and not self._http.trailing_data[0]
        await self._connection.release(keep=self._http.our_state is h11.DONE and (filled or read))


class Connection(httpx.AsyncBaseTransport):
    """
    One connection to one host, for one request at a time; opened when first needed and again when lost.

    Raises what sockets raise (OSError) and `httpx.HTTPError`; `httpx.ConnectError` and `httpx.ConnectTimeout`
    if and only if no byte of the request's body has left.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        """:param context: whose certificates are trusted, should a request be for https."""
        self._context = context
        self._wire: Wire | None = None
        self._idle_since = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, head and body at once; return when the head of the answer is there."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        wire = await self._ready(request)
        try:
            await _send(request, http, wire)
            await wire.heard()
            answer = await _answer(http, wire)
        except BaseException:
            await self.release(keep=False)
            raise
        length = dict(answer.headers).get(b"content-length")
        body = Body(self, wire, http, None if length is None else int(length))
        return httpx.Response(
            answer.status_code, headers=[*answer.headers], stream=body, extensions={"network_stream": wire}
        )

    async def release(self, *, keep: bool) -> None:
        """End an exchange: keep the connection for the next one or drop it."""
        self._idle_since = anyio.current_time()
        if not keep:
            await self._drop(reset=True)

    async def aclose(self) -> None:
        """Close the connection, if there is one."""
        await self._drop(reset=False)

    async def _drop(self, *, reset: bool) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.aclose(reset=reset)

    async def _ready(self, request: httpx.Request) -> Wire:
        if self._wire is not None:
            if anyio.current_time() - self._idle_since < _IDLE and self._wire.is_quiet():
                return self._wire
            await self._drop(reset=False)
        seconds = float(request.extensions["timeout"]["connect"])
        try:
            with anyio.fail_after(seconds):
                self._wire = await self._connect(request)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {seconds:g} s") from error
        return self._wire

    async def _connect(self, request: httpx.Request) -> Wire:
        url = request.url
        host = url.raw_host.decode("ascii")
        secure = url.scheme == "https"
        wire = Wire(await anyio.connect_tcp(host, url.port or (443 if secure else 80)))
        if secure:
            try:
                await wire.start_tls(self._context, str(request.extensions.get("sni_hostname", host)))
            except BaseException:
                await wire.aclose(reset=True)
                raise
        return wire


async def _send(request: httpx.Request, http: h11.Connection, wire: Wire) -> None:
    """Send all of a request, or as much of it as the other side listens to: it may answer before the end."""
    head = _encoded(
        http, h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
    )
    pieces = cast("httpx.AsyncByteStream", request.stream)
    body = [_encoded(http, h11.Data(data=piece)) async for piece in pieces]
    parts = [head, *body, _encoded(http, h11.EndOfMessage())]
    if sum(map(len, parts)) < _PIECE:
        parts = [b"".join(parts)]
    sent = 0
    for part in parts:
        view = memoryview(part)
        while view:
            try:
                count = await wire.send(view)
            except OSError as error:
                if sent <= len(head):
                    raise httpx.ConnectError(
                        f"the connection was lost before the request left: {error}"
                    ) from error
                http.send_failed()
                return
            sent += count
            view = view[count:]


def _encoded(http: h11.Connection, event: h11.Event) -> bytes:
    try:
        return http.send(event) or b""
    except h11.ProtocolError as error:
        raise httpx.RemoteProtocolError(str(error)) from error


async def _answer(http: h11.Connection, wire: Wire) -> h11.Response:
    while True:
        event = await _event(http, wire)
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise httpx.RemoteProtocolError("the connection was closed without an answer")


async def _event(http: h11.Connection, wire: Wire) -> object:
    while True:
        try:
            event = http.next_event()
        except h11.ProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        if event is not h11.NEED_DATA:
            return event
        http.receive_data(await wire.receive())
