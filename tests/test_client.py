"""The client against real sockets that misbehave in every way we know, and its buffers on a virtual clock."""

from __future__ import annotations

import gzip
import logging
import re
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self, TypedDict, Unpack, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.buffers import Buffers
from batchgen.client import TLS, Answer, Client
from batchgen.errors import InputError
from batchgen.records import ErrorClass, Failure, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

KEY = "sk-secret.0123456789/abc"
PICTURE = b'{"data": "' + b"x" * 300_000 + b'"}'


class Server:
    """Answers every connection with `behave(socket, connection number)`, each in a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket, int], None], backlog: int = 50) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._sockets:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        for peer in self._sockets:
            peer.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._sockets.append(peer)
                self._threads.append(threading.Thread(target=self._serve, args=(peer, self.connections)))
                self.connections += 1
                self._threads[-1].start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        with suppress(OSError):
            self._behave(peer, number)
            peer.shutdown(socket.SHUT_RDWR)

    def read(self, peer: socket.socket) -> bytes:
        """One whole request; OSError when the client has hung up."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += _received(peer)
        head, _, rest = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        while len(rest) < length:
            rest += _received(peer)
        self.requests.append(head + b"\r\n\r\n" + rest)
        return self.requests[-1]


def _received(peer: socket.socket) -> bytes:
    data = peer.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


@contextmanager
def answering(*answers: bytes, then: str = "wait") -> Iterator[Server]:
    """A server that reads requests and gives these answers in turn; `then` waits, closes or resets."""

    def behave(peer: socket.socket, number: int) -> None:
        for _ in answers or (b"",):
            server.read(peer)
            served = len(server.requests) - 1
            if served < len(answers):
                peer.sendall(answers[served])
        if then == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        elif then == "wait":
            while peer.recv(65536):
                pass

    with Server(behave) as server:
        yield server


def http(body: bytes = PICTURE, status: str = "200 OK", **headers: str) -> bytes:
    headers.setdefault("content_length", str(len(body)))
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body


