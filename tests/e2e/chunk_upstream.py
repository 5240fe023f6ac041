"""An upstream whose writes the test makes itself, and a client that records each received chunk.

Both work on plain sockets, so that the test sees the bytes on the wire.
"""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.e2e.cluster import Cluster, wait_until
from tests.ports import listen, port_of

#: The responses to the requests of the desktop's health check.
HEALTH_RESPONSES = {"/api/version": {"version": "1"}, "/api/tags": {"models": []}}


def encode_chunk(data: bytes) -> bytes:
    """Encode `data` as one chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class ChunkRequest(Protocol):
    """A connection of the desktop, and the latest request on it."""

    transport: Any

    def __init__(self, upstream: ChunkUpstream) -> None:
        self._upstream = upstream
        self._unread = b""
        self._body_remaining = 0  # bytes of the request's body not yet received
        self.path = ""
        self.headers: dict[str, str] = {}
        self.closed = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        while True:
            body, self._unread = (
                self._unread[: self._body_remaining],
                self._unread[self._body_remaining :],
            )
            self._body_remaining -= len(body)
            head, separator, rest = self._unread.partition(b"\r\n\r\n")
            if self._body_remaining or not separator:
                return
            self._unread = rest
            self._handle_head(head.decode("latin-1"))

    def _handle_head(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        self.headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        self.path = first.split(" ")[1]
        self._body_remaining = int(self.headers.get("content-length", 0))
        if self.path in HEALTH_RESPONSES:
            body = json.dumps(HEALTH_RESPONSES[self.path]).encode()
            self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            self._upstream.pending.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        """Write the bytes now, in one write as far as the system accepts them."""
        self.transport.write(data)

    def start_response(self, content_type: str, *headers: str) -> None:
        """Write the head of a chunked response."""
        lines = [
            "HTTP/1.1 200 OK",
            f"Content-Type: {content_type}",
            "Transfer-Encoding: chunked",
            *headers,
        ]
        self.write("\r\n".join([*lines, "", ""]).encode())


class ChunkUpstream(Factory):
    """A fake Ollama; `pending` are the requests that the test has to answer."""

    noisy = False
    cluster: Cluster  # assigned by the fixture that starts it

    def __init__(self) -> None:
        self.pending: list[ChunkRequest] = []
        self.connections: list[ChunkRequest] = []
        self.listening = listen(reactor, self)
        self.port = port_of(self.listening)

    def buildProtocol(self, addr: Any) -> ChunkRequest:
        connection = ChunkRequest(self)
        self.connections.append(connection)
        return connection

    async def next_request(self) -> ChunkRequest:
        """Wait for a request; return it."""
        await wait_until(lambda: self.pending, "a request to arrive")
        return self.pending.pop(0)

    async def stopListening(self) -> None:
        await maybeDeferred(self.listening.stopListening)
        for connection in self.connections:
            if not connection.closed:
                connection.transport.abortConnection()
        await wait_until(
            lambda: all(connection.closed for connection in self.connections),
            "its connections to close",
        )


class ChunkClient(Protocol):
    """A client that sends one request and records each chunk of the response."""

    transport: Any

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._unread = bytearray()
        self.head = ""
        self.chunks: list[bytes] = []
        self.complete = False
        self.closed = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        if not self.head:
            end = self._unread.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = self._unread[:end].decode("latin-1")
            del self._unread[: end + 4]
        while not self.complete and self._parse_chunk():
            pass

    def _parse_chunk(self) -> bool:
        """Parse one chunk; return whether it was received completely."""
        size, separator, _ = self._unread[:20].partition(b"\r\n")
        start = len(size) + 2
        end = start + int(size, 16) if separator else 0
        if not separator or len(self._unread) < end + 2:
            return False
        assert self._unread[end : end + 2] == b"\r\n"
        if end > start:
            self.chunks.append(bytes(self._unread[start:end]))
        else:
            self.complete = True
        del self._unread[: end + 2]
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True

    @property
    def has_partial_chunk(self) -> bool:
        """Whether an incomplete chunk has been received."""
        return bool(self._unread)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    async def close(self) -> None:
        """Abort the connection and wait until it is closed."""
        if not self.closed:
            self.transport.abortConnection()
        await wait_until(lambda: self.closed, "the client's connection to close")


async def open_client(port: int, path: str, token: str, *headers: str) -> ChunkClient:
    """Connect and request a streamed response at `path`."""
    body = json.dumps({"model": "m", "stream": True}).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    factory = Factory()
    factory.noisy = False
    request = "\r\n".join(lines).encode() + body
    factory.buildProtocol = lambda addr: ChunkClient(request)  # type: ignore[method-assign]
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    return cast(ChunkClient, await endpoint.connect(factory))
