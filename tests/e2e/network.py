"""A piece of network under a test's control: a TCP relay that can cut, and hold back."""

from __future__ import annotations

import json
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol


class Half(Protocol):
    """One connection of a pair."""

    def __init__(self) -> None:
        self.peer: Half | None = None
        self.early = b""

    def dataReceived(self, data: bytes) -> None:
        if self.peer is None:
            self.early += data
        else:
            self.peer.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.transport.loseConnection()


class Wire(Factory):
    """Listens on `port`, forwards to `target`; `cut` ends all connections at once."""

    noisy = False

    def __init__(self, target: int) -> None:
        self._target = target
        self._halves: list[Half] = []
        self.accepted = 0
        self.listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.port: int = self.listening.getHost().port

    def buildProtocol(self, addr: Any) -> Half:
        self.accepted += 1
        near = Half()
        self._halves.append(near)
        dialling = TCP4ClientEndpoint(reactor, "127.0.0.1", self._target).connect(
            Factory.forProtocol(Half)
        )
        dialling.addCallbacks(lambda far: self._join(near, far), lambda _: self._refuse(near))
        return near

    def _join(self, near: Half, far: Half) -> None:
        self._halves.append(far)
        near.peer, far.peer = far, near
        far.transport.write(near.early)

    def _refuse(self, near: Half) -> None:
        near.transport.abortConnection()

    def cut(self) -> None:
        """Reset every connection, both ways."""
        halves, self._halves = self._halves, []
        for half in halves:
            half.peer = None
            if half.transport is not None:
                half.transport.abortConnection()

    def stopListening(self) -> Any:
        self.cut()
        return self.listening.stopListening()


class RawClient:
    """A blocking client on a plain socket, for use in a thread: sees bytes as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.received = b""

    def ask(self, method: str, path: str, token: str, body: Any = None, *headers: str) -> RawClient:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
        lines += [f"Content-Length: {len(data)}", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode() + data)
        return self

    def until(self, what: bytes) -> bytes:
        """Read until `what` was received; gives all received so far."""
        while what not in self.received:
            piece = self.socket.recv(65536)
            assert piece, f"closed before {what!r}: {self.received[-500:]!r}"
            self.received += piece
        return self.received

    def lines(self, count: int) -> bytes:
        """Read until so many lines of the body were received."""
        self.until(b"\r\n\r\n")
        while self.received.count(b"\n{") + self.received.count(b"\r\n{") < count:
            piece = self.socket.recv(65536)
            assert piece, self.received
            self.received += piece
        return self.received

    def rest(self) -> bytes:
        """Read until the other side closes."""
        while True:
            try:
                piece = self.socket.recv(65536)
            except ConnectionResetError:
                return self.received
            if not piece:
                return self.received
            self.received += piece

    def close(self) -> None:
        self.socket.close()

    def head(self) -> dict[str, str]:
        """The answer's headers (lower-case names), with its status under "status"."""
        raw = self.until(b"\r\n\r\n").partition(b"\r\n\r\n")[0].decode("latin-1")
        first, *lines = raw.split("\r\n")
        found = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        return {**found, "status": first.split(" ")[1]}


def body_of(received: bytes) -> tuple[bytes, bool]:
    """The body of a raw chunked answer, and whether its last chunk came."""
    _, _, rest = received.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, found, rest = rest.partition(b"\r\n")
        if not found or not size:
            return body, False
        length = int(size, 16)
        if length == 0:
            return body, True
        body += rest[:length]
        if len(rest) < length + 2:
            return body, False
        rest = rest[length + 2 :]
    return body, False
