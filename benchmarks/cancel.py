"""The time from a client's disconnect to that of the model server, in each phase of a request.

`python -m benchmarks.cancel` from the root of the repository; `--write` stores the table in
benchmarks/README.md. The clients and the model server are in this process, so that one clock
times both ends. Between them are a cloud, a streaming proxy and a desktop.
"""

from __future__ import annotations

import argparse
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks import report
from benchmarks.command_line import print_progress
from benchmarks.paths import RequestPath, ctllm_with_gateway

TRIES = 200
TIMEOUT = 10.0
PHASE_SECONDS = 0.005
"""Seconds that a phase lasts before its client disconnects."""

RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LINE = b'c\r\n{"a": "bc"}\n\r\n'
FIXED_RESPONSES = {
    b"/api/version": b'{"version":"0.12.6"}',
    b"/api/tags": b'{"models":[{"name":"m"}]}',
}


class ModelServer:
    """Responds according to `phase`, and puts the times of closes into `closes`."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.phase = ""
        self.starts: queue.Queue[None] = queue.Queue()
        self.closes: queue.Queue[float] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while head := _read_head(connection):
                response = FIXED_RESPONSES.get(head.split(b" ")[1])
                if response is None:
                    break
                response_head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(response)
                connection.sendall(response_head + response)
            else:
                return
            self.starts.put(None)
            with suppress(OSError):  # a reset counts as a close
                self._respond_until_closed(connection)
            self.closes.put(time.monotonic())

    def _respond_until_closed(self, connection: socket.socket) -> None:
        if self.phase == "streaming":
            connection.sendall(RESPONSE_HEAD)
            connection.settimeout(0.02)
        while True:
            try:
                if not connection.recv(65536):
                    return
            except TimeoutError:
                connection.sendall(LINE)


def _read_head(connection: socket.socket) -> bytes:
    """The head of the next request; empty if the client closed the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b""
        received += piece
    return received


def _send_request(
    request_path: RequestPath, target: str, length: int, body: bytes
) -> socket.socket:
    host, port = request_path.address.split(":")
    client = socket.create_connection((host, int(port)), timeout=TIMEOUT)
    headers = "".join(f"{name}: {value}\r\n" for name, value in request_path.users[0].items())
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def loading(request_path: RequestPath) -> socket.socket:
    """A client that has sent a complete request and has no response yet."""
    body = b'{"model":"m"}'
    return _send_request(request_path, "/api/chat", len(body), body)


def streaming(request_path: RequestPath) -> socket.socket:
    """A client that has received the first line."""
    client = loading(request_path)
    received = b""
    while LINE not in received:
        received += client.recv(65536)
    return client


def uploading(request_path: RequestPath) -> socket.socket:
    """A client that has sent a part of a large blob."""
    return _send_request(request_path, "/api/blobs/sha256:" + "0" * 64, 1 << 30, bytes(200_000))


def not_streaming(request_path: RequestPath) -> socket.socket:
    """A client that waits for a response that is not streamed."""
    body = b'{"model":"m","stream":false}'
    return _send_request(request_path, "/api/chat", len(body), body)


def queued(request_path: RequestPath) -> socket.socket:
    """A client of the OpenAI API whose request is in the model server's queue."""
    body = b'{"model":"m","stream":true,"messages":[]}'
    return _send_request(request_path, "/v1/chat/completions", len(body), body)


# For a relay the first three are the same: the request is complete, and no response has begun.
PHASES: dict[str, Callable[[RequestPath], socket.socket]] = {
    "queued": queued,
    "the model loads": loading,
    "waiting for an answer that does not stream": not_streaming,
    "streaming": streaming,
    "uploading": uploading,
}


def measure(request_path: RequestPath, server: ModelServer, phase: str, count: int) -> list[float]:
    """Milliseconds from the close of each client to that at the model server, sorted."""
    server.phase = phase
    times_ms = []
    for _ in range(count):
        client = PHASES[phase](request_path)
        server.starts.get(timeout=TIMEOUT)
        time.sleep(PHASE_SECONDS)  # so that the phase itself is measured, not its start
        closed_at = time.monotonic()
        client.close()
        times_ms.append((server.closes.get(timeout=TIMEOUT) - closed_at) * 1000)
    return sorted(times_ms)


def text(times: dict[str, list[float]]) -> str:
    """The results as a table."""
    rows = [["the client leaves while", "tries", "p50 ms", "p99 ms", "most ms"]]
    for phase, times_ms in times.items():
        p50, p99 = report.quantile_of(times_ms, 0.5), report.quantile_of(times_ms, 0.99)
        rows.append([phase, str(len(times_ms)), *map(report.number, (p50, p99, times_ms[-1]))])
    return report.table(rows)


def main() -> None:
    """Measure each phase, print the table, and store it with --write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cancel", description=__doc__)
    parser.add_argument("--tries", type=int, default=TRIES, help="number of tries of each phase")
    parser.add_argument("--write", action="store_true", help="store the table in README.md")
    args = parser.parse_args()
    server, times = ModelServer(), {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        request_path = ctllm_with_gateway(stack, Path(folder), server.port)
        for phase in PHASES:
            print_progress(f"Disconnecting while {phase}")
            times[phase] = measure(request_path, server, phase, args.tries)
    print(text(times))
    if args.write:
        report.write(text(times), "cancel")


if __name__ == "__main__":
    main()
