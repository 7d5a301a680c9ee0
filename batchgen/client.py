"""
How does one request travel, and what is known when it does not come back whole?

A request has one moment that matters for money: the first byte of its body. What fails before it was never
bought (`UNREACHABLE`), what is lost after it may have been (`UNCERTAIN`). `Client.post` awaits `sending`
exactly there.

httpx stays behind this module: what it raises becomes a `Failure`, what it returns becomes an `Answer`. Its
values and its transport interface are used, its client is not: redirects, cookies and credentials are
decided here. Through a proxy httpx's own transport carries the request, otherwise a `Connection`.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import ssl
import threading
import urllib.request
import zlib
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import msgspec

from batchgen import links
from batchgen.connection import RESET, Body, Connection
from batchgen.dialects.events import is_ended
from batchgen.errors import InputError
from batchgen.providers import is_loopback
from batchgen.records import ErrorClass, Failure
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

    from batchgen.buffers import Buffers, Claim
    from batchgen.records import Request

_MIB = 2**20
_CONNECT = 10.0
_CLOSE = 2.0
"""Seconds for a goodbye: that of a connection, or of a stream that has said its last word."""
_SMALL = 64 * 1024
"""Bytes of an answer of unknown length that are read before it takes its turn in `Buffers`: a gateway may
send its headers and blanks long before the picture, and must not hold a place all the while."""
_REDIRECTS = 3
_PAUSES = (0.5, 2.0)
"""Seconds between the tries of a download."""
_LOST = (httpx.HTTPError, OSError, UnicodeError)
"""What a lost request raises; sockets, TLS and impossible names raise the standard library's own."""
_PASSING = (ErrorClass.UNREACHABLE, ErrorClass.UNCERTAIN, ErrorClass.TRANSIENT)
_LOGGERS = ("httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks")
_QUERY = re.compile(r"(?<=[^\s?])\?[^\s\"'?]+")


class TLS:
    """Whose certificates are trusted: read once (20 to 40 ms), shared by all clients of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Blocks while it reads; `SSL_CERT_FILE` and `SSL_CERT_DIR` of the environment come first."""
        with self._lock:
            if self._context is None:
                try:
                    self._context = httpx.create_ssl_context()
                except OSError as error:
                    raise InputError(
                        f"cannot read the trusted certificates ({error}); check SSL_CERT_FILE, SSL_CERT_DIR"
                    ) from error
            return self._context


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A whole answer, of whatever status."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytearray = field(repr=False)
    """Decoded, when the endpoint compressed it with gzip or deflate."""
    headed: float = 0.0
    """Seconds from the start of the request to the head of the answer."""


class _Secret(logging.Filter):
    """The key, and what keeps it out of logs and messages; queries too, where signatures travel."""

    def __init__(self, key: str | None, header: str) -> None:
        super().__init__()
        self._header = header
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise InputError(
                "the key is empty or has a blank, a line break or a character outside ASCII; copy it again"
            )
        self._key = key

    def __repr__(self) -> str:
        return "<key>" if self._key else "<no key>"

    def __eq__(self, other: object) -> bool:
        """One filter a key: `addFilter` leaves out what it has."""
        return isinstance(other, _Secret) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def headers(self) -> dict[str, str]:
        if not self._key:
            return {}
        return {self._header: f"Bearer {self._key}" if self._header == "authorization" else self._key}

    def redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub("?[query]", self.redact(record.getMessage())), ()
        return True


class _Flight:
    """What is known of a request under way, and how long it may take."""

    def __init__(self, host: str, timeout: float) -> None:
        self._began = anyio.current_time()
        self.scope = anyio.CancelScope(deadline=self._began + timeout)
        self.start(host)
        self.sent = False

    def start(self, host: str) -> None:
        """The next request of the same errand."""
        self.host = host
        self.sent = True
        self.received = 0
        self.expected: int | None = None
        self.status: int | None = None
        self.headed = 0.0

    def head(self, status: int) -> None:
        """The head of the answer is there."""
        self.status = status
        self.headed = anyio.current_time() - self._began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here is ours, not the endpoint's: it does not count against the deadline."""
        deadline, self.scope.deadline = self.scope.deadline, math.inf
        began = anyio.current_time()
        try:
            yield
        finally:
            self.scope.deadline = deadline + anyio.current_time() - began

    def failure(self, what: str, kind: ErrorClass | None = None) -> Failure:
        lost = ErrorClass.UNCERTAIN if self.sent else ErrorClass.UNREACHABLE
        expected = "an unknown number of" if self.expected is None else self.expected
        where = f"{self.host}, {anyio.current_time() - self._began:.1f} s"
        got = f", {self.received} of {expected} bytes received" if self.sent else ", nothing sent"
        return Failure(kind=kind or lost, message=f"{what[:350]} ({where}{got})", http_status=self.status)


