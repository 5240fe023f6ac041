"""Measure one path under one load: delivered lines, latency, CPU time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load import Order
from benchmarks.paths import RequestPath
from benchmarks.processes import cpu_seconds, memory_mb

LINE_BYTES = 110
LINES_PER_SECOND = 20


@dataclass(frozen=True)
class Case:
    """One load: the script of the model server, and the requests of the clients."""

    name: str
    streams: int
    script: dict[str, Any]
    seconds: float
    rounds: int = 1
    endless: bool = False
    timed: bool = True


@dataclass(frozen=True)
class Measure:
    """One row. CPU is in µs a line by part, times are in ms and sorted, memory is in MB by part.

    `cores` is the CPU time per second of relay, clients and server, `machine` that of everything.
    """

    case: Case
    lines: int
    rate: float
    cpu: dict[str, float]
    cost: float
    latency: list[float]
    first: list[float]
    failed: int
    reason: str
    idle: dict[str, float]
    peak: dict[str, float]
    cores: float
    machine: float


def paced(streams: int, seconds: float) -> Case:
    """20 lines a second on each of `streams` streams, for `seconds` seconds."""
    script = {
        "lines": int(seconds * LINES_PER_SECOND),
        "line_interval": 1 / LINES_PER_SECOND,
        "line_bytes": LINE_BYTES,
    }
    name = f"{streams:,} streams" if streams > 1 else "1 stream"
    return Case(name, streams, script, seconds * 2 + 10)


def saturated(streams: int, seconds: float) -> Case:
    """Lines as fast as they are read. The server then writes many at once."""
    script = {"lines": 100_000_000, "line_interval": 0, "line_bytes": LINE_BYTES}
    return Case("saturated", streams, script, seconds, endless=True, timed=False)


def sequential(tries: int) -> Case:
    """One request after the other, for the time to the first byte on an idle machine."""
    script = {"lines": 1, "line_interval": 0, "line_bytes": LINE_BYTES}
    return Case("first byte", 1, script, 20.0, rounds=tries, timed=False)


def set_script(server_port: int, script: dict[str, Any]) -> None:
    """Set the script of the fake Ollama for all further responses of /api/generate."""
    url = f"http://127.0.0.1:{server_port}/fake/"
    for method, resource, body in (
        ("DELETE", "scripts", None),
        ("DELETE", "requests", None),
        ("POST", "scripts", {"path": "/api/generate", "script": script}),
    ):
        data = json.dumps(body).encode() if body else None
        urllib.request.urlopen(urllib.request.Request(url + resource, data, method=method)).close()


def measure(
    path: RequestPath, case: Case, server_port: int, server_pid: int, idle: dict[str, float]
) -> Measure:
    """Measure the load of `case` on `path`; `idle` is the memory of its parts before any load."""
    set_script(server_port, case.script)
    order = Order(
        path.address,
        path.users,
        case.streams,
        case.seconds,
        case.rounds,
        case.endless,
        case.timed,
    )
    before, server_cpu = cpu_by_part(path), cpu_seconds((server_pid,))
    result = run_load(order, case.seconds * max(1, case.rounds // 20) + 30)
    after = cpu_by_part(path)
    server_cpu = cpu_seconds((server_pid,)) - server_cpu
    lines = max(1, result["lines"])
    cpu = {part: (after[part] - before[part]) * 1e6 / lines for part in after}
    busy = sum(after.values()) - sum(before.values()) + server_cpu + result["cpu"]
    return Measure(
        case=case,
        lines=result["lines"],
        rate=result["lines"] / result["seconds"],
        cpu=cpu,
        cost=sum(cpu[part] for part in path.counted),
        latency=result["latency"],
        first=result["first"],
        failed=result["failed"],
        reason=result["reason"],
        idle=idle,
        peak=memory_by_part(path, "VmHWM"),
        cores=busy / result["seconds"],
        machine=result["machine"] / result["seconds"],
    )


def cpu_by_part(path: RequestPath) -> dict[str, float]:
    """CPU time of each part so far, in seconds."""
    return {part: cpu_seconds(pids) for part, pids in path.parts.items()}


def memory_by_part(path: RequestPath, field: str) -> dict[str, float]:
    """The memory of each part in MB; `field` as in `memory_mb`."""
    return {part: memory_mb(pids, field) for part, pids in path.parts.items()}


def run_load(order: Order, timeout: float) -> dict[str, Any]:
    """Run the order in a separate process; returns its result."""
    argv = [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(order))]
    process = subprocess.run(argv, stdout=subprocess.PIPE, timeout=timeout, check=True)
    return json.loads(process.stdout)
