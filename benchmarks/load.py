"""The load: many clients in a separate process, with as little overhead as possible.

`python -m benchmarks.load ORDER` takes one order as JSON and prints one result as JSON. It stores
data with the time of arrival and parses it when all streams have ended, so that parsing does not
affect the measurement.
"""

from __future__ import annotations

import errno
import gc
import json
import re
import resource
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import cycle
from typing import Any

from benchmarks.processes import machine_seconds

CREATED_AT = re.compile(rb'"created_at":"([^"]+)"')
CONNECTING = (errno.EINPROGRESS, 0)


@dataclass(frozen=True)
class Order:
    """The requests to send.

    `address` is `host:port` or `unix:path`. Each of `rounds` rounds starts `streams` requests at
    once, of all `users` in turn, each of which has its headers. It aborts them after `seconds`,
    which counts as failure unless `endless`. If `timed`, latency is computed from the `created_at`
    of each line.
    """

    address: str
    users: tuple[dict[str, str], ...]
    streams: int
    seconds: float
    rounds: int = 1
    endless: bool = False
    timed: bool = True


@dataclass
class Result:
    """Latencies and times to the first byte in milliseconds, CPU time in seconds.

    `cpu` is the CPU time of this process, `machine` that of everything in the same time.
    """

    lines: int = 0
    seconds: float = 0.0
    failed: int = 0
    reason: str = ""
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    cpu: float = 0.0
    machine: float = 0.0


class Stream:
    """One client connection."""

    __slots__ = ("chunks", "first", "has_ended", "lines", "request", "socket", "start", "tail")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.start = time.time()
        self.first = 0.0
        self.chunks: list[tuple[float, bytes]] = []
        self.lines = 0
        self.tail = b""
        self.has_ended = False
        self.socket: Any = None

    def connect(self, address: str) -> bool:
        """Start to connect; returns False if the backlog of a UNIX socket is full."""
        family: int = socket.AF_UNIX
        target: Any = address.removeprefix("unix:")
        if not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            family, target = socket.AF_INET, (host, int(port))
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        error = self.socket.connect_ex(target)
        if error in CONNECTING:
            return True
        self.socket.close()
        if error == errno.EAGAIN:
            return False
        raise OSError(error, errno.errorcode[error])

    def failure(self, endless: bool) -> str:
        """The reason of the failure, or an empty string."""
        begin = self.chunks[0][1] if self.chunks else b""
        if not begin.startswith(b"HTTP/1.1 200"):
            return begin[:200].decode("latin-1") or "no answer in time"
        if endless:
            return "ended early" if self.has_ended else ""
        return "" if b'"done":true' in self.tail else "no clean end"


class Load:
    """One round of an order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._requests = [request(headers) for headers in order.users]
        self._epoll = select.epoll()
        self._open: dict[int, Stream] = {}
        self._waiting: list[Stream] = []
        self.streams: list[Stream] = []

    def run(self) -> None:
        """Open all streams at once and read until they end or the time has elapsed."""
        deadline = time.time() + self._order.seconds
        self._waiting = self.streams = [
            Stream(request)
            for _, request in zip(range(self._order.streams), cycle(self._requests), strict=False)
        ]
        self._connect_waiting()
        while (self._open or self._waiting) and time.time() < deadline:
            for fd, events in self._epoll.poll(0.001 if self._waiting else 0.1, 256):
                self._handle_event(fd, events)
            if self._waiting:
                self._connect_waiting()
        for stream in self._open.values():
            stream.socket.close()
        self._epoll.close()

    def _connect_waiting(self) -> None:
        still_waiting = []
        for stream in self._waiting:
            try:
                is_connecting = stream.connect(self._order.address)
            except OSError:
                continue  # refused: it has no response and counts as failed
            if is_connecting:
                fd = stream.socket.fileno()
                self._open[fd] = stream
                self._epoll.register(fd, select.EPOLLOUT)
            else:
                still_waiting.append(stream)
        self._waiting = still_waiting

    def _handle_event(self, fd: int, events: int) -> None:
        stream = self._open[fd]
        try:
            if events & select.EPOLLOUT:
                stream.socket.send(stream.request)
                self._epoll.modify(fd, select.EPOLLIN)
                return
            data = stream.socket.recv(65536)
        except OSError:
            data = b""
        if data:
            self._store_data(stream, data)
        else:
            stream.has_ended = True
            del self._open[fd]
            stream.socket.close()

    def _store_data(self, stream: Stream, data: bytes) -> None:
        now = time.time()
        if not stream.first:
            stream.first = now
        if self._order.timed or not stream.chunks:
            stream.chunks.append((now, data))
        # Each line has one "{". A single byte cannot be split between reads.
        stream.lines += data.count(b"{")
        stream.tail = data[-400:] if len(data) >= 400 else stream.tail[-400:] + data


def request(headers: dict[str, str]) -> bytes:
    """A request for a streamed response, with `Connection: close`."""
    body = json.dumps({"model": "m", "prompt": "go"}).encode()
    head = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [f"{name}: {value}\r\n" for name, value in head.items()]
    return ("POST /api/generate HTTP/1.1\r\n" + "".join(lines) + "\r\n").encode() + body


def latencies(chunks: list[tuple[float, bytes]]) -> list[float]:
    """Milliseconds from the `created_at` of each line to the arrival of its end."""
    found, rest = [], b""
    for arrived, data in chunks:
        complete_lines, _, rest = (rest + data).rpartition(b"\n")
        for stamp in CREATED_AT.findall(complete_lines):
            created_at = datetime.fromisoformat(stamp.decode()).timestamp()
            found.append((arrived - created_at) * 1000)
    return found


def quantiles(values: list[float]) -> list[float]:
    """Sort `values` and reduce them to at most 1,001 quantiles."""
    values = sorted(values)
    if len(values) <= 1001:
        return values
    return [values[min(len(values) - 1, i * len(values) // 1000)] for i in range(1001)]


def run_order(order: Order) -> Result:
    """Run all rounds of an order."""
    result, start, cpu = Result(), time.time(), time.process_time()
    machine = machine_seconds()
    latency: list[float] = []
    loads = []
    for _ in range(order.rounds):
        load = Load(order)
        load.run()
        loads.append(load)
    result.seconds, result.cpu = time.time() - start, time.process_time() - cpu
    result.machine = machine_seconds() - machine
    for stream in (stream for load in loads for stream in load.streams):
        result.lines += stream.lines
        failure = stream.failure(order.endless)
        result.failed += bool(failure)
        result.reason = result.reason or failure
        if stream.first:
            result.first.append((stream.first - stream.start) * 1000)
        if order.timed:
            latency += latencies(stream.chunks)
    result.latency, result.first = quantiles(latency), quantiles(result.first)
    return result


def main() -> None:
    """Run the order in the command line and print its result."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    gc.disable()
    print(json.dumps(asdict(run_order(Order(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