class _Body(httpx.AsyncByteStream):
    """
    The body of a request; its first byte marks the request as sent.

    Not httpcore's trace event of that moment: through a proxy, it also tells of the CONNECT before.
    Not a generator: an unfinished one is reported by trio when a connection breaks.
    """

    def __init__(
        self, body: Iterable[bytes], flight: _Flight, sending: Callable[[], Awaitable[None]]
    ) -> None:
        self._pieces = iter(body)
        self._flight = flight
        self._sending = sending
        self.error: BaseException | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._flight.sent:
            with self._flight.waiting():
                try:
                    await self._sending()
                except BaseException as error:
                    self.error = error
                    raise
            self._flight.sent = True
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


class _Inflate:
    """Decompresses in small pieces, so that a few bytes cannot become a gigabyte at once."""

    def __init__(self, encoding: str) -> None:
        self._gzip = encoding.endswith("gzip")
        self._inner: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        return self._inner is None or self._inner.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds; raises zlib.error."""
        while data:
            if self._inner is None or self._inner.eof:  # gzip may have several members (RFC 1952, 2.2)
                self._inner = zlib.decompressobj(self._bits(data))
            yield self._inner.decompress(data, 4 * _SMALL)
            data = self._inner.unconsumed_tail or self._inner.unused_data

    def _bits(self, data: bytes) -> int:
        if self._gzip:
            return zlib.MAX_WBITS | 16
        # "deflate" means zlib's format (RFC 9110, 8.4.1.2), but some send it bare.
        return zlib.MAX_WBITS if data[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


class _Identity:
    complete = True

    @staticmethod
    def pieces(data: bytes) -> Iterable[bytes]:
        return (data,)


class Client:
    """
    One connection to an endpoint, for one worker: one request at a time.

    `base_url` ends without a slash. `timeout` (seconds) holds for a whole request without our own waiting,
    `max_body` (bytes) for an answer after decompression. `transport` replaces the network.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: str | None,
        key_header: str = "authorization",
        timeout: float,
        buffers: Buffers,
        max_body: int = 64 * _MIB,
        tls: TLS | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._secret = _Secret(key, key_header)
        self._base = _base(base_url)
        self._urls: dict[str, httpx.URL] = {}
        self._timeout = timeout
        self._buffers = buffers
        self._max_body = max_body
        self._tls = tls or TLS()
        self._transport = transport
        self._claim: Claim | None = None
        self._host = self._base.netloc.decode("ascii")
        self._headers = {
            "host": self._host,
            "accept": "application/json, text/event-stream;q=0.9",
            "accept-encoding": "identity",
            "user-agent": f"batchgen/{__version__}",
            "connection": "keep-alive",
            # LiteLLM's proxy asks three times on its own where an answer fails, and each may be billed.
            # https://docs.litellm.ai/docs/proxy/request_headers
            "x-litellm-num-retries": "0",
        }

    def __repr__(self) -> str:
        return f"Client({str(self._base)!r}, {self._secret!r})"

    async def __aenter__(self) -> Self:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._secret)
        self._http = self._transport or await self._open(self._base, _proxy(self._base))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.move_on_after(_CLOSE, shield=True):
            await self._http.aclose()

    @asynccontextmanager
    async def post(
        self, asked: Request, *, sending: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[Answer | Failure]:
        """
        POST a request; the answer counts in `Buffers` until the context ends.

        `sending` is awaited once, before the first byte of the body leaves; what it raises is raised here.
        Between the last byte of an answer and the context nothing can be cancelled.
        """
        with self._buffers.claim() as claim:
            self._claim = claim
            try:
                yield await self._post(asked, sending, claim)
            finally:
                self._claim = None

    def recycle(self, answer: Answer) -> None:
        """Let the memory of an answer's body be used again: all of it is read. Any thread may call this."""
        self._buffers.recycle(answer.body)

    def headers(self, asked: Request) -> dict[str, str]:
        """The headers with which a request is posted, the key's among them."""
        length = str(sum(map(len, asked.body)))
        own = {"content-type": asked.content_type, "content-length": length}
        return self._headers | self._secret.headers() | own

    async def get(self, path: str) -> Answer | Failure:
        """
        GET what the endpoint tells for free, with the key, once; `path` is behind the base URL.

        A failure is `UNREACHABLE`: whatever became of the request, nothing was bought.
        """
        flight = _Flight(self._host, self._timeout)
        request = httpx.Request(
            "GET",
            httpx.URL(f"{self._base}{path}"),
            headers=self._headers | self._secret.headers(),
            extensions=self._extensions(),
        )
        with self._buffers.claim() as claim:
            result = await self._carried(request, flight, claim)
        if isinstance(result, Failure):
            return msgspec.structs.replace(result, kind=ErrorClass.UNREACHABLE)
        return result

    async def fetch(self, url: str) -> bytearray | Failure:
        """
        GET a hosted picture, without key or cookies. A public https address, or the endpoint's own host.

        Redirects (3 at most) are checked alike. Inside a `post` the bytes count in `Buffers` until that ends.
        All of it takes at most the client's timeout; every failure is a `DOWNLOAD`.
        """
        kept = self._claim
        size = kept.size if kept else 0
        if kept:  # whoever waits holds nothing, so nobody waits for each other
            kept.resize(0)
        flight = _Flight("", self._timeout)
        result: bytearray | Failure | None = None
        with self._buffers.claim() as claim, flight.scope:
            result = await self._download(url, flight, claim)
        if kept:
            kept.resize(size + (len(result) if isinstance(result, bytearray) else 0))
        if isinstance(result, bytearray):
            return result
        result = result or flight.failure(f"no whole picture within {self._timeout:g} s")
        message = self._secret.redact(f"{links.shown(url)}: {result.message}")[:500]
        return msgspec.structs.replace(result, kind=ErrorClass.DOWNLOAD, message=message)

    async def _open(self, url: httpx.URL, proxy: str | None) -> httpx.AsyncBaseTransport:
        if url.scheme == "https":
            context = await anyio.to_thread.run_sync(self._tls.context)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
        if proxy is None:
            return Connection(context)
        try:
            # Kept open, a connection might hand what came beyond one answer to the next.
            once = httpx.Limits(max_connections=1, max_keepalive_connections=0)
            return httpx.AsyncHTTPTransport(verify=context, proxy=httpx.Proxy(proxy), limits=once)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise InputError(f"the proxy named in the environment cannot be used: {error}") from error

    async def _post(
        self, asked: Request, sending: Callable[[], Awaitable[None]], claim: Claim
    ) -> Answer | Failure:
        flight = _Flight(self._host, self._timeout)
        stream = _Body(asked.body, flight, sending)
        if asked.path not in self._urls:
            self._urls[asked.path] = httpx.URL(f"{self._base}{asked.path}")
        request = httpx.Request(
            "POST",
            self._urls[asked.path],
            headers=self.headers(asked),
            stream=stream,
            extensions=self._extensions(),
        )
        return await self._carried(request, flight, claim)

    async def _carried(self, request: httpx.Request, flight: _Flight, claim: Claim) -> Answer | Failure:
        """Send a request with the key; a failure tells how far it came. What `sending` raises is raised."""
        result: Answer | Failure | None = None
        with flight.scope:
            try:
                result = await self._exchange(self._http, request, flight, claim)
            except _LOST as error:
                if isinstance(request.stream, _Body) and error is request.stream.error:
                    raise
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    flight.sent = False
                result = flight.failure(_told(error))
        result = result or flight.failure(f"no whole answer within {self._timeout:g} s")
        if isinstance(result, Failure):
            return msgspec.structs.replace(result, message=self._secret.redact(result.message)[:500])
        return result

    def _extensions(self, **more: str) -> dict[str, object]:
        seconds = dict.fromkeys(("read", "write", "pool"), self._timeout)
        return {"timeout": {**seconds, "connect": min(_CONNECT, self._timeout / 2)}, **more}

    async def _exchange(
        self, http: httpx.AsyncBaseTransport, request: httpx.Request, flight: _Flight, claim: Claim
    ) -> Answer | Failure:
        if not isinstance(http, Connection):
            # A request cancelled before it has a connection would keep its place in httpcore's pool for good.
            await anyio.lowlevel.checkpoint()
        response = await http.handle_async_request(request)
        flight.head(response.status_code)
        try:
            return await self._read(response, flight, claim)
        finally:
            if isinstance(response.stream, Body):
                await response.stream.aclose()
            else:
                with anyio.move_on_after(_CLOSE, shield=True):
                    await response.aclose()

    async def _read(self, response: httpx.Response, flight: _Flight, claim: Claim) -> Answer | Failure:
        headers = dict(response.headers)
        length = headers.get("content-length", "")
        encoding = headers.get("content-encoding", "").strip().lower()
        if length.isdecimal() and "transfer-encoding" not in headers:
            flight.expected = int(length)
        decoder = _Inflate(encoding) if encoding in {"gzip", "x-gzip", "deflate"} else _Identity()
        if (flight.expected or 0) > self._max_body:
            body: bytearray | str = self._too_large
        elif flight.expected is None or isinstance(decoder, _Inflate):
            body = await self._growing(response, decoder, flight, claim)
        else:
            body = await self._whole(response, flight, flight.expected, claim)
        if isinstance(body, str):
            return flight.failure(body, ErrorClass.BAD_ANSWER)
        return Answer(response.status_code, headers, body, flight.headed)

    async def _whole(self, response: httpx.Response, flight: _Flight, length: int, claim: Claim) -> bytearray:
        await self._claimed(length, flight, claim)
        body = self._buffers.memory(length)
        stream = cast("httpx.AsyncByteStream", response.stream)
        if isinstance(stream, Body):
            view = memoryview(body)
            while flight.received < length:
                flight.received += await stream.receive_into(view[flight.received :])
            return body
        at = 0
        async for chunk in stream:
            flight.received = end = at + len(chunk)
            body[at:end] = chunk
            at = end
        if at != length:
            raise httpx.RemoteProtocolError("the answer is not as long as it says")
        return body

    async def _growing(
        self, response: httpx.Response, decoder: _Inflate | _Identity, flight: _Flight, claim: Claim
    ) -> bytearray | str:
        """The body, or what is wrong with it."""
        body = bytearray()
        wrong = ""
        try:
            with anyio.CancelScope() as patience:
                async for chunk in cast("httpx.AsyncByteStream", response.stream):
                    if wrong:  # hung up; the rest is let pass so that httpx's generators come to their end
                        continue
                    flight.received += len(chunk)
                    wrong = self._inflate(chunk, decoder, body)
                    if wrong:
                        _hang_up(response)
                    else:
                        await self._counted(body, flight, claim)
                        patience.deadline = anyio.current_time() + _CLOSE if is_ended(body) else math.inf
        except _LOST:
            if not wrong and not is_ended(body):
                raise
        claim.resize(len(body))
        self._buffers.usual = max(len(body), _SMALL)
        whole = decoder.complete or is_ended(body)
        return wrong or (body if whole else "the answer's compression ends too early")

    async def _counted(self, body: bytearray, flight: _Flight, claim: Claim) -> None:
        """Count a body that grew in `Buffers`."""
        if claim.size < len(body) > _SMALL:
            if not claim.size:
                await self._claimed(max(self._buffers.usual, len(body)), flight, claim)
            claim.resize(max(claim.size, len(body)))

    @staticmethod
    async def _claimed(size: int, flight: _Flight, claim: Claim) -> None:
        """Take a place in `Buffers`, waiting for it if need be."""
        if not claim.at_once(size):
            with flight.waiting():
                await claim.take(size)

    def _inflate(self, chunk: bytes, decoder: _Inflate | _Identity, body: bytearray) -> str:
        try:
            for piece in decoder.pieces(chunk):
                body += piece
                if len(body) > self._max_body:
                    return self._too_large
        except zlib.error as error:
            return f"the answer's compression is damaged: {error}"
        return ""

    @property
    def _too_large(self) -> str:
        return f"the answer is larger than {self._max_body} bytes and was not read on"

    async def _download(self, url: str, flight: _Flight, claim: Claim) -> bytearray | Failure:
        pauses, attempt = [*_PAUSES], 0
        while True:
            try:
                result = await self._follow(url, attempt, flight, claim)
            except links.BadLinkError as error:
                return Failure(kind=ErrorClass.DOWNLOAD, message=str(error))
            except _LOST as error:
                result = flight.failure(_told(error))
            if isinstance(result, bytearray) or result.kind not in _PASSING or not pauses:
                return result
            if anyio.current_time() + pauses[0] >= flight.scope.deadline:
                return result
            await anyio.sleep(pauses.pop(0))
            attempt += 1

    async def _follow(self, url: str, attempt: int, flight: _Flight, claim: Claim) -> bytearray | Failure:
        for _ in range(1 + _REDIRECTS):
            link = links.parsed(url)
            flight.start(link.netloc.decode("ascii"))
            claim.resize(0)
            answer = await self._get(link, attempt, flight, claim)
            if isinstance(answer, Failure):
                return answer
            if answer.status == 200:
                return answer.body
            if not (300 <= answer.status < 400 and "location" in answer.headers):
                passing = answer.status in {408, 425, 429} or answer.status >= 500
                kind = ErrorClass.TRANSIENT if passing else ErrorClass.DOWNLOAD
                return flight.failure(f"HTTP {answer.status}", kind)
            url = links.joined(link, answer.headers["location"])
        raise links.BadLinkError(f"more than {_REDIRECTS} redirects")

    async def _get(self, link: httpx.URL, attempt: int, flight: _Flight, claim: Claim) -> Answer | Failure:
        proxy = None if self._transport else _proxy(link)
        name, address = link.raw_host.decode("ascii"), link.host
        if link.host != self._base.host:
            if link.scheme != "https":
                raise links.BadLinkError("only https links are followed")
            addresses = await links.public_addresses(link.host, link.port or 443, proxied=proxy is not None)
            # Asked for by address, so that a second look-up cannot lead elsewhere (DNS rebinding).
            address = addresses[attempt % len(addresses)] if addresses else address
        headers = {
            "host": link.netloc.decode("ascii"),
            "accept": "image/*, */*;q=0.1",
            "accept-encoding": "identity",
            "user-agent": self._headers["user-agent"],
            "connection": "close",
        }
        url = link.copy_with(host=address)
        request = httpx.Request("GET", url, headers=headers, extensions=self._extensions(sni_hostname=name))
        if self._transport:
            return await self._exchange(self._http, request, flight, claim)
        async with await self._open(link, proxy) as http:
            return await self._exchange(http, request, flight, claim)


def _hang_up(response: httpx.Response) -> None:
    """End the connection under its owner's hands; to close it is left to the owner, who keeps count."""
    stream = response.extensions.get("network_stream")
    if stream is not None:
        connection = stream.get_extra_info("socket")
        with suppress(OSError):
            # With a reset: a peer in the midst of sending would not notice a polite goodbye.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.shutdown(socket.SHUT_RDWR)


def _told(error: BaseException) -> str:
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def _base(base_url: str) -> httpx.URL:
    try:
        base = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InputError(f"the base URL is not a URL: {error}") from error
    if base.scheme not in {"http", "https"} or not base.host or base.userinfo or base.query or base.fragment:
        raise InputError(
            "the base URL must be http(s)://HOST[:PORT][/PATH], without a name, a key or a query in it"
        )
    return base


def _proxy(link: httpx.URL) -> str | None:
    """The environment's proxy for a link; what stays on this machine needs none, and travels in the clear."""
    if is_loopback(str(link)):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(link.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(link.netloc.decode("ascii")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
