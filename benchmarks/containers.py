"""The cost of a user's container: start time and memory, and how they grow with more users.

`python -m benchmarks.containers` from the root of the repository, as root, with Docker Engine
installed, of which it starts its own instance. `--write` stores the results in README.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import report
from benchmarks.measuring import set_script
from benchmarks.paths import BIN, start_model_server, start_role
from benchmarks.processes import Program, Unavailable, cpu_seconds, is_listening, machine_seconds
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessTokenIssuer,
    Invites,
    PrivateDirectory,
    User,
    load_signing_keys,
)
from tests.e2e.dockerd import IMAGE, Dockerd, dockerd
from tests.ports import free_port

SEQUENTIAL_USERS, SIMULTANEOUS_USERS, MAX_USERS = 20, 50, 300
#: The number of proxies that the cloud starts at once, so that no start waits for another.
CONCURRENT_STARTS = 2
#: Lines a second of each stream, as of a model on a busy machine, and the duration.
LINES_PER_SECOND, STREAM_SECONDS = 2, 20.0
LINE_BYTES = 110
FORECAST_USERS = 1000
NAMES = [f"user{number}" for number in range(MAX_USERS)]


@dataclass
class Measurements:
    """Times in seconds, memory in MB by number of users, latencies of lines in ms."""

    docker: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)
    simultaneous: list[float] = field(default_factory=list)
    simultaneous_seconds: float = 0.0
    starts: list[float] = field(default_factory=list)
    memory: dict[int, float] = field(default_factory=dict)
    connect_seconds: float = 0.0
    lines: int = 0
    expected_lines: int = 0
    failed: int = 0
    latency: list[float] = field(default_factory=list)
    cores: float = 0.0
    gateway_cores: float = 0.0
    stop_seconds: float = 0.0


class DockerCluster:
    """A cloud with the Docker spawner, and an access token for each user."""

    def __init__(self, stack: ExitStack, folder: Path, engine: Dockerd) -> None:
        self.folder, self.state = folder, folder / "cloud"
        self.port = free_port()
        self.config = folder / "ctllm.toml"
        self.config.write_text(f'[cloud]\nspawner = "docker"\ndocker_url = "{engine.address}"\n')
        options = ["--listen", f"127.0.0.1:{self.port}", "--metrics-listen", "off",
                   "--spawner=docker",
                   f"--docker-url={engine.address}", f"--max-proxies={MAX_USERS}",
                   "--proxy-start-timeout-seconds=120"]  # fmt: skip
        self.cloud = start_role(stack, folder, "cloud", *options)
        self.cloud.wait_until(lambda: is_listening(f"127.0.0.1:{self.port}"))
        keys = load_signing_keys(PrivateDirectory(self.state / "cloud"))
        issuer = AccessTokenIssuer(keys.signing_key, time.time, 3600)
        scopes = frozenset((USE, MANAGE, SERVE))
        self.tokens = [issuer.issue(User("ctllm", each, each), scopes) for each in NAMES]

    def start(self, number: int) -> float:
        """Start a user's proxy; returns the seconds until it responds."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        headers = {"Authorization": f"Bearer {self.tokens[number]}"}
        connection.request("PUT", "/ctllm/proxy", headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise Unavailable(f"user {number}: {response.status} {body!r}")
        return time.monotonic() - began

    def ctllm(self, *words: str) -> None:
        argv = [str(BIN / "ctllm"), f"--config={self.config}", f"--state-dir={self.state}", *words]
        subprocess.run(argv, check=True, capture_output=True)

    def stop_all(self) -> float:
        """Stop all proxies; returns the seconds until they are gone."""
        began = time.monotonic()
        self.ctllm("proxies", "drain", "--seconds=0")
        took = time.monotonic() - began
        self.ctllm("proxies", "resume")
        return took


def available_memory_mb() -> float:
    """Available memory of the machine in MB. Its decrease is the memory of all users."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise Unavailable("/proc/meminfo has no MemAvailable")


def start_idle_container(engine: Dockerd) -> float:
    """Create a network and a container of the same image with the Docker CLI; returns the seconds.

    They include the time of the CLI itself, which the spawner does not use.
    """
    limits = ["--memory=512m", "--memory-swap=512m", "--cpus=0.5", "--pids-limit=32", "--read-only",
              "--cap-drop=ALL"]  # fmt: skip
    began = time.monotonic()
    engine.docker("network", "create", "--internal", "--subnet=10.143.255.0/28", "bench")
    engine.docker("run", "-d", "--name=bench", "--network=bench", *limits,
                  "--entrypoint=sleep", IMAGE, "60")  # fmt: skip
    took = time.monotonic() - began
    engine.docker("rm", "-f", "bench")
    engine.docker("network", "rm", "bench")
    return took


def start_all_users(cluster: DockerCluster, measurements: Measurements) -> None:
    """Start the proxies of all users, two at a time; measure memory as their number grows."""
    marks = {1, 10, 50, 100, 150, 200, 250, MAX_USERS}
    before = available_memory_mb()
    done = 0
    with ThreadPoolExecutor(CONCURRENT_STARTS) as pool:
        while done < MAX_USERS:
            target = min(mark for mark in marks if mark > done)
            measurements.starts += pool.map(cluster.start, range(done, target))
            done = target
            time.sleep(2)  # until the new containers are idle
            measurements.memory[done] = before - available_memory_mb()
            print_progress(f"{done} containers, {measurements.memory[done]:.0f} MB")


def connect_desktops(cluster: DockerCluster, stack: ExitStack, ollama_port: int) -> float:
    """Start a desktop for each user; returns the seconds until all are connected."""
    invites = Invites(PrivateDirectory(cluster.state / "cloud").subdirectory("invites"), time.time)
    invites_file = cluster.folder / "invites"
    invites_file.write_text("\n".join(invites.create(each) for each in NAMES))
    url = f"http://127.0.0.1:{cluster.port}"
    argv = [
        sys.executable,
        "-m",
        "benchmarks.many_desktops",
        str(cluster.folder),
        str(ollama_port),
        url,
    ]
    desktops = Program(stack, cluster.folder / "desktops.log", argv, invites_file)
    began = time.monotonic()
    desktops.wait_until(lambda: desktops.output.endswith(f"\n{MAX_USERS}\n"), 300)
    return time.monotonic() - began


def measure_streams(cluster: DockerCluster, measurements: Measurements) -> None:
    """Read one streamed response for each user, all at once, and measure the latency of lines."""
    lock = threading.Lock()

    def read(number: int) -> None:
        latency, lines, is_complete = [], 0, False
        try:
            connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
            headers = {"Authorization": f"Bearer {cluster.tokens[number]}"}
            body = json.dumps({"model": "m", "prompt": "x"})
            connection.request("POST", "/api/generate", body, headers)
            response = connection.getresponse()
            while line := response.readline():
                now = time.time()
                message = json.loads(line)
                is_complete = message["done"]
                lines += 1
                latency.append((now - _timestamp(message["created_at"])) * 1000)
            connection.close()
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            pass
        with lock:
            measurements.latency += latency
            measurements.lines += lines
            measurements.failed += not is_complete

    threading.stack_size(256 * 1024)
    readers = [threading.Thread(target=read, args=(number,)) for number in range(MAX_USERS)]
    cpu, gateway_cpu, began = machine_seconds(), cpu_seconds((cluster.cloud.pid,)), time.monotonic()
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    took = time.monotonic() - began
    measurements.cores = (machine_seconds() - cpu) / took
    measurements.gateway_cores = (cpu_seconds((cluster.cloud.pid,)) - gateway_cpu) / took


def _timestamp(created_at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(created_at.replace("Z", "+00:00")).timestamp()


@contextmanager
def firewall_rules(cluster: DockerCluster) -> Iterator[None]:
    """Set the rules of `ctllm firewall`; remove them afterwards if they were not set before."""
    argv = [str(BIN / "ctllm"), f"--config={cluster.config}", "firewall", "--check"]
    missing = subprocess.run(argv, capture_output=True, check=False).returncode
    cluster.ctllm("firewall")
    try:
        yield
    finally:
        if missing:
            cluster.ctllm("firewall", "--remove")


def measure(folder: Path, measurements: Measurements) -> None:
    """Measure everything, from one user to many."""
    with dockerd() as engine, ExitStack() as stack:
        print_progress("Building the image")
        engine.build()
        _, ollama_port = start_model_server(stack, folder)
        cluster = DockerCluster(stack, folder, engine)
        stack.enter_context(firewall_rules(cluster))
        stack.callback(cluster.stop_all)
        print_progress(f"Docker alone, {SEQUENTIAL_USERS // 2} times")
        measurements.docker = [start_idle_container(engine) for _ in range(SEQUENTIAL_USERS // 2)]
        print_progress(f"{SEQUENTIAL_USERS} users, one after the other")
        measurements.sequential = [cluster.start(number) for number in range(SEQUENTIAL_USERS)]
        cluster.stop_all()
        print_progress(f"{SIMULTANEOUS_USERS} users at once")
        began = time.monotonic()
        with ThreadPoolExecutor(SIMULTANEOUS_USERS) as pool:
            measurements.simultaneous = list(pool.map(cluster.start, range(SIMULTANEOUS_USERS)))
        measurements.simultaneous_seconds = time.monotonic() - began
        cluster.stop_all()
        start_all_users(cluster, measurements)
        measurements.connect_seconds = connect_desktops(cluster, stack, ollama_port)
        print_progress(f"{MAX_USERS} streams")
        count = int(STREAM_SECONDS * LINES_PER_SECOND)
        set_script(
            ollama_port,
            {"lines": count, "line_interval": 1 / LINES_PER_SECOND, "line_bytes": LINE_BYTES},
        )
        measurements.expected_lines = MAX_USERS * (count + 1)  # the last one has `done`
        measure_streams(cluster, measurements)
        measurements.stop_seconds = cluster.stop_all()


def print_progress(what: str) -> None:
    print(f"{what} …", file=sys.stderr)


# -- report


def regression_line(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The linear regression of these points."""
    slope, base = statistics.linear_regression(*zip(*points, strict=True))
    return lambda x: base + slope * x


def text(measurements: Measurements) -> str:
    """The results as tables and sentences."""
    growth = regression_line([(number, took) for number, took in enumerate(measurements.starts, 1)])
    memory = regression_line(list(measurements.memory.items()))
    each = memory(1) - memory(0)
    docker = statistics.median(measurements.docker)
    rows = [
        ["from asking for a proxy to its first answer", "users", "p50 s", "p95 s", "to Docker's"],
        ["Docker alone: network and container, by its CLI", "-", _s(docker), "-", "1"],
        _row("one after the other", measurements.sequential, docker),
        _row(
            f"all at once, done after {measurements.simultaneous_seconds:.0f} s",
            measurements.simultaneous,
            docker,
        ),
        _row(
            f"the first {CONCURRENT_STARTS * 10} of {MAX_USERS}, two at a time",
            measurements.starts[:20],
            docker,
        ),
        _row(f"the last {CONCURRENT_STARTS * 10} of them", measurements.starts[-20:], docker),
    ]
    memory_rows = [
        [str(users), f"{mb:.0f}", f"{mb / users:.1f}"] for users, mb in measurements.memory.items()
    ]
    latency = sorted(measurements.latency)
    p50, p99 = report.quantile_of(latency, 0.5), report.quantile_of(latency, 0.99)
    return "\n\n".join([
        f"{report.processor()}, {os.cpu_count()} cores.",
        report.table(rows),
        report.table([["users", "MB in all", "MB each"], *memory_rows]),
        f"Memory is what the whole machine has less: {each:.1f} MB a user by the straight line.",
        f"A straight line to {FORECAST_USERS:,} users: {growth(FORECAST_USERS):.2f} s a start, "
        f"two at a time ({growth(1):.2f} s for the first, {growth(MAX_USERS):.2f} for the "
        f"{MAX_USERS}th), and {memory(FORECAST_USERS) / 1024:.1f} GB.",
        f"{MAX_USERS} users, each with a desktop (all connected after "
        f"{measurements.connect_seconds:.0f} s) and a stream of {LINES_PER_SECOND} lines a "
        f"second at once: {measurements.lines:,} of {measurements.expected_lines:,} lines came, "
        f"{measurements.failed} streams failed, lines were {report.number(p50)} ms late (p50; p99 "
        f"{report.number(p99)}). The machine used {measurements.cores:.2f} cores for "
        f"everything, desktops, clients and model server included, the front "
        f"{measurements.gateway_cores:.2f}.",
        f"All {MAX_USERS} were ended, four at a time, in {measurements.stop_seconds:.0f} s.",
    ])  # fmt: skip


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"


def _row(name: str, times: Sequence[float], docker: float) -> list[str]:
    found = sorted(times)
    p50, p95 = report.quantile_of(found, 0.5) or 0.0, report.quantile_of(found, 0.95) or 0.0
    return [name, str(len(found)), _s(p50), _s(p95), f"{p50 / docker:.2f}"]


def main() -> None:
    """Measure, print the results, and store them with --write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the results in README.md")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks.containers must run as root, because it starts a Docker Engine")
    # Exit normally on SIGTERM, so that the exit stacks stop the child processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    measurements = Measurements()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measure(Path(folder), measurements)
    print(text(measurements))
    if args.write:
        report.write(text(measurements), "containers")


if __name__ == "__main__":
    main()
