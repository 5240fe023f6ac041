"""Send each request twice, directly to the fake Ollama and through ctllm, to compare both."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import FRONT, Cluster
from tests.fake_ollama import FakeOllama, Record
from tests.ports import listen, port_of

Headers = tuple[tuple[str, str], ...]

#: CORS headers are the cloud's own: see test_cors.
CORS_PREFIX = "access-control-"
#: Headers of one connection (RFC 9110, section 7.6.1), in requests and responses.
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "expect", "proxy-authenticate", "proxy-authorization",
}  # fmt: skip
OWN_PREFIX = "ctllm-"
#: The response headers that ctllm relays; repeated here, so that the tests do not depend on the
#: product's list. Others could control browsers or reverse proxies.
RESPONSE_HEADERS = {
    "content-type", "content-length", "content-encoding", "content-range", "date", "etag", "allow",
    "location", "cache-control", "retry-after", "x-request-id",
}  # fmt: skip
#: What ctllm adds to each response that it relays, so that a browser does not execute it.
ADDED_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)
#: Matches a request's head by its X-Try number.
_HEAD = rb"[A-Z]+ /\S* HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*X-Try: %s\r\n(?:[^\r\n]+\r\n)*\r\n"


class FrozenClock:
    """A clock with a constant time, for equal time stamps; its timers run."""

    def seconds(self) -> float:
        return 1_700_000_000.0

    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> Any:
        return reactor.callLater(delay, call, *args)


@dataclass(frozen=True)
class RawRequest:
    """One request. A body that is not bytes is sent as JSON; `chunked` selects its framing."""

    method: str
    target: str
    body: Any = None
    headers: Headers = ()
    chunked: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.target}"

    @property
    def content(self) -> bytes | None:
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body).encode()

    def head(self, host: str, extra_headers: Headers) -> bytes:
        """Return the encoded head; `extra_headers` are last."""
        content = self.content
        framing: Headers = ()
        if self.chunked:
            framing = (("Transfer-Encoding", "chunked"),)
        elif content is not None:
            framing = (("Content-Length", str(len(content))),)
        content_type = (
            () if isinstance(self.body, bytes | None) else (("Content-Type", "application/json"),)
        )
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{n}: {v}" for n, v in (*content_type, *self.headers, *framing, *extra_headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def body_chunks(self) -> list[bytes]:
        """Return the encoded body, in chunks of growing sizes if it is chunked."""
        content = self.content or b""
        if not self.chunked:
            return [content]
        chunks, size = [], 1
        while content:
            chunk, content = content[:size], content[size:]
            chunks.append(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            size *= 3
        return [*chunks, b"0\r\n\r\n"]


@dataclass(frozen=True)
class RawResponse:
    """A response as received; `interim_statuses` are those before the final one (100, 103)."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    framing: str
    is_complete: bool
    interim_statuses: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    @property
    def relayed_parts(self) -> tuple[int, str, Headers, bytes, bool]:
        """Everything of the response that ctllm must relay unchanged.

        nginx changes the order of headers, which means nothing between those of different names.
        """
        headers = tuple(header for header in self.headers if header[0].lower() in RESPONSE_HEADERS)
        if FRONT == "nginx":
            headers = tuple(sorted(headers, key=lambda header: header[0].lower()))
        return self.status, self.reason, headers, self.body, self.is_complete


def end_to_end_headers(headers: Headers) -> Headers:
    """Return the headers without hop-by-hop headers and ctllm's own."""
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in HOP_BY_HOP and not name.lower().startswith((OWN_PREFIX, CORS_PREFIX))
    )


