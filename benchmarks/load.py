"""The load: many clients in one process of its own, as cheap as Python can make them.

`python -m benchmarks.load ORDER` takes one order as JSON and prints one result as JSON. What comes
is kept as it comes, with its time, and read only when all is over, so that the load itself stays
out of the figures.
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
from typing import Any

from benchmarks.processes import machine_seconds

STAMP = re.compile(rb'"created_at":"([^"]+)"')
CONNECTING = (errno.EINPROGRESS, 0)


@dataclass(frozen=True)
class Order:
    """What to do.

    `address` is `host:port` or `unix:path`; `streams` requests are open at a time, all from the
    start, and `rounds` times one after the other; after `seconds` they are cut off, which is
    failure unless `endless`. `timed` reads each line's `created_at`.
    """

    address: str
    headers: dict[str, str]
    streams: int
    seconds: float
    rounds: int = 1
    endless: bool = False
    timed: bool = True


@dataclass
class Result:
    """What came: latencies and times to the first byte in milliseconds, CPU in seconds.

    `machine` is the CPU time of everything that ran meanwhile.
    """

    lines: int = 0
    seconds: float = 0.0
    failed: int = 0
    why: str = ""
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    cpu: float = 0.0
    machine: float = 0.0


class Stream:
    """One client."""

    __slots__ = ("begun", "chunks", "first", "lines", "over", "socket", "tail")

    def __init__(self) -> None:
        self.begun = time.time()
        self.first = 0.0
        self.chunks: list[tuple[float, bytes]] = []
        self.lines = 0
        self.tail = b""
        self.over = False
        self.socket: Any = None

    def dial(self, address: str) -> bool:
        """Begin to connect; False where a UNIX socket's queue is full now."""
        family: int = socket.AF_UNIX
        where: Any = address.removeprefix("unix:")
        if not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            family, where = socket.AF_INET, (host, int(port))
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        done = self.socket.connect_ex(where)
        if done in CONNECTING:
            return True
        self.socket.close()
        if done == errno.EAGAIN:
            return False
        raise OSError(done, errno.errorcode[done])

    def wrong(self, endless: bool) -> str:
        """Why this one failed, or nothing."""
        begin = self.chunks[0][1] if self.chunks else b""
        if not begin.startswith(b"HTTP/1.1 200"):
            return begin[:200].decode("latin-1") or "no answer in time"
        if endless:
            return "ended early" if self.over else ""
        return "" if b'"done":true' in self.tail else "no clean end"


class Load:
    """Runs one round of an order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._request = request(order.headers)
        self._epoll = select.epoll()
        self._open: dict[int, Stream] = {}
        self._waiting: list[Stream] = []
        self.streams: list[Stream] = []

    def run(self) -> None:
        """Open all streams at once and read until they end or the time is over."""
        end = time.time() + self._order.seconds
        self._waiting = self.streams = [Stream() for _ in range(self._order.streams)]
        self._dial()
        while (self._open or self._waiting) and time.time() < end:
            for number, events in self._epoll.poll(0.001 if self._waiting else 0.1, 256):
                self._event(number, events)
            if self._waiting:
                self._dial()
        for stream in self._open.values():
            stream.socket.close()
        self._epoll.close()

    def _dial(self) -> None:
        left = []
        for stream in self._waiting:
            try:
                begun = stream.dial(self._order.address)
            except OSError:
                continue  # refused: it has no answer and counts as failed
            if begun:
                number = stream.socket.fileno()
                self._open[number] = stream
                self._epoll.register(number, select.EPOLLOUT)
            else:
                left.append(stream)
        self._waiting = left

    def _event(self, number: int, events: int) -> None:
        stream = self._open[number]
        try:
            if events & select.EPOLLOUT:
                stream.socket.send(self._request)
                self._epoll.modify(number, select.EPOLLIN)
                return
            data = stream.socket.recv(65536)
        except OSError:
            data = b""
        if data:
            self._take(stream, data)
        else:
            stream.over = True
            del self._open[number]
            stream.socket.close()

    def _take(self, stream: Stream, data: bytes) -> None:
        now = time.time()
        if not stream.first:
            stream.first = now
        if self._order.timed or not stream.chunks:
            stream.chunks.append((now, data))
        stream.lines += data.count(b"{")  # one in each line, and one byte is never split
        stream.tail = data[-400:] if len(data) >= 400 else stream.tail[-400:] + data


def request(headers: dict[str, str]) -> bytes:
    """Give one request that streams, on a connection that closes after it."""
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
    """Milliseconds from each line's stamp to the arrival of its end."""
    found, rest = [], b""
    for arrived, data in chunks:
        whole, _, rest = (rest + data).rpartition(b"\n")
        for stamp in STAMP.findall(whole):
            made = datetime.fromisoformat(stamp.decode()).timestamp()
            found.append((arrived - made) * 1000)
    return found


def quantiles(values: list[float]) -> list[float]:
    """Thin out sorted `values` to 1,001 that stand for all, to hand over."""
    values = sorted(values)
    if len(values) <= 1001:
        return values
    return [values[min(len(values) - 1, i * len(values) // 1000)] for i in range(1001)]


def carry_out(order: Order) -> Result:
    """Run all rounds of an order."""
    result, began, cpu = Result(), time.time(), time.process_time()
    machine = machine_seconds()
    latency: list[float] = []
    loads = []
    for _ in range(order.rounds):
        load = Load(order)
        load.run()
        loads.append(load)
    result.seconds, result.cpu = time.time() - began, time.process_time() - cpu
    result.machine = machine_seconds() - machine
    for stream in (stream for load in loads for stream in load.streams):
        result.lines += stream.lines
        wrong = stream.wrong(order.endless)
        result.failed += bool(wrong)
        result.why = result.why or wrong
        if stream.first:
            result.first.append((stream.first - stream.begun) * 1000)
        if order.timed:
            latency += latencies(stream.chunks)
    result.latency, result.first = quantiles(latency), quantiles(result.first)
    return result


def main() -> None:
    """Do what the command line says."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()
    print(json.dumps(asdict(carry_out(Order(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
