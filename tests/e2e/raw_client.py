"""A blocking HTTP client on a plain socket, for tests that check the bytes on the wire."""

from __future__ import annotations

import json
import socket
from typing import Any


class RawClient:
    """A blocking client that records the received bytes; for use in a thread."""

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
        """Read until `marker` is received; return all bytes received so far."""
        while marker not in self.received:
            data = self.socket.recv(65536)
            assert data, f"The connection closed before {marker!r}: {self.received[-500:]!r}"
            self.received += data
        return self.received

    def read_lines(self, count: int) -> bytes:
        """Read until `count` lines of the body are received; return all bytes received so far."""
        self.read_until(b"\r\n\r\n")
        while self.received.count(b"\n{") + self.received.count(b"\r\n{") < count:
            data = self.socket.recv(65536)
            assert data, self.received
            self.received += data
        return self.received

    def read_to_end(self) -> bytes:
        """Read until the connection closes; return all bytes received."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return self.received
            if not data:
                return self.received
            self.received += data

    def close(self) -> None:
        self.socket.close()

    def read_head(self) -> dict[str, str]:
        """Return the response's headers (lower-case names) and, under "status", its status."""
        raw = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[0].decode("latin-1")
        first, *lines = raw.split("\r\n")
        headers = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        return {**headers, "status": first.split(" ")[1]}


def parse_chunked_body(received: bytes) -> tuple[bytes, bool]:
    """Parse a raw chunked response; return its body and whether the last chunk was received."""
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
