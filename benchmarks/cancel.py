"""How soon a model server hears that a client left, in each phase of an exchange.

`python -m benchmarks.cancel` from the root of the repository; `--write` keeps the table in
benchmarks/README.md. The clients and the model server are in this process, so both ends are timed
by one clock; in between are a cloud, a streaming proxy and a desktop as they always run.
"""

from __future__ import annotations

import argparse
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks import report
from benchmarks.paths import Way, ctllm_front

TRIES = 200
PATIENCE = 10.0
CALM = 0.005
"""Seconds that a phase lasts before its client leaves."""

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LINE = b'c\r\n{"a": "bc"}\n\r\n'
KNOWN = {b"/api/version": b'{"version":"0.12.6"}', b"/api/tags": b'{"models":[{"name":"m"}]}'}


class ModelServer:
    """Answers as `phase` says; puts the time at which each connection was closed into `ends`."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listening.getsockname()[1]
        self.phase = ""
        self.begun: queue.Queue[None] = queue.Queue()
        self.ends: queue.Queue[float] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while asked := _head(connection):
                answer = KNOWN.get(asked.split(b" ")[1])
                if answer is None:
                    break
                size = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer)
                connection.sendall(size + answer)
            else:
                return
            self.begun.put(None)
            with suppress(OSError):  # a reset is an end as well
                self._until_closed(connection)
            self.ends.put(time.monotonic())

    def _until_closed(self, connection: socket.socket) -> None:
        if self.phase == "streaming":
            connection.sendall(HEAD)
            connection.settimeout(0.02)
        while True:
            try:
                if not connection.recv(65536):
                    return
            except TimeoutError:
                connection.sendall(LINE)


def _head(connection: socket.socket) -> bytes:
    """The next request's head; nothing when the other side closed."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(65536)
        if not piece:
            return b""
        got += piece
    return got


def _ask(way: Way, path: str, length: int, body: bytes) -> socket.socket:
    host, port = way.address.split(":")
    client = socket.create_connection((host, int(port)), timeout=PATIENCE)
    headers = "".join(f"{name}: {value}\r\n" for name, value in way.headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def asked(way: Way) -> socket.socket:
    """A client whose question is whole, and that has no answer yet."""
    body = b'{"model":"m"}'
    return _ask(way, "/api/chat", len(body), body)


def streaming(way: Way) -> socket.socket:
    """A client that has had the first line."""
    client = asked(way)
    got = b""
    while LINE not in got:
        got += client.recv(65536)
    return client


def uploading(way: Way) -> socket.socket:
    """A client that has sent some of a large blob."""
    return _ask(way, "/api/blobs/sha256:" + "0" * 64, 1 << 30, bytes(200_000))


def asked_for_one(way: Way) -> socket.socket:
    """A client that waits for an answer that does not stream."""
    body = b'{"model":"m","stream":false}'
    return _ask(way, "/api/chat", len(body), body)


def queued(way: Way) -> socket.socket:
    """A client of another API, whose request waits for its turn."""
    body = b'{"model":"m","stream":true,"messages":[]}'
    return _ask(way, "/v1/chat/completions", len(body), body)


# To a relay the first three are alike: the question is whole, and nothing has come.
PHASES: dict[str, Callable[[Way], socket.socket]] = {
    "queued": queued,
    "the model loads": asked,
    "waiting for an answer that does not stream": asked_for_one,
    "streaming": streaming,
    "uploading": uploading,
}


def tries(way: Way, server: ModelServer, phase: str, count: int) -> list[float]:
    """Milliseconds from each client's close to the model server's end of it, sorted."""
    server.phase = phase
    found = []
    for _ in range(count):
        client = PHASES[phase](way)
        server.begun.get(timeout=PATIENCE)
        time.sleep(CALM)  # so that it is the phase, and not its beginning, that is left
        left = time.monotonic()
        client.close()
        found.append((server.ends.get(timeout=PATIENCE) - left) * 1000)
    return sorted(found)


def text(times: dict[str, list[float]]) -> str:
    """The table."""
    rows = [["the client leaves while", "tries", "p50 ms", "p99 ms", "most ms"]]
    for phase, found in times.items():
        p50, p99 = report.at(found, 0.5), report.at(found, 0.99)
        rows.append([phase, str(len(found)), *map(report.number, (p50, p99, found[-1]))])
    return report.table(rows)


def main() -> None:
    """Measure each phase, print, and keep the table if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cancel", description=__doc__)
    parser.add_argument("--tries", type=int, default=TRIES, help="of each phase")
    parser.add_argument("--write", action="store_true", help="keep the table in README.md")
    asked_for = parser.parse_args()
    server, times = ModelServer(), {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        way = ctllm_front(stack, Path(folder), server.port)
        for phase in PHASES:
            print(f"leaving while {phase} …", file=sys.stderr)
            times[phase] = tries(way, server, phase, asked_for.tries)
    print(text(times))
    if asked_for.write:
        report.write(text(times), "cancel")


if __name__ == "__main__":
    main()