class RawConnection:
    """A client's connection that parses responses itself. It blocks: use it in a thread."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._unread = b""

    def close(self) -> None:
        self.socket.close()

    def request(self, request: RawRequest, host: str, extra_headers: Headers) -> RawResponse:
        """Send a request and return its response; with Expect the body waits for 100."""
        self.socket.sendall(request.head(host, extra_headers))
        interim_statuses: tuple[int, ...] = ()
        if any(name.lower() == "expect" for name, _ in request.headers):
            interim_statuses = (self._read_head()[0],)
        for chunk in request.body_chunks():
            self.socket.sendall(chunk)
        return self._read_response(request.method, interim_statuses)

    def _read_response(self, method: str, interim_statuses: tuple[int, ...]) -> RawResponse:
        status, reason, headers = self._read_head()
        while status < 200:
            interim_statuses = (*interim_statuses, status)
            status, reason, headers = self._read_head()
        by_name = {name.lower(): value for name, value in headers}
        framing = "close"
        if "transfer-encoding" in by_name:
            framing = "chunked"
        elif "content-length" in by_name:
            framing = "length"
        if method == "HEAD" or status in (204, 304):
            return RawResponse(status, reason, headers, b"", framing, True, interim_statuses)
        read_body = {"chunked": self._read_chunks, "close": self._read_until_close}.get(framing)
        body, is_complete = (
            read_body() if read_body else self._read_exactly(int(by_name["content-length"]))
        )
        return RawResponse(status, reason, headers, body, framing, is_complete, interim_statuses)

    def _read_head(self) -> tuple[int, str, Headers]:
        while b"\r\n\r\n" not in self._unread:
            assert self._receive(), f"closed in a head: {self._unread!r}"
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        _, status, reason = (first + " ").split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        return int(status), reason[:-1], tuple((n, v.strip(" \t")) for n, _, v in pairs)

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        self._unread += data
        return bool(data)

    def _read_exactly(self, length: int) -> tuple[bytes, bool]:
        parts, received = [self._unread], len(self._unread)
        self._unread = b""
        while received < length and self._receive():
            parts.append(self._unread)
            received += len(self._unread)
            self._unread = b""
        data = b"".join(parts)
        self._unread = data[length:]
        return data[:length], received >= length

    def _read_until_close(self) -> tuple[bytes, bool]:
        while self._receive():
            pass
        return self._unread, True

    def _read_chunks(self) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        while True:
            while b"\r\n" not in self._unread:
                if not self._receive():
                    return b"".join(parts), False
            size, _, self._unread = self._unread.partition(b"\r\n")
            chunk, is_complete = self._read_exactly(int(size.partition(b";")[0], 16) + 2)
            if not is_complete:
                return b"".join(parts) + chunk, False
            if chunk == b"\r\n":
                return b"".join(parts), True
            parts.append(chunk[:-2])


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the fake Ollama received it."""

    line: str
    headers: Headers
    record: Record

    @property
    def framing(self) -> tuple[str | None, ...]:
        return tuple(self.record.header(name) for name in ("content-length", "transfer-encoding"))

    def forwarded_headers(self, stripped: set[str]) -> Headers:
        """Return the end-to-end headers in order, without those in `stripped` and X-Try."""
        headers = end_to_end_headers(self.headers)
        return tuple(header for header in headers if header[0].lower() not in {*stripped, "x-try"})


@dataclass(frozen=True)
class MirroredResult:
    """Both responses to a request, and both forms in which the fake Ollama received it."""

    direct_response: RawResponse
    relayed_response: RawResponse
    direct_request: ReceivedRequest
    relayed_request: ReceivedRequest


