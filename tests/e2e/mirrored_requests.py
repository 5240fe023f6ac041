"""The same request twice: straight to the fake Ollama, and through cloud, proxy and desktop."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster
from tests.fake_ollama import FakeOllama, Record
from tests.ports import listen, port_of

Headers = tuple[tuple[str, str], ...]

#: What browsers are told about pages is the cloud's to say: see test_cors.
CORS = "access-control-"
#: What concerns one connection (RFC 9110, section 7.6.1), in any request or answer.
HOPS = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "expect", "proxy-authenticate", "proxy-authorization",
}  # fmt: skip
OURS = "ctllm-"
#: What answers may say, written down here once more; ctllm lets nothing else pass on purpose, for
#: by headers servers and browsers on the way take orders.
PASSED = {
    "content-type", "content-length", "content-encoding", "content-range", "date", "etag", "allow",
    "location", "cache-control", "retry-after", "x-request-id",
}  # fmt: skip
#: What ctllm adds to each answer that it relays, so that a browser does nothing by it.
ADDED = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)
#: A request's head, by the number in it.
_HEAD = rb"[A-Z]+ /\S* HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*X-Try: %s\r\n(?:[^\r\n]+\r\n)*\r\n"


class FrozenClock:
    """A clock whose timers run while its time stands still, so that time stamps are equal."""

    def seconds(self) -> float:
        return 1_700_000_000.0

    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> Any:
        return reactor.callLater(delay, call, *args)


@dataclass(frozen=True)
class RawRequest:
    """One request. A body that is not bytes goes as JSON; `chunked` says how its length is told."""

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

    def head(self, host: str, more: Headers) -> bytes:
        """The head on the wire; `more` comes last."""
        content = self.content
        framing: Headers = ()
        if self.chunked:
            framing = (("Transfer-Encoding", "chunked"),)
        elif content is not None:
            framing = (("Content-Length", str(len(content))),)
        kind = (
            () if isinstance(self.body, bytes | None) else (("Content-Type", "application/json"),)
        )
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{n}: {v}" for n, v in (*kind, *self.headers, *framing, *more)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def pieces(self) -> list[bytes]:
        """The body on the wire; in chunks of growing sizes where it is chunked."""
        content = self.content or b""
        if not self.chunked:
            return [content]
        found, size = [], 1
        while content:
            piece, content = content[:size], content[size:]
            found.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            size *= 3
        return [*found, b"0\r\n\r\n"]


@dataclass(frozen=True)
class RawResponse:
    """An answer as it was on the wire. `early` are the statuses that came before (100, 103)."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    framing: str
    whole: bool
    early: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    @property
    def told(self) -> tuple[int, str, Headers, bytes, bool]:
        """All that a client may go by, of what is meant to pass."""
        kept = tuple(header for header in self.headers if header[0].lower() in PASSED)
        return self.status, self.reason, kept, self.body, self.whole


def end_to_end(headers: Headers) -> Headers:
    """Less what concerns one connection, and less what is ctllm's to say."""
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in HOPS and not name.lower().startswith((OURS, CORS))
    )


class RawConnection:
    """A connection of a client that looks at every byte. Blocks: for use in a thread."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._read = b""

    def close(self) -> None:
        self.socket.close()

    def request(self, ask: RawRequest, host: str, more: Headers) -> RawResponse:
        """Ask and read the answer; where 100 is expected the body waits for it."""
        self.socket.sendall(ask.head(host, more))
        early: tuple[int, ...] = ()
        if any(name.lower() == "expect" for name, _ in ask.headers):
            early = (self._head()[0],)
        for piece in ask.pieces():
            self.socket.sendall(piece)
        return self._answer(ask.method, early)

    def _answer(self, method: str, early: tuple[int, ...]) -> RawResponse:
        status, reason, headers = self._head()
        while status < 200:
            early = (*early, status)
            status, reason, headers = self._head()
        named = {name.lower(): value for name, value in headers}
        framing = "close"
        if "transfer-encoding" in named:
            framing = "chunked"
        elif "content-length" in named:
            framing = "length"
        if method == "HEAD" or status in (204, 304):
            return RawResponse(status, reason, headers, b"", framing, True, early)
        read = {"chunked": self._chunks, "close": self._to_the_end}.get(framing)
        body, whole = read() if read else self._exactly(int(named["content-length"]))
        return RawResponse(status, reason, headers, body, framing, whole, early)

    def _head(self) -> tuple[int, str, Headers]:
        while b"\r\n\r\n" not in self._read:
            assert self._more(), f"closed within a head: {self._read!r}"
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        _, status, reason = (first + " ").split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        return int(status), reason[:-1], tuple((n, v.strip(" \t")) for n, _, v in pairs)

    def _more(self) -> bool:
        try:
            piece = self.socket.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        self._read += piece
        return bool(piece)

    def _exactly(self, length: int) -> tuple[bytes, bool]:
        parts, got = [self._read], len(self._read)
        self._read = b""
        while got < length and self._more():
            parts.append(self._read)
            got += len(self._read)
            self._read = b""
        whole = b"".join(parts)
        self._read = whole[length:]
        return whole[:length], got >= length

    def _to_the_end(self) -> tuple[bytes, bool]:
        while self._more():
            pass
        return self._read, True

    def _chunks(self) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        while True:
            while b"\r\n" not in self._read:
                if not self._more():
                    return b"".join(parts), False
            size, _, self._read = self._read.partition(b"\r\n")
            piece, whole = self._exactly(int(size.partition(b";")[0], 16) + 2)
            if not whole:
                return b"".join(parts) + piece, False
            if piece == b"\r\n":
                return b"".join(parts), True
            parts.append(piece[:-2])


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the fake Ollama received it."""

    line: str
    headers: Headers
    record: Record

    @property
    def framing(self) -> tuple[str | None, ...]:
        return tuple(self.record.header(name) for name in ("content-length", "transfer-encoding"))

    def passed(self, stripped: set[str]) -> Headers:
        """The headers, in order and as spelled, less those that are to be stripped."""
        kept = end_to_end(self.headers)
        return tuple(header for header in kept if header[0].lower() not in {*stripped, "x-try"})


