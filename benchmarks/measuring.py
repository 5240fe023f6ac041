"""One way under one load: what came through, how late, and what it cost whom."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load import Order
from benchmarks.paths import Way
from benchmarks.processes import cpu_seconds, memory_mb

LINE = 110
RATE = 20


@dataclass(frozen=True)
class Case:
    """One load: what the model server is told to say, and what the clients do."""

    name: str
    streams: int
    script: dict[str, Any]
    seconds: float
    rounds: int = 1
    endless: bool = False
    timed: bool = True


@dataclass(frozen=True)
class Measure:
    """One row. CPU is µs a line by part, times are sorted ms, memory is MB by part.

    `cores` is how many cores' time relay, clients and server took, `machine` everything that ran.
    """

    case: Case
    lines: int
    rate: float
    cpu: dict[str, float]
    cost: float
    latency: list[float]
    first: list[float]
    failed: int
    why: str
    idle: dict[str, float]
    peak: dict[str, float]
    cores: float
    machine: float


def paced(streams: int, seconds: float) -> Case:
    """Lines at 20 a second over so many streams, for so many seconds."""
    script = {"lines": int(seconds * RATE), "line_interval": 1 / RATE, "line_bytes": LINE}
    name = f"{streams:,} streams" if streams > 1 else "1 stream"
    return Case(name, streams, script, seconds * 2 + 10)


def saturated(streams: int, seconds: float) -> Case:
    """Lines as fast as they are taken. The server then writes many at once."""
    script = {"lines": 100_000_000, "line_interval": 0, "line_bytes": LINE}
    return Case("saturated", streams, script, seconds, endless=True, timed=False)


def quiet(tries: int) -> Case:
    """One request after the other, to see what the first byte costs on a machine at rest."""
    script = {"lines": 1, "line_interval": 0, "line_bytes": LINE}
    return Case("first byte", 1, script, 20.0, rounds=tries, timed=False)


def tell(server: int, script: dict[str, Any]) -> None:
    """Give the fake Ollama the script for all that is generated from now on."""
    where = f"http://127.0.0.1:{server}/fake/"
    for method, what, body in (
        ("DELETE", "scripts", None),
        ("DELETE", "requests", None),
        ("POST", "scripts", {"path": "/api/generate", "script": script}),
    ):
        data = json.dumps(body).encode() if body else None
        urllib.request.urlopen(urllib.request.Request(where + what, data, method=method)).close()


def measure(way: Way, case: Case, server: int, server_pid: int, idle: dict[str, float]) -> Measure:
    """Put the load of `case` on `way`; `idle` is the memory of its parts before any load."""
    tell(server, case.script)
    order = Order(
        way.address, way.headers, case.streams, case.seconds, case.rounds, case.endless, case.timed
    )
    before, at_server = spent(way), cpu_seconds((server_pid,))
    got = load(order, case.seconds * max(1, case.rounds // 20) + 30)
    after = spent(way)
    at_server = cpu_seconds((server_pid,)) - at_server
    lines = max(1, got["lines"])
    cpu = {part: (after[part] - before[part]) * 1e6 / lines for part in after}
    busy = sum(after.values()) - sum(before.values()) + at_server + got["cpu"]
    return Measure(
        case=case,
        lines=got["lines"],
        rate=got["lines"] / got["seconds"],
        cpu=cpu,
        cost=sum(cpu[part] for part in way.counted),
        latency=got["latency"],
        first=got["first"],
        failed=got["failed"],
        why=got["why"],
        idle=idle,
        peak=memory(way, "VmHWM"),
        cores=busy / got["seconds"],
        machine=got["machine"] / got["seconds"],
    )


def spent(way: Way) -> dict[str, float]:
    """CPU seconds of each part so far."""
    return {part: cpu_seconds(pids) for part, pids in way.parts.items()}


def memory(way: Way, what: str) -> dict[str, float]:
    """Memory of each part in MB."""
    return {part: memory_mb(pids, what) for part, pids in way.parts.items()}


def load(order: Order, patience: float) -> dict[str, Any]:
    """Have a process of its own carry the order out."""
    argv = [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(order))]
    done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=patience, check=True)
    return json.loads(done.stdout)
