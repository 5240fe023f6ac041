"""A blocking client that sees bytes as they are, and the network that it may be put behind."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.e2e.network_relay import NetworkRelay

__all__ = ["NetworkRelay", "RawClient", "parse_chunked_body"]


class RawClient:
    """A blocking client on a plain socket, for use in a thread: sees bytes as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.received = b""

    def send_request(
        self, method: str, path: str, token: str, body: Any = None, *headers: str
    ) -> RawClient:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
        lines += [f"Content-Length: {len(data)}", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode() + data)
        return self

    def read_until(self, marker: bytes) -> bytes:
        """Read until `what` was received; gives all received so far."""
        while marker not in self.received:
            piece = self.socket.recv(65536)
            assert piece, f"closed before {marker!r}: {self.received[-500:]!r}"
            self.received += piece
        return self.received

    def read_lines(self, count: int) -> bytes:
        """Read until so many lines of the body were received."""
        self.read_until(b"\r\n\r\n")
        while self.received.count(b"\n{") + self.received.count(b"\r\n{") < count:
            piece = self.socket.recv(65536)
            assert piece, self.received
            self.received += piece
        return self.received

    def read_to_end(self) -> bytes:
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

    def read_head(self) -> dict[str, str]:
        """The answer's headers (lower-case names), with its status under "status"."""
        raw = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[0].decode("latin-1")
        first, *lines = raw.split("\r\n")
        found = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        return {**found, "status": first.split(" ")[1]}


def parse_chunked_body(received: bytes) -> tuple[bytes, bool]:
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