def chunked(body: bytes, *, size: int = 40_000, end: bytes = b"0\r\n\r\n", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{lines}\r\n".encode() + framed + end


class Options(TypedDict, total=False):
    key: str | None
    timeout: float
    buffers: Buffers
    max_body: int
    transport: httpx.AsyncBaseTransport


def client(url: str, **options: Unpack[Options]) -> Client:
    options.setdefault("key", KEY)
    options.setdefault("timeout", 2.0)
    options.setdefault("buffers", Buffers())
    return Client(base_url=url, **options)


class Sending:
    """What the ledger would be told."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1
        await anyio.lowlevel.checkpoint()


async def ask(one: Client, sending: Sending | None = None, body: bytes = b"{}") -> Answer | Failure:
    async with one.post(
        Request(path="/chat/completions", body=(body,)), sending=sending or Sending()
    ) as result:
        return result


async def once(
    url: str, sending: Sending | None = None, body: bytes = b"{}", **options: Unpack[Options]
) -> Answer | Failure:
    async with client(url, **options) as one:
        return await ask(one, sending, body)


# What comes whole


async def test_an_answer_arrives_byte_for_byte_with_its_status_and_lower_case_headers() -> None:
    with answering(http(X_Request_Id="r1")) as server:
        answer = await once(server.url + "/v1", body=b'{"prompt": "a"}')
    assert isinstance(answer, Answer)
    assert (answer.status, bytes(answer.body), answer.headers["x-request-id"]) == (200, PICTURE, "r1")
    assert len(repr(answer)) < 500


async def test_a_request_in_pieces_arrives_as_one_at_its_own_path_and_of_its_own_type() -> None:
    pieces = (b"a form's head", PICTURE, b"", b"between", PICTURE, b"its end")
    asked = Request(path="/images/edits", body=pieces, content_type="multipart/form-data; boundary=b")
    with answering(http()) as server:
        async with client(server.url + "/v1") as one, one.post(asked, sending=Sending()) as answer:
            assert isinstance(answer, Answer)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/images/edits HTTP/1.1\r\n")
    assert b"content-type: multipart/form-data; boundary=b\r\n" in head + b"\r\n"
    assert body == b"".join(pieces)


async def test_exactly_the_promised_headers_are_sent() -> None:
    with answering(http()) as server:
        await once(server.url + "/v1", body=b'{"prompt": "a"}')
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    assert request == "POST /v1/chat/completions HTTP/1.1"
    assert sorted(line.split(": ")[0].lower() for line in lines) == [
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-litellm-num-retries",
    ]
    assert f"authorization: Bearer {KEY}" in lines
    assert "accept-encoding: identity" in lines
    assert f"host: 127.0.0.1:{server.port}" in lines
    assert body == b'{"prompt": "a"}'


async def test_without_a_key_no_authorization_is_sent() -> None:
    with answering(http()) as server:
        await once(server.url, key=None)
    assert b"authorization" not in server.requests[0].lower()


WHOLE = {
    "chunked": chunked(PICTURE),
    "chunked, one byte each": chunked(PICTURE[:500], size=1),
    "HTTP/1.0 until the end": b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
    "100 before 200": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + http(),
    "103 before 200": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + http(),
    "more than it says": http(content_length="300") + b"garbage",
    "gzip": http(gzip.compress(PICTURE), content_encoding="gzip"),
    "gzip of two members": http(
        gzip.compress(PICTURE[:99]) + gzip.compress(PICTURE[99:]), content_encoding="gzip"
    ),
    "gzip, chunked": chunked(gzip.compress(PICTURE), size=7, Content_Encoding="GZip"),
    "deflate": http(zlib.compress(PICTURE), content_encoding="deflate"),
    "bare deflate": http(zlib.compress(PICTURE, wbits=-15), content_encoding="deflate"),
    "said to be gzip, and empty": http(b"", content_encoding="gzip"),
    "another encoding, as it came": http(b"\x0b\x02\x80", content_encoding="br"),
    "length and chunks": chunked(PICTURE, content_length="7"),
    "empty": http(b""),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "many headers": http(PICTURE, "200 OK", **{f"x{i}": "y" * 50 for i in range(500)}),
}
BODIES = {
    "chunked, one byte each": PICTURE[:500],
    "more than it says": b"garbage"[:0] + PICTURE[:300],
    "another encoding, as it came": b"\x0b\x02\x80",
    "empty": b"",
    "said to be gzip, and empty": b"",
    "204": b"",
}


@pytest.mark.parametrize("name", WHOLE)
async def test_every_framing_that_http_allows_gives_the_whole_body(name: str) -> None:
    with answering(WHOLE[name], then="close") as server:
        answer = await once(server.url)
    assert isinstance(answer, Answer), answer
    assert bytes(answer.body) == BODIES.get(name, PICTURE)


async def test_what_is_free_is_asked_for_once_with_the_key_and_without_a_body() -> None:
    with answering(http(b'{"data": []}')) as server:
        async with client(server.url + "/v1") as one:
            answer = await one.get("/models")
    assert isinstance(answer, Answer)
    assert (answer.status, bytes(answer.body)) == (200, b'{"data": []}')
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert f"authorization: Bearer {KEY}".encode() in head
    assert b"content-" not in head
    assert body == b""


@pytest.mark.parametrize(
    "reply", [None, b"nonsense\r\n\r\n", http(content_length="99999999999"), b"HTTP/1.1 200"]
)
async def test_what_is_free_was_never_bought_whatever_became_of_it(reply: bytes | None) -> None:
    with answering(*filter(None, [reply]), then="reset") as server:
        async with client(server.url, timeout=0.5 if reply is None else 10.0) as one:
            answer = await one.get(f"/{KEY}")
    assert isinstance(answer, Failure)
    assert answer.kind is ErrorClass.UNREACHABLE
    assert KEY not in answer.message
    assert len(server.requests) == 1


async def test_the_headers_told_are_those_that_are_sent() -> None:
    asked = Request(path="/x", body=(b"ab", b"c"), content_type="multipart/form-data; boundary=y")
    with answering(http()) as server:
        async with client(server.url) as one, one.post(asked, sending=Sending()):
            told = one.headers(asked)
    lines = server.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    assert sorted(lines) == sorted(f"{name}: {value}" for name, value in told.items())


async def test_the_wait_for_the_head_of_an_answer_is_told_apart_from_that_for_its_end() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{")
        time.sleep(0.3)
        peer.sendall(b"}")

    with Server(behave) as server:
        began = anyio.current_time()
        answer = await once(server.url)
        took = anyio.current_time() - began
    assert isinstance(answer, Answer)
    assert 0 < answer.headed <= took - 0.29


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
async def test_a_redirect_is_an_answer_and_the_key_does_not_follow_it(status: str) -> None:
    with answering(http()) as elsewhere, answering(http(b"", status, location=elsewhere.url)) as server:
        answer = await once(server.url)
        assert isinstance(answer, Answer)
        assert answer.status == int(status[:3])
    assert elsewhere.connections == 0


async def test_an_early_refusal_while_the_body_is_still_leaving_is_an_answer() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        peer.recv(1000)
        peer.sendall(http(b"{}", "413 Content Too Large", connection="close"))
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass

    with Server(behave) as server:
        answer = await once(server.url, body=b"x" * 30_000_000)
    assert isinstance(answer, Answer)
    assert answer.status == 413


async def test_one_connection_serves_request_after_request() -> None:
    with answering(*[http(), chunked(PICTURE)] * 3) as server:
        async with client(server.url) as one:
            for _ in range(6):
                answer = await ask(one)
                assert isinstance(answer, Answer)
                assert answer.body == PICTURE
    assert server.connections == 1


async def test_cookies_are_never_sent_back() -> None:
    with answering(http(set_cookie="session=1; Path=/"), http()) as server:
        async with client(server.url) as one:
            await ask(one)
            await ask(one)
    assert len(server.requests) == 2
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("first", [http(b"{}"), chunked(b"{}")])
async def test_bytes_beyond_an_answer_never_pass_for_the_next_answer(first: bytes) -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        peer.sendall(first + http(b"another row's picture") if number == 0 else http(b"its own picture"))
        server.read(peer)

    with Server(behave) as server:
        async with client(server.url) as one:
            await ask(one)
            answer = await ask(one)
    assert isinstance(answer, Answer)
    assert answer.body == b"its own picture"


async def test_a_connection_the_server_closed_meanwhile_is_not_used() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        peer.sendall(http())

    with Server(behave) as server:
        async with client(server.url) as one:
            for _ in range(3):
                assert isinstance(await ask(one), Answer)
                await anyio.sleep(0.05)
    assert server.connections == 3


# Over TLS


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ssl.SSLContext:
    """A server's certificate for "localhost", of an authority that this environment trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@contextmanager
def answering_over_tls(context: ssl.SSLContext, *answers: bytes) -> Iterator[Server]:
    def behave(peer: socket.socket, number: int) -> None:
        with suppress(OSError), context.wrap_socket(peer, server_side=True) as secured:
            for _ in answers:
                server.read(secured)
                secured.sendall(answers[len(server.requests) - 1])

    with Server(behave) as server:
        server.url = f"https://localhost:{server.port}"
        yield server


async def test_one_tls_connection_serves_request_after_request(certified: ssl.SSLContext) -> None:
    large = PICTURE * 20
    with answering_over_tls(certified, *[http(large), chunked(large)] * 2) as server:
        async with client(server.url) as one:
            for _ in range(4):
                answer = await ask(one, body=b"x" * 3_000_000)
                assert isinstance(answer, Answer)
                assert answer.body == large
    assert server.connections == 1


@pytest.mark.parametrize("answer", [http()[:-5], chunked(PICTURE, end=b""), b""])
async def test_a_tls_answer_that_is_cut_is_uncertain(certified: ssl.SSLContext, answer: bytes) -> None:
    with answering_over_tls(certified, answer) as server:
        failure = await once(server.url)
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.UNCERTAIN


async def test_a_certificate_of_another_name_is_unreachable(certified: ssl.SSLContext) -> None:
    with answering_over_tls(certified, http()) as server:
        failure = await unsent(server.url.replace("localhost", "127.0.0.1"))
    assert "certificate verify failed" in failure.message


async def test_a_certificate_of_an_unknown_authority_is_unreachable(certified: ssl.SSLContext) -> None:
    trustme.CA().issue_cert("localhost").configure_cert(certified)
    with answering_over_tls(certified, http()) as server:
        failure = await unsent(server.url)
    assert "certificate verify failed" in failure.message


# The moment of sending


async def test_no_byte_of_the_body_leaves_before_sending_has_ended() -> None:
    seen: list[bytes] = []

    def behave(peer: socket.socket, number: int) -> None:
        peer.settimeout(0.2)
        with suppress(TimeoutError):
            while True:
                seen.append(_received(peer))
        seen.append(b"|")
        go.set()
        peer.settimeout(2)
        seen.append(_received(peer))
        peer.sendall(http())

    async def sending() -> None:
        await anyio.to_thread.run_sync(go.wait)

    go = threading.Event()
    with Server(behave) as server:
        async with (
            client(server.url) as one,
            one.post(Request(path="/p", body=(b"BODY",)), sending=sending) as answer,
        ):
            assert isinstance(answer, Answer)
    before, _, after = b"".join(seen).partition(b"|")
    assert before == b""
    assert after.endswith(b"\r\n\r\nBODY")


async def test_a_connection_reset_before_the_first_byte_is_unreachable_and_free() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        go.wait(5)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        gone.set()

    async def sending() -> None:
        go.set()
        await anyio.to_thread.run_sync(gone.wait)

    go, gone = threading.Event(), threading.Event()
    with Server(behave) as server:
        async with (
            client(server.url) as one,
            one.post(Request(path="/p", body=(b"BODY",)), sending=sending) as failure,
        ):
            assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.UNREACHABLE
    assert "nothing sent" in failure.message


@pytest.mark.parametrize("error", [KeyError("ledger"), OSError("disk full"), TimeoutError(), InputError("x")])
async def test_what_sending_raises_is_raised_and_no_body_leaves(error: Exception) -> None:
    async def sending() -> None:
        raise error

    with answering(http()) as server:
        async with client(server.url) as one:
            with pytest.raises(type(error)) as caught:
                async with one.post(Request(path="", body=(b"BODY",)), sending=sending):
                    pass
            assert caught.value is error
            assert isinstance(await ask(one), Answer)
    assert [request[-2:] for request in server.requests] == [b"{}"]


async def test_time_spent_in_sending_does_not_count_against_the_deadline() -> None:
    async def sending() -> None:
        await anyio.sleep(1.2)

    with answering(http()) as server:
        async with (
            client(server.url, timeout=1.0) as one,
            one.post(Request(path="", body=(b"{}",)), sending=sending) as answer,
        ):
            assert isinstance(answer, Answer)


# Before it: never bought


@contextmanager
def full_backlog() -> Iterator[str]:
    """A port whose connections are never established: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(address)
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for one in waiting:
                one.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def unsent(url: str) -> Failure:
    sending = Sending()
    failure = await once(url, sending, timeout=0.4)
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.UNREACHABLE
    assert sending.times == 0
    assert "nothing sent" in failure.message
    return failure


async def test_a_refused_connection_is_unreachable_and_says_where() -> None:
    port = free_port()
    assert f"127.0.0.1:{port}" in (await unsent(f"http://127.0.0.1:{port}")).message


async def test_a_connection_that_is_never_established_is_unreachable_in_time() -> None:
    began = time.monotonic()
    with full_backlog() as url:
        await unsent(url)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70, f"{'a' * 70}.b", "[::]:1"])
async def test_a_host_that_does_not_exist_is_unreachable(host: str) -> None:
    await unsent(f"http://{host}")


async def test_tls_to_a_plain_port_is_unreachable() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        peer.recv(1000)
        peer.sendall(b"HTTP/1.1 400 The plain HTTP request was sent to HTTPS port\r\n\r\n")

    with Server(behave) as server:
        await unsent(server.url.replace("http:", "https:"))


async def test_tls_that_never_answers_is_unreachable_in_time() -> None:
    with answering() as server:
        await unsent(server.url.replace("http:", "https:"))


async def test_a_proxy_that_refuses_is_unreachable_and_never_counts_as_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        await unsent("https://example.com")
    assert proxy.requests[0].startswith(b"CONNECT example.com:443 ")
    assert KEY.encode() not in proxy.requests[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_stays_on_this_machine_goes_through_no_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    with answering(http()) as server:
        assert isinstance(await once(server.url.replace("127.0.0.1", host)), Answer)


async def test_a_proxy_that_breaks_the_tunnel_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", then="close") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        await unsent("https://example.com")


# After it: maybe bought

BROKEN = {
    "no answer": (b"", "close"),
    "no answer, reset": (b"", "reset"),
    "no answer, silence": (b"", "wait"),
    "half of the headers": (b"HTTP/1.1 200 OK\r\ncontent-le", "close"),
    "half of the headers, silence": (b"HTTP/1.1 200 OK\r\ncontent-le", "wait"),
    "half of the body": (http()[:-5], "close"),
    "half of the body, reset": (http()[:-5], "reset"),
    "half of the body, silence": (http()[:-5], "wait"),
    "half of the chunks": (chunked(PICTURE, end=b""), "close"),
    "half of the chunks, silence": (chunked(PICTURE, end=b""), "wait"),
    "half of a gzip": (
        http(gzip.compress(PICTURE)[:-5], content_length="999", content_encoding="gzip"),
        "close",
    ),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n" * 9, "wait"),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", "close"),
    "bad chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "wait"),
    "two lengths": (http()[:17] + b"content-length: 5\r\n" + http()[17:], "wait"),
    "negative length": (http(content_length="-5"), "wait"),
    "immense length": (http(content_length="9" * 30), "wait"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"x: yyyyyyyy\r\n" * 20_000, "wait"),
    "one immense header": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "wait"),
    "endless 100": (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "wait"),
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "wait",
    ),
}


async def broken(name: str, patience: float) -> tuple[Answer | Failure, int, int]:
    """What comes of such an answer; how often a request was sent, and to which port."""
    data, then = BROKEN[name]
    sending = Sending()
    with answering(data, then=then) as server:
        failure = await once(server.url, sending, timeout=patience)
    return failure, sending.times, server.port


@pytest.mark.parametrize("name", BROKEN)
async def test_an_answer_that_is_not_whole_is_uncertain_and_says_what_is_known(name: str) -> None:
    failure, sent, port = await broken(name, 1.0)
    if not sent:  # a machine that is busy may not even connect within a second
        failure, sent, port = await broken(name, 30.0)
    assert isinstance(failure, Failure), failure
    assert failure.kind is ErrorClass.UNCERTAIN
    assert sent == 1
    assert re.search(rf"\(127\.0\.0\.1:{port}, \d+\.\d", failure.message)
    assert " bytes received)" in failure.message
    assert not failure.message.startswith((":", " "))
    assert len(failure.message) <= 500


@pytest.mark.parametrize(
    ("end", "then"),
    [(b"data: [DONE]\n\n", "close"), (b"data:[DONE]\r\n", "close"), (b"data: [DONE]\n\n", "wait")],
)
async def test_a_stream_that_said_its_last_word_is_whole_however_its_connection_ends(
    end: bytes, then: str
) -> None:
    said = b'data: {"a":1}\n\n' + end
    with answering(chunked(said, end=b""), then=then) as server:
        answer = await once(server.url, timeout=60)
    assert isinstance(answer, Answer), answer
    assert bytes(answer.body) == said


@pytest.mark.parametrize(
    "said",
    [
        b"data: {}\n\n",
        b'data: {"a":"data: [DONE]',
        b"data: [DONE] ...",
        b"data: [DONE]\n\ndata: {",
    ],
)
async def test_without_its_last_word_at_the_end_a_stream_is_not_whole(said: bytes) -> None:
    with answering(chunked(said, end=b""), then="close") as server:
        failure = await once(server.url)
    assert isinstance(failure, Failure), failure
    assert failure.kind is ErrorClass.UNCERTAIN


async def test_the_message_counts_the_bytes_that_came() -> None:
    with answering(http(PICTURE[:1000], content_length="5000"), then="close") as server:
        failure = await once(server.url)
    assert isinstance(failure, Failure)
    assert "1000 of 5000 bytes received" in failure.message
    assert failure.http_status == 200


@pytest.mark.parametrize("what", ["headers", "body", "chunks"])
async def test_an_answer_that_drips_is_cut_at_the_overall_deadline(what: str) -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        if what == "body":
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        elif what == "chunks":
            peer.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        else:
            peer.sendall(b"HTTP/1.1 200 OK\r\n")
        drop = {"body": b" ", "chunks": b"1\r\n \r\n", "headers": b"a: b\r\n"}[what]
        for _ in range(200):
            peer.sendall(drop)
            time.sleep(0.02)

    with Server(behave) as server:
        began = time.monotonic()
        failure = await once(server.url, timeout=0.4)
        assert time.monotonic() - began < 60
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.UNCERTAIN
    assert "within 0.4 s" in failure.message


async def test_a_server_that_does_not_read_the_body_makes_it_uncertain() -> None:
    release = threading.Event()

    def behave(peer: socket.socket, number: int) -> None:
        release.wait(5)

    with Server(behave) as server:
        failure = await once(server.url, body=b"x" * 30_000_000, timeout=0.4)
        release.set()
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.UNCERTAIN


# Too large


@pytest.mark.parametrize(
    "answer",
    [
        http(b"", content_length="100001"),
        http(b"", content_length="9" * 20),
        chunked(b"x" * 5_000_000),
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 5_000_000,
        http(gzip.compress(b"x" * 100_001), content_encoding="gzip"),
    ],
    ids=["declared", "declared immense", "chunked", "until the end", "compressed"],
)
async def test_an_answer_over_the_cap_is_bad_and_its_connection_is_closed_at_once(answer: bytes) -> None:
    gone = threading.Event()

    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        with suppress(OSError):
            peer.sendall(answer)
            while peer.recv(1000):
                pass
        gone.set()

    with Server(behave) as server:
        async with client(server.url, max_body=100_000) as one:
            failure = await ask(one)
            assert isinstance(failure, Failure)
            assert failure.kind is ErrorClass.BAD_ANSWER
            assert "100000 bytes" in failure.message
            assert await anyio.to_thread.run_sync(gone.wait, 2)


async def test_an_answer_of_exactly_the_cap_is_whole() -> None:
    with answering(http(b"x" * 100_000), chunked(b"x" * 100_000)) as server:
        async with client(server.url, max_body=100_000) as one:
            for _ in range(2):
                answer = await ask(one)
                assert isinstance(answer, Answer)
                assert len(answer.body) == 100_000


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_decompression_bomb_takes_no_more_memory_than_the_cap(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(30_000_000))
    encoding = "gzip" if pack is gzip.compress else "deflate"
    with answering(http(bomb, content_encoding=encoding)) as server:
        tracemalloc.start()
        try:
            failure = await once(server.url, max_body=2**20)
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        finally:
            tracemalloc.stop()
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.BAD_ANSWER


@pytest.mark.parametrize(
    "body", [b"not gzip at all", gzip.compress(PICTURE)[:-20], gzip.compress(PICTURE) + b"rubbish"]
)
async def test_damaged_compression_is_a_bad_answer(body: bytes) -> None:
    with answering(http(body, content_encoding="gzip"), http()) as server:
        async with client(server.url) as one:
            failure = await ask(one)
            assert isinstance(failure, Failure)
            assert failure.kind is ErrorClass.BAD_ANSWER
            assert isinstance(await ask(one), Answer)


# Cancelling


async def test_a_cancelled_request_ends_at_once_and_the_client_stays_usable() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        if number < len(moments):
            peer.sendall(moments[number])
            peer.recv(1)
        else:
            peer.sendall(http())

    moments = [b"", b"HTTP/1.1 200 OK\r\n", http()[:200_000], chunked(PICTURE, end=b"")]
    with Server(behave) as server:
        async with client(server.url) as one:
            for _ in moments:
                began = time.monotonic()
                with anyio.move_on_after(0.15) as scope:
                    await ask(one)
                assert scope.cancelled_caught
                assert time.monotonic() - began < 30
            assert isinstance(await ask(one), Answer)


async def test_a_request_cancelled_beforehand_leaves_nothing_behind() -> None:
    with answering(http()) as server:
        async with client(server.url) as one:
            sending = Sending()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await ask(one, sending)
            assert sending.times == 0
            assert isinstance(await ask(one), Answer)


async def test_cancelled_at_every_turn_of_the_loop_the_client_stays_usable() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        while server.read(peer):
            peer.sendall(http(b"{}"))

    async def count(turns: int, scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    buffers = Buffers()
    with Server(behave) as server:
        async with client(server.url, buffers=buffers) as one:
            for turns in range(40):
                async with anyio.create_task_group() as group:
                    group.start_soon(count, turns, group.cancel_scope)
                    await ask(one)
                    group.cancel_scope.cancel()
                assert buffers.held == 0
                answer = await ask(one)
                assert isinstance(answer, Answer), (turns, answer)


class _CancelAtTheEnd(httpx.AsyncHTTPTransport):
    """The network, with a caller who is cancelled in the moment the last byte has come."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        super().__init__()
        self._scope = scope

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        stream, scope = cast("httpx.AsyncByteStream", response.stream), self._scope

        class Ending(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for chunk in stream:
                    yield chunk
                scope.cancel()

            async def aclose(self) -> None:
                await stream.aclose()

        response.stream = Ending()
        return response


@pytest.mark.parametrize(
    "answer", [http(), chunked(PICTURE), http(gzip.compress(PICTURE), content_encoding="gzip")]
)
async def test_from_the_last_byte_on_a_cancelled_caller_still_gets_the_answer(answer: bytes) -> None:
    kept: Answer | Failure | None = None
    with answering(answer) as server, anyio.CancelScope() as scope:
        one = client(server.url, transport=_CancelAtTheEnd(scope))
        async with one, one.post(Request(path="", body=(b"{}",)), sending=Sending()) as kept:
            pass
    assert isinstance(kept, Answer)
    assert kept.body == PICTURE


@pytest.mark.parametrize("location", ["http://[::", "/elsewhere", "gopher://x"])
async def test_a_redirect_of_a_request_is_an_answer_and_is_not_followed(location: str) -> None:
    with answering(http(b"", "302 Found", location=location)) as server:
        answer = await once(server.url)
    assert isinstance(answer, Answer)
    assert (answer.status, len(server.requests)) == (302, 1)


# The key


@pytest.mark.parametrize("key", ["", "q w", "abc\n", "a\r\nx: y", "schlüssel", "abc\x00", "abc\x7f", " abc"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InputError) as caught:
        client("http://x", key=key)
    assert not key.strip() or key.strip() not in str(caught.value)


def test_a_client_does_not_show_its_key() -> None:
    one = client("http://x")
    assert KEY not in repr(one)
    assert KEY not in repr(vars(one))


async def test_the_key_and_signed_queries_appear_in_no_log_and_no_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = http(x_echo=f"Bearer {KEY}", location=f"/x?signature={KEY}-1234")
    caplog.set_level(logging.DEBUG)
    with answering(echo, http(b"pic"), f"{KEY} is not HTTP\r\n\r\n".encode()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)  # httpx's transport logs, and a proxy is its case
        async with client("http://models.test/v1") as one:
            assert isinstance(await ask(one), Answer)
            assert await one.fetch("http://models.test/a.png?signature=s3cr3t") == bytearray(b"pic")
            failure = await ask(one)
    assert isinstance(failure, Failure)
    assert KEY not in failure.message
    assert "receive_response_headers" in caplog.text
    assert KEY not in caplog.text
    assert "s3cr3t" not in caplog.text
    assert "signature" not in caplog.text


async def test_many_clients_of_one_key_share_one_log_filter(anyio_backend_name: str) -> None:
    filters = logging.getLogger("httpcore.http11").filters
    before = len(filters)
    for _ in range(3):
        async with client("http://x", key=f"the-key-of-{anyio_backend_name}"):
            assert len(filters) == before + 1


@pytest.mark.parametrize(
    "url", ["ftp://x", "x", "", "http://", "http://user:pw@x", "http://x?key=1", "http://x:y"]
)
def test_a_base_url_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError) as caught:
        client(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1", "http://127.0.0.1:x"])
async def test_a_proxy_that_cannot_be_used_is_told_in_one_line(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InputError, match="proxy"):
        await once("http://x")


async def test_certificates_that_cannot_be_read_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(InputError, match="SSL_CERT_FILE"):
        await once("https://127.0.0.1:1")


def test_the_trusted_certificates_are_read_once() -> None:
    tls = TLS()
    assert tls.context() is tls.context()


# Buffers


async def test_waiting_for_buffers_does_not_count_against_the_deadline() -> None:
    buffers = Buffers(len(PICTURE))
    with answering(http(), chunked(PICTURE)) as server:
        async with client(server.url, buffers=buffers, timeout=1.0) as one:
            for _ in range(2):
                async with anyio.create_task_group() as group:
                    with buffers.claim() as claim:
                        await claim.take(len(PICTURE))
                        group.start_soon(_expect_answer, one)
                        await anyio.sleep(1.2)
    assert buffers.held == 0


async def _expect_answer(one: Client) -> None:
    answer = await ask(one)
    assert isinstance(answer, Answer), answer


async def test_an_answer_counts_in_buffers_until_its_context_ends() -> None:
    buffers = Buffers()
    with answering(http(), chunked(PICTURE), http(b"x" * 9)) as server:
        async with client(server.url, buffers=buffers) as one:
            for size in (len(PICTURE), len(PICTURE), 9):
                async with one.post(Request(path="", body=(b"{}",)), sending=Sending()):
                    assert buffers.held == size
                assert buffers.held == 0


async def test_headers_long_before_the_body_hold_no_place_in_buffers() -> None:
    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        head, _, rest = chunked(b" " * 100 + PICTURE, size=100).partition(b"\r\n\r\n")
        peer.sendall(head + b"\r\n\r\n" + rest[:106])
        go.wait(5)
        peer.sendall(rest[106:])

    go = threading.Event()
    buffers = Buffers()
    with Server(behave) as server:
        async with client(server.url, buffers=buffers) as one, anyio.create_task_group() as group:
            group.start_soon(_expect_answer, one)
            await anyio.sleep(0.2)
            assert server.requests
            assert buffers.held == 0
            go.set()


@pytest.mark.virtual_time
async def test_claims_are_granted_in_the_order_of_asking_even_to_small_ones_behind_a_large_one() -> None:
    buffers = Buffers(100)
    granted: dict[int, int] = {}
    began = anyio.current_time()

    async def hold(number: int, size: int) -> None:
        with buffers.claim() as claim:
            await anyio.sleep(number)
            await claim.take(size)
            granted[number] = round(anyio.current_time() - began)
            await anyio.sleep(10)

    async with anyio.create_task_group() as group:
        for number, size in enumerate([60, 90, 20, 80]):
            group.start_soon(hold, number, size)
    assert granted == {0: 0, 1: 10, 2: 20, 3: 20}


@pytest.mark.virtual_time
async def test_a_claim_over_the_whole_capacity_waits_until_it_is_alone_and_then_passes() -> None:
    buffers = Buffers(100)
    async with anyio.create_task_group() as group:
        with buffers.claim() as first, buffers.claim() as second:
            await first.take(1)
            group.start_soon(second.take, 1000)
            await anyio.sleep(1)
            assert buffers.held == 1
            first.resize(0)
            await anyio.sleep(1)
            assert buffers.held == 1000


@pytest.mark.virtual_time
async def test_growing_never_waits_and_counts() -> None:
    buffers = Buffers(100)
    with buffers.claim() as one:
        await one.take(100)
        one.resize(500)
        assert buffers.held == 500
    assert buffers.held == 0


_PLANS = st.lists(
    st.tuples(st.integers(0, 150), st.integers(0, 30), st.integers(1, 20), st.integers(0, 60)),
    min_size=1,
    max_size=25,
)


@pytest.mark.virtual_time
@settings(max_examples=60, deadline=None)
@given(plan=_PLANS)
async def test_whatever_is_claimed_and_cancelled_the_capacity_holds_and_everything_comes_back(
    plan: list[tuple[int, int, int, int]],
) -> None:
    buffers = Buffers(100)
    oversized = {size for size, *_ in plan if size > 100}
    done = 0

    async def hold(size: int, start: int, length: int, patience: int) -> None:
        nonlocal done
        await anyio.sleep(start)
        with anyio.move_on_after(patience or None), buffers.claim() as claim:
            await claim.take(size)
            assert buffers.held <= 100 or buffers.held in oversized
            await anyio.sleep(length)
        done += 1

    async with anyio.create_task_group() as group:
        for entry in plan:
            group.start_soon(hold, *entry)
    assert (done, buffers.held) == (len(plan), 0)
    with anyio.fail_after(60), buffers.claim() as last:
        await last.take(100)


_MANY = r"""
    import re, sys
    from pathlib import Path
    import anyio
    from batchgen.buffers import Buffers
    from batchgen.records import Request
    from batchgen.client import Answer, Client

    ASKED, SIZE = 64, 10_000_000

    async def sending(): ...

    async def one(url, buffers):
        async with Client(base_url=url, key=None, timeout=30, buffers=buffers) as client:
            async with client.post(Request(path="", body=(b"{}",)), sending=sending) as answer:
                assert isinstance(answer, Answer) and len(answer.body) == SIZE, answer
                await anyio.sleep(0.05)

    async def main():
        buffers = Buffers(64 * 2**20)
        async with anyio.create_task_group() as group:
            for _ in range(ASKED):
                group.start_soon(one, sys.argv[1], buffers)
        assert buffers.held == 0
        print(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])

    anyio.run(main)
"""


def test_64_answers_of_10_mb_at_once_stay_within_the_buffers() -> None:
    together = threading.Barrier(64)
    piece = memoryview(bytes(1_000_000))

    def behave(peer: socket.socket, number: int) -> None:
        server.read(peer)
        together.wait(20)
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n")
        for _ in range(10):
            peer.sendall(piece)

    with Server(behave, backlog=100) as server:
        command = [sys.executable, "-c", textwrap.dedent(_MANY), server.url]
        peak = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert peak.returncode == 0, peak.stderr
    assert int(peak.stdout) < 180_000


# Pictures given as links


@contextmanager
def hosting(**pages: bytes) -> Iterator[Server]:
    """The endpoint's own host, with pages by path; each is answered once a connection."""

    def behave(peer: socket.socket, number: int) -> None:
        path = server.read(peer).split(b" ")[1].decode().partition("?")[0]
        peer.sendall(pages[path.strip("/").replace("/", "_")])

    with Server(behave) as server:
        yield server


async def download(url: str, base: str, **options: Unpack[Options]) -> bytearray | Failure:
    async with client(base, **options) as one:
        return await one.fetch(url)


async def lost(url: str, base: str = "https://gateway.example", **options: Unpack[Options]) -> str:
    failure = await download(url, base, **options)
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorClass.DOWNLOAD
    assert len(failure.message) <= 500
    return failure.message


async def test_a_picture_of_the_own_host_is_fetched_without_key_and_cookies() -> None:
    with hosting(v1=http(b"{}", set_cookie="a=b"), a_png=http(b"picture")) as server:
        async with (
            client(server.url + "/v1") as one,
            one.post(Request(path="", body=(b"{}",)), sending=Sending()),
        ):
            assert await one.fetch(f"{server.url}/a/png?sig=x") == bytearray(b"picture")
    assert server.requests[1].startswith(b"GET /a/png?sig=x HTTP/1.1\r\n")
    assert b"authorization" not in server.requests[1].lower()
    assert b"cookie" not in server.requests[1].lower()


async def test_redirects_are_followed_three_times_and_no_further() -> None:
    pages = {str(i): http(b"", "302 Found", location=f"/{i - 1}") for i in range(1, 6)}
    with hosting(**pages, **{"0": http(b"picture")}) as server:
        assert await download(f"{server.url}/3", server.url) == bytearray(b"picture")
        assert "more than 3 redirects" in await lost(f"{server.url}/4", server.url)


@pytest.mark.virtual_time
@pytest.mark.parametrize("fails", [2, 3])
@pytest.mark.parametrize("trouble", [500, 503, 429, 408, httpx.ReadError("reset"), httpx.ConnectTimeout("")])
async def test_a_download_is_tried_three_times_when_the_trouble_may_pass(
    trouble: int | httpx.HTTPError, fails: int
) -> None:
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked > fails:
            return httpx.Response(200, content=b"picture")
        if isinstance(trouble, httpx.HTTPError):
            raise trouble
        return httpx.Response(trouble)

    got = await download("http://own/x", "http://own", transport=httpx.MockTransport(answer), timeout=5)
    assert asked == 3
    assert isinstance(got, Failure) == (fails == 3)


async def test_a_download_does_not_wait_for_a_try_beyond_its_deadline() -> None:
    with answering(http(b"", "503 Busy")) as server:
        began = time.monotonic()
        assert "HTTP 503" in await lost(server.url, server.url, timeout=0.4)
        assert time.monotonic() - began < 0.4


@pytest.mark.parametrize(
    "status", ["403 Forbidden", "404 Not Found", "410 Gone", "204 No Content", "304 Same"]
)
async def test_a_download_that_is_refused_is_not_tried_again(status: str) -> None:
    with answering(http(b"", status)) as server:
        message = await lost(f"{server.url}/p/a.png?signature=secret", server.url)
    assert f"HTTP {status[:3]}" in message
    assert f"{server.url}/p/a.png: " in message
    assert "secret" not in message
    assert server.connections == 1


async def test_a_picture_over_the_cap_is_not_downloaded() -> None:
    with answering(http(b"x" * 1001)) as server:
        assert "1000 bytes" in await lost(server.url, server.url, max_body=1000)
    assert server.connections == 1


async def test_a_download_that_hangs_ends_at_the_deadline() -> None:
    with answering() as server:
        began = time.monotonic()
        await lost(server.url, server.url, timeout=0.3)
        assert time.monotonic() - began < 60


PRIVATE = [
    "https://127.0.0.1/x",
    "https://127.1/x",
    "https://2130706433/x",
    "https://0x7f.1/x",
    "https://localhost/x",
    "https://0.0.0.0/x",
    "https://10.1.2.3/x",
    "https://172.16.0.1/x",
    "https://192.168.1.1/x",
    "https://100.64.0.1/x",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/x",
    "https://224.0.0.1/x",
    "https://255.255.255.255/x",
    "https://[::1]/x",
    "https://[::]/x",
    "https://[::ffff:10.0.0.1]/x",
    "https://[::ffff:169.254.169.254]/x",
    "https://[64:ff9b::a00:1]/x",
    "https://[2002:a00:1::]/x",
    "https://[fe80::1]/x",
    "https://[fd00:ec2::254]/x",
    "https://[ff02::1]/x",
]


@pytest.mark.parametrize("proxied", [False, True])
async def test_no_link_leads_into_a_private_network(proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(http(b"picture")) as proxy:
        if proxied:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for link in PRIVATE:
            assert "private network" in await lost(link), link
    assert proxy.connections == 0


async def test_a_redirect_into_a_private_network_is_not_followed() -> None:
    with answering(http(b"", "302 Found", location="https://169.254.169.254/latest")) as server:
        assert "private network" in await lost(server.url, server.url)


@pytest.mark.parametrize(
    "link",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "https://user:pw@example.com/a.png",
        "https://",
        "https://[::/a.png",
        "https://127.0.0.1:99999999/",
        "data:image/png;base64,AAAA",
        "//example.com/a.png",
        "a.png",
        "",
        "https://exa mple.com\n/x",
        "https://" + "a" * 70_000,
        "https://exa\x00mple.com",
    ],
    ids=repr,
)
async def test_a_link_that_is_no_https_link_is_not_followed(link: str) -> None:
    message = await lost(link)
    assert "pw" not in message


@pytest.mark.parametrize("location", ["http://example.com/", "https://[::", "gopher://x", "\xff\xfe://"])
async def test_a_redirect_to_something_else_is_not_followed(location: str) -> None:
    with answering(*[http(b"", "302 Found", location=location)] * 3, then="close") as server:
        await lost(server.url, server.url, timeout=0.5)


async def test_a_host_that_cannot_be_found_is_a_download_failure() -> None:
    assert "gaierror" in await lost("https://nowhere.invalid/x", timeout=0.4)


@pytest.mark.parametrize("name", ["localhost.", "metadata.google.internal", "printer.local", "x.localhost"])
async def test_a_proxy_is_not_asked_for_private_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(http(b"picture")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert "private network" in await lost(f"https://{name}/x")
    assert proxy.connections == 0


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_a_proxy_looks_up_the_names_of_public_links(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(b"HTTP/1.1 403 Forbidden\r\n\r\n", then="close") as proxy:
        monkeypatch.setenv("ALL_PROXY", scheme + proxy.url.removeprefix("http://"))
        assert "403 Forbidden" in await lost("https://pictures.example/x", timeout=0.4)
    assert proxy.requests[0].startswith(b"CONNECT pictures.example:443 ")


async def test_the_environments_exceptions_from_the_proxy_hold_for_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(http(b"picture")) as server, answering() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await download(server.url, server.url) == bytearray(b"picture")
    assert proxy.connections == 0


async def test_a_public_link_is_asked_for_by_the_address_that_was_checked() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"picture")

    link = "https://1.1/x?y=z"  # 1.0.0.1, spelled as only a resolver reads it
    transport = httpx.MockTransport(answer)
    assert await download(link, "https://gateway.example", transport=transport) == bytearray(b"picture")
    assert str(seen[0].url) == "https://1.0.0.1/x?y=z"
    assert seen[0].headers["host"] == "1.1"
    assert seen[0].extensions["sni_hostname"] == "1.1"
    assert "authorization" not in seen[0].headers


async def test_a_download_inside_an_answer_never_waits_for_the_answers_own_bytes() -> None:
    pages = {"v1": http(b"x" * 900), "p": http(b"y" * 800)}
    buffers = Buffers(1000)

    async def work(base: str) -> None:
        async with (
            client(base, buffers=buffers) as one,
            one.post(Request(path="/v1", body=(b"{}",)), sending=Sending()),
        ):
            assert await one.fetch(base + "/p") == bytearray(b"y" * 800)
            assert buffers.held >= 1700

    with hosting(**pages) as server, anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(work, server.url)
    assert buffers.held == 0


async def test_a_download_outside_an_answer_gives_its_bytes_back() -> None:
    buffers = Buffers()
    with answering(http(b"picture")) as server:
        assert await download(server.url, server.url, buffers=buffers) == bytearray(b"picture")
    assert buffers.held == 0


async def test_an_answer_shorter_or_longer_than_a_transport_says_is_uncertain() -> None:
    for length in ("5", "7"):
        answer = httpx.Response(200, headers={"content-length": length}, stream=httpx.ByteStream(b"sixsix"))
        failure = await once("http://x", transport=_Fixed(answer))
        assert isinstance(failure, Failure)
        assert failure.kind is ErrorClass.UNCERTAIN


class _Fixed(httpx.AsyncBaseTransport):
    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self._response
