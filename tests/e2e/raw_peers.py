"""A raw Ollama that records every byte, and raw connections to each entry point."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from ctllm.auth.session_assertions import MANAGE, USE
from ctllm.cloud.identity import AssertionSigner, PrivateDirectory, load_signing_keys
from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.process_info import child_pids, option
from tests.ports import free_port, listen, port_of

OK_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class _RawOllamaConnection(Protocol):
    """One connection; sends the configured response to each request."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.read = b""

    def dataReceived(self, data: bytes) -> None:
        self.factory.ollama.received += data
        self.read += data
        while (end := self._request_end()) is not None:
            raw, self.read = self.read[:end], self.read[end:]
            self._respond(raw)

    def _request_end(self) -> int | None:
        """Return where the first request ends, or None while it is incomplete."""
        head = self.read.find(b"\r\n\r\n") + 4
        if head < 4:
            return None
        if b"\r\ntransfer-encoding:" in self.read[:head].lower():
            last = self.read.find(b"0\r\n\r\n", head)
            return None if last < 0 else last + 5
        content_length = _CONTENT_LENGTH.search(self.read[:head])
        end = head + (int(content_length[1]) if content_length else 0)
        return end if len(self.read) >= end else None

    def _respond(self, raw: bytes) -> None:
        ollama = self.factory.ollama
        target = raw.split(b" ", 2)[1]
        if target not in (b"/api/version", b"/api/tags", b"/api/ps"):
            ollama.requests.append(raw)
        response, close = ollama.responses.get(target, (OK_RESPONSE, False))
        if callable(response):
            response(self.transport)
            return
        self.transport.write(response)
        if close:
            self.transport.loseConnection()


class RawOllama:
    """A server that records requests as bytes and sends any bytes as responses.

    `responses` maps a target to the response's bytes (or a function of the transport) and whether
    the connection closes after it. The desktop's own requests are not in `requests`.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.received = b""
        self.requests: list[bytes] = []
        self.responses: dict[bytes, tuple[bytes | Callable[[Any], None], bool]] = {}
        factory = Factory.forProtocol(_RawOllamaConnection)
        factory.ollama = self  # type: ignore[attr-defined]
        port = listen(reactor, factory)
        cluster.ports.append(port)
        self.port = port_of(port)


@dataclass(frozen=True)
class EntryPoint:
    """A server that accepts clients' requests, and the header that authenticates there."""

    name: str
    connect: Callable[[], socket.socket]
    credential_header: bytes

    async def send(self, data: bytes, timeout: float = 30.0) -> bytes:
        """Send bytes on a new connection; return what is received until close or 1 s of silence."""
        return await deferToThread(self._exchange, data, timeout)

    def _exchange(self, data: bytes, timeout: float) -> bytes:
        received = b""
        with self.connect() as connection:
            connection.settimeout(timeout)
            try:
                connection.sendall(data)
                while chunk := connection.recv(65536):
                    received += chunk
                    connection.settimeout(1.0)
            except (TimeoutError, ConnectionResetError, BrokenPipeError):
                pass
        return received


def _tcp(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=30)


def _unix(path: str) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return connection

    return connect


@dataclass
class RawCluster:
    """A cloud, proxy and desktop in front of a raw Ollama, and their three entry points."""

    cluster: Cluster
    cloud: ChildProcess
    desktop: ChildProcess
    ollama: RawOllama
    entry_points: dict[str, EntryPoint]

    async def check_serves(self) -> None:
        """Fail the test unless a valid request succeeds."""
        status, _, body = await self.cluster.request("POST", "/alive", b"x", self.cluster.api_key)
        assert status == 200, body


async def start_raw_cluster(cluster: Cluster, *options: str) -> RawCluster:
    """Start a cloud, and alice's proxy and desktop; the desktop's endpoint listens."""
    endpoint = free_port()
    ollama = RawOllama(cluster)
    cloud = await cluster.start_cloud(*options)
    desktop = await cluster.start_desktop(
        "alice", ollama.port, f"--desktop-listen=127.0.0.1:{endpoint}", "--allowed-requests=*"
    )
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--scope=manage", "tests")
    await cluster.wait_for_api_key()
    (proxy,) = child_pids(cloud.pid)
    keys = load_signing_keys(PrivateDirectory(cluster.state_dir("cloud") / "cloud"))
    assertion = AssertionSigner(keys.signing_key, time.time).sign(
        option(proxy, "id"), frozenset({USE, MANAGE})
    )
    await wait_until(lambda: ollama.received, "the desktop to send a request to its Ollama")
    entry_points = (
        EntryPoint(
            "cloud", _tcp(cluster.cloud_port), f"Authorization: Bearer {cluster.api_key}".encode()
        ),
        EntryPoint(
            "proxy", _unix(option(proxy, "socket")), f"Ctllm-Assertion: {assertion}".encode()
        ),
        EntryPoint("endpoint", _tcp(endpoint), b"X-Nothing: needed"),
    )
    return RawCluster(cluster, cloud, desktop, ollama, {each.name: each for each in entry_points})