@dataclass(frozen=True)
class MirroredResult:
    """What came of one request, asked directly and through ctllm."""

    direct: RawResponse
    through: RawResponse
    sent: ReceivedRequest
    arrived: ReceivedRequest


@dataclass
class MirroredCluster:
    """A stand-in with a cloud and a desktop before it; asks everything twice."""

    cluster: Cluster
    fake_ollama: FakeOllama
    port: int
    streams: list[bytearray] = field(default_factory=list)
    asked: int = 0

    async def send_both(
        self, ask: RawRequest, prepare: Callable[[FakeOllama], object] = lambda _: None
    ) -> MirroredResult:
        """Ask directly, then through; before each the fake Ollama is as new and `prepare`d."""
        direct, sent = await self._ask(ask, prepare, self.port, f"127.0.0.1:{self.port}")
        cloud = self.cluster.cloud_port
        through, arrived = await self._ask(ask, prepare, cloud, "ctllm.example.org")
        passed = end_to_end(through.headers)
        unmeant = [each for each in passed if each[0].lower() not in PASSED and each not in ADDED]
        assert not unmeant, unmeant
        return MirroredResult(direct, through, sent, arrived)

    async def send_through(self, ask: RawRequest, host: str) -> RawResponse:
        """Ask through ctllm alone, by any name of the cloud."""
        return (await self._ask(ask, lambda _: None, self.cluster.cloud_port, host))[0]

    async def _ask(
        self, ask: RawRequest, prepare: Callable[[FakeOllama], object], port: int, host: str
    ) -> tuple[RawResponse, ReceivedRequest]:
        self.fake_ollama.reset()
        for stream in self.streams:
            stream.clear()
        prepare(self.fake_ollama)
        self.asked += 1
        marked = (("Authorization", f"Bearer {self.cluster.api_key}"), ("X-Try", str(self.asked)))
        return await deferToThread(_visit, port, ask, host, marked), self._seen(str(self.asked))

    def _seen(self, number: str) -> ReceivedRequest:
        record = next(r for r in self.fake_ollama.requests if r.header("x-try") == number)
        pattern = re.compile(_HEAD % number.encode())
        head = next(found[0] for data in self.streams if (found := pattern.search(data)))
        line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (each.partition(": ") for each in lines)
        return ReceivedRequest(line, tuple((name, value) for name, _, value in pairs), record)


def _visit(port: int, ask: RawRequest, host: str, more: Headers) -> RawResponse:
    client = RawConnection(port)
    try:
        answer = client.request(ask, host, more)
        if answer.framing != "close" and answer.header("connection") != "close" and answer.whole:
            _still_in_step(client, host, more)
        return answer
    finally:
        client.close()


def _still_in_step(client: RawConnection, host: str, more: Headers) -> None:
    """The next answer on the same connection is that of the next request."""
    credentials = tuple(header for header in more if header[0] == "Authorization")
    after = client.request(RawRequest("GET", "/api/version"), host, credentials)
    assert (after.status, after.body) == (200, b'{"version":"0.12.6"}'), after


def tapped(fake_ollama: FakeOllama) -> list[bytearray]:
    """What arrives at the fake Ollama from now on, a byte string for each connection."""
    streams: list[bytearray] = []
    build = fake_ollama.site.buildProtocol

    def buildProtocol(addr: Any) -> Any:
        protocol, read = build(addr), bytearray()
        streams.append(read)
        receive = protocol.dataReceived

        def dataReceived(data: bytes) -> None:
            read.extend(data)
            receive(data)

        protocol.dataReceived = dataReceived
        return protocol

    fake_ollama.site.buildProtocol = buildProtocol  # type: ignore[method-assign]
    return streams


async def mirrored_cluster(cluster: Cluster, *cloud_options: str) -> MirroredCluster:
    """Start everything."""
    await cluster.start_cloud(*cloud_options)
    models = ("llama3.2", "nomic-embed-text")
    fake_ollama = FakeOllama(FrozenClock(), models, word_interval=0.0, now=FrozenClock().seconds)
    streams = tapped(fake_ollama)
    listening = listen(reactor, fake_ollama.site)
    cluster.ports.append(listening)
    port = port_of(listening)
    await cluster.start_desktop("alice", port, "--allowed-requests=*")
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--manage", "tests")
    await cluster.wait_for_api_key()
    return MirroredCluster(cluster, fake_ollama, port, streams)