@dataclass
class MirroredCluster:
    """A fake Ollama behind a cloud and a desktop; sends requests directly and through them."""

    cluster: Cluster
    fake_ollama: FakeOllama
    port: int
    received_by_connection: list[bytearray] = field(default_factory=list)
    request_count: int = 0

    async def send_both(
        self, request: RawRequest, prepare: Callable[[FakeOllama], object] = lambda _: None
    ) -> MirroredResult:
        """Send directly, then through ctllm; before each the fake Ollama is reset and prepared."""
        direct, sent = await self._send(request, prepare, self.port, f"127.0.0.1:{self.port}")
        cloud_port = self.cluster.cloud_port
        through, arrived = await self._send(request, prepare, cloud_port, "ctllm.example.org")
        headers = end_to_end_headers(through.headers)
        unexpected = [
            each
            for each in headers
            if each[0].lower() not in RESPONSE_HEADERS and each not in ADDED_HEADERS
        ]
        assert not unexpected, unexpected
        return MirroredResult(direct, through, sent, arrived)

    async def send_relayed(self, request: RawRequest, host: str) -> RawResponse:
        """Send only through ctllm, with any Host."""
        return (await self._send(request, lambda _: None, self.cluster.cloud_port, host))[0]

    async def _send(
        self, request: RawRequest, prepare: Callable[[FakeOllama], object], port: int, host: str
    ) -> tuple[RawResponse, ReceivedRequest]:
        self.fake_ollama.reset()
        for received in self.received_by_connection:
            received.clear()
        prepare(self.fake_ollama)
        self.request_count += 1
        extra_headers = (
            ("Authorization", f"Bearer {self.cluster.api_key}"),
            ("X-Try", str(self.request_count)),
        )
        return await deferToThread(
            _send_request, port, request, host, extra_headers
        ), self._find_received(str(self.request_count))

    def _find_received(self, number: str) -> ReceivedRequest:
        record = next(r for r in self.fake_ollama.requests if r.header("x-try") == number)
        pattern = re.compile(_HEAD % number.encode())
        head = next(
            found[0] for data in self.received_by_connection if (found := pattern.search(data))
        )
        line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (each.partition(": ") for each in lines)
        return ReceivedRequest(line, tuple((name, value) for name, _, value in pairs), record)


def _send_request(port: int, request: RawRequest, host: str, extra_headers: Headers) -> RawResponse:
    connection = RawConnection(port)
    try:
        response = connection.request(request, host, extra_headers)
        if (
            response.framing != "close"
            and response.header("connection") != "close"
            and response.is_complete
        ):
            _check_next_response(connection, host, extra_headers)
        return response
    finally:
        connection.close()


def _check_next_response(connection: RawConnection, host: str, extra_headers: Headers) -> None:
    """Check that the next response on the connection is that of the next request."""
    credentials = tuple(header for header in extra_headers if header[0] == "Authorization")
    response = connection.request(RawRequest("GET", "/api/version"), host, credentials)
    assert (response.status, response.body) == (200, b'{"version":"0.12.6"}'), response


def record_received(fake_ollama: FakeOllama) -> list[bytearray]:
    """Record what the fake Ollama receives from now on, one byte string a connection."""
    by_connection: list[bytearray] = []
    build_protocol = fake_ollama.site.buildProtocol

    def buildProtocol(addr: Any) -> Any:
        protocol, received = build_protocol(addr), bytearray()
        by_connection.append(received)
        data_received = protocol.dataReceived

        def dataReceived(data: bytes) -> None:
            received.extend(data)
            data_received(data)

        protocol.dataReceived = dataReceived
        return protocol

    fake_ollama.site.buildProtocol = buildProtocol  # type: ignore[method-assign]
    return by_connection


async def start_mirrored_cluster(cluster: Cluster, *cloud_options: str) -> MirroredCluster:
    """Start a fake Ollama, a cloud, and alice's desktop with an API key."""
    await cluster.start_cloud(*cloud_options)
    models = ("llama3.2", "nomic-embed-text")
    fake_ollama = FakeOllama(FrozenClock(), models, word_interval=0.0, now=FrozenClock().seconds)
    received_by_connection = record_received(fake_ollama)
    listening = listen(reactor, fake_ollama.site)
    cluster.ports.append(listening)
    port = port_of(listening)
    await cluster.start_desktop("alice", port, "--allowed-requests=*")
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--scope=manage", "tests")
    await cluster.wait_for_api_key()
    return MirroredCluster(cluster, fake_ollama, port, received_by_connection)
