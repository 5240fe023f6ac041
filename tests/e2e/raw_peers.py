"""For tests of what hostile peers send: an Ollama that keeps every byte, and doors to send at."""

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

GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class _Ollama(Protocol):
    """One connection: answers each request as it was told to."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.read = b""

    def dataReceived(self, data: bytes) -> None:
        self.factory.ollama.bytes += data
        self.read += data
        while (end := self._end()) is not None:
            raw, self.read = self.read[:end], self.read[end:]
            self._answer(raw)

    def _end(self) -> int | None:
        """Where the first request ends, if it is whole."""
        head = self.read.find(b"\r\n\r\n") + 4
        if head < 4:
            return None
        if b"\r\ntransfer-encoding:" in self.read[:head].lower():
            last = self.read.find(b"0\r\n\r\n", head)
            return None if last < 0 else last + 5
        said = _LENGTH.search(self.read[:head])
        end = head + (int(said[1]) if said else 0)
        return end if len(self.read) >= end else None

    def _answer(self, raw: bytes) -> None:
        ollama = self.factory.ollama
        target = raw.split(b" ", 2)[1]
        if target not in (b"/api/version", b"/api/tags", b"/api/ps"):
            ollama.requests.append(raw)
        answer, close = ollama.answers.get(target, (GOOD, False))
        if callable(answer):
            answer(self.transport)
            return
        self.transport.write(answer)
        if close:
            self.transport.loseConnection()


class RawOllama:
    """A bare server: keeps the requests as bytes, and answers with whatever it is told.

    `answers` maps a target to the answer's bytes (or a function of the transport) and whether
    the connection closes after it. What the desktop asks by itself is not in `requests`.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.bytes = b""
        self.requests: list[bytes] = []
        self.answers: dict[bytes, tuple[bytes | Callable[[Any], None], bool]] = {}
        factory = Factory.forProtocol(_Ollama)
        factory.ollama = self  # type: ignore[attr-defined]
        port = listen(reactor, factory)
        cluster.ports.append(port)
        self.port = port_of(port)


@dataclass(frozen=True)
class EntryPoint:
    """A place that takes requests: how to connect to it, and the line that lets one in."""

    name: str
    connect: Callable[[], socket.socket]
    credential: bytes

    async def send(self, data: bytes, patience: float = 30.0) -> bytes:
        """Send bytes on a new connection; all that comes until it closes or is silent for 1 s."""
        return await deferToThread(self._say, data, patience)

    def _say(self, data: bytes, patience: float) -> bytes:
        heard = b""
        with self.connect() as wire:
            wire.settimeout(patience)
            try:
                wire.sendall(data)
                while piece := wire.recv(65536):
                    heard += piece
                    wire.settimeout(1.0)
            except (TimeoutError, ConnectionResetError, BrokenPipeError):
                pass
        return heard


def _tcp(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=30)


def _unix(path: str) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(path)
        return made

    return connect


@dataclass
class RawCluster:
    """A whole line with a raw Ollama at its end, and its three doors."""

    cluster: Cluster
    cloud: ChildProcess
    desktop: ChildProcess
    ollama: RawOllama
    doors: dict[str, EntryPoint]

    async def lives(self) -> None:
        """Fails the test unless a good request goes through now."""
        status, _, said = await self.cluster.request("POST", "/alive", b"x", self.cluster.api_key)
        assert status == 200, said


async def start_raw_cluster(cluster: Cluster, *options: str) -> RawCluster:
    """A cloud, alice's desktop with its endpoint open, and her proxy."""
    endpoint = free_port()
    ollama = RawOllama(cluster)
    cloud = await cluster.start_cloud(*options)
    desktop = await cluster.start_desktop(
        "alice", ollama.port, f"--desktop-listen=127.0.0.1:{endpoint}", "--allowed-requests=*"
    )
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--manage", "tests")
    await cluster.wait_for_api_key()
    (proxy,) = child_pids(cloud.pid)
    keys = load_signing_keys(PrivateDirectory(cluster.state_dir("cloud") / "cloud"))
    word = AssertionSigner(keys.signing_key, time.time).sign(
        option(proxy, "id"), frozenset({USE, MANAGE})
    )
    await wait_until(lambda: ollama.bytes, "the desktop to ask its Ollama")
    doors = (
        EntryPoint(
            "cloud", _tcp(cluster.cloud_port), f"Authorization: Bearer {cluster.api_key}".encode()
        ),
        EntryPoint("proxy", _unix(option(proxy, "socket")), f"Ctllm-Assertion: {word}".encode()),
        EntryPoint("endpoint", _tcp(endpoint), b"X-Nothing: needed"),
    )
    return RawCluster(cluster, cloud, desktop, ollama, {door.name: door for door in doors})
