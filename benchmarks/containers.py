"""The cost of a user's container: start time and memory, and how they grow with more users.

`python -m benchmarks.containers` from the root of the repository, as root, with Docker Engine
installed, of which it starts its own instance. `--starts` measures the starts alone, in a few
minutes. `--write` stores the results in README.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks import report
from benchmarks.accounts import Accounts, start_proxy
from benchmarks.command_line import exit_on_signals, print_progress, require_root
from benchmarks.measuring import set_script
from benchmarks.paths import (
    BIN,
    docker_options,
    start_cloud,
    start_desktops,
    start_model_server,
    write_docker_config,
)
from benchmarks.processes import cpu_seconds, machine_seconds
from benchmarks.resources import meminfo
from tests.e2e.dockerd import IMAGE, Dockerd, dockerd
from tests.ports import free_port

SEQUENTIAL_USERS, SIMULTANEOUS_USERS, MAX_USERS = 20, 50, 300
#: The number of proxies that the cloud starts at once, so that no start waits for another.
CONCURRENT_STARTS = 2
#: Lines a second of each stream, as of a model on a busy machine, and the duration.
LINES_PER_SECOND, STREAM_SECONDS = 2, 20.0
LINE_BYTES = 110
FORECAST_USERS = 1000
#: Seconds within which all desktops must be connected.
CONNECT_TIMEOUT = 300.0
NAMES = [f"user{number}" for number in range(MAX_USERS)]


@dataclass
class Measurements:
    """Times in seconds, memory in MB by number of users, latencies of lines in ms."""

    docker: list[float] = field(default_factory=list)
    docker_at_once: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    warm_at_once: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)
    simultaneous: list[float] = field(default_factory=list)
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
    """A cloud with the Docker spawner, and the headers of each user's requests."""

    def __init__(self, stack: ExitStack, folder: Path, engine: Dockerd, warm: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.state = folder, folder / "cloud"
        self.port = free_port()
        self.config = folder / "ctllm.toml"
        write_docker_config(self.config, engine.address)
        options = [*docker_options(engine.address, MAX_USERS),
                   "--proxy-start-timeout-seconds=120", f"--proxy-warm={warm}"]  # fmt: skip
        self.cloud = start_cloud(stack, folder, self.port, options=options)
        self.accounts = Accounts(self.state)
        self.authorizations = list(map(self.accounts.authorization, NAMES))

    def start(self, number: int) -> float:
        """Start a user's proxy; returns the seconds until it responds."""
        return start_proxy(self.port, self.authorizations[number])

    def ctllm(self, *words: str) -> str:
        argv = [str(BIN / "ctllm"), f"--config={self.config}", f"--state-dir={self.state}", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def wait_for_warm_proxies(self, number: int) -> None:
        """Wait until so many proxies wait for a user, and a second longer for the last one."""
        while self.ctllm("proxies").count(" waiting ") < number:
            time.sleep(1)
        time.sleep(1)

    def stop_all(self) -> float:
        """Stop all proxies; returns the seconds until they are gone."""
        began = time.monotonic()
        self.ctllm("proxies", "drain", "--seconds=0")
        took = time.monotonic() - began
        self.ctllm("proxies", "resume")
        return took


def start_idle_container(engine: Dockerd, number: int = 0) -> float:
    """Create a network and a container of the same image with the Docker CLI; returns the seconds.

    They include the time of the CLI itself, which the spawner does not use.
    """
    limits = ["--memory=512m", "--memory-swap=512m", "--cpus=0.5", "--pids-limit=32", "--read-only",
              "--cap-drop=ALL"]  # fmt: skip
    began = time.monotonic()
    name, subnet = f"bench{number}", f"10.143.{number}.0/28"
    engine.docker("network", "create", "--internal", f"--subnet={subnet}", name)
    engine.docker("run", "-d", f"--name={name}", f"--network={name}", *limits,
                  "--entrypoint=sleep", IMAGE, "600")  # fmt: skip
    return time.monotonic() - began


def remove_idle_container(engine: Dockerd, number: int = 0) -> None:
    """Remove what `start_idle_container` has created."""
    engine.docker("rm", "-f", f"bench{number}")
    engine.docker("network", "rm", f"bench{number}")


def measure_docker(engine: Dockerd, measurements: Measurements) -> None:
    """Measure Docker alone: one container after the other, and many at once."""
    print_progress(f"Docker alone, {SEQUENTIAL_USERS // 2} times")
    for _ in range(SEQUENTIAL_USERS // 2):
        measurements.docker.append(start_idle_container(engine))
        remove_idle_container(engine)
    print_progress(f"Docker alone, {SIMULTANEOUS_USERS} at once")
    numbers = range(SIMULTANEOUS_USERS)
    with ThreadPoolExecutor(SIMULTANEOUS_USERS) as pool:
        starts = pool.map(lambda number: start_idle_container(engine, number), numbers)
        measurements.docker_at_once = list(starts)
    for number in numbers:
        remove_idle_container(engine, number)


def measure_warm(folder: Path, engine: Dockerd, measurements: Measurements) -> None:
    """Measure users for whom proxies wait: one after the other, and many at once."""
    with ExitStack() as stack:
        cluster = DockerCluster(stack, folder / "warm", engine, SIMULTANEOUS_USERS)
        stack.callback(cluster.stop_all)
        print_progress(f"{SIMULTANEOUS_USERS} proxies that wait")
        cluster.wait_for_warm_proxies(SIMULTANEOUS_USERS)
        with ThreadPoolExecutor(SIMULTANEOUS_USERS) as pool:
            starts = pool.map(cluster.start, range(SIMULTANEOUS_USERS))
            measurements.warm_at_once = list(starts)
        for number in range(SIMULTANEOUS_USERS, SIMULTANEOUS_USERS + SEQUENTIAL_USERS):
            cluster.wait_for_warm_proxies(1)
            measurements.warm.append(cluster.start(number))


def start_all_users(cluster: DockerCluster, measurements: Measurements) -> None:
    """Start the proxies of all users, two at a time; measure memory as their number grows."""
    marks = {1, 10, 50, 100, 150, 200, 250, MAX_USERS}
    before = meminfo()["MemAvailable"]  # whose decrease is the memory of all users
    done = 0
    with ThreadPoolExecutor(CONCURRENT_STARTS) as pool:
        while done < MAX_USERS:
            target = min(mark for mark in marks if mark > done)
            measurements.starts += pool.map(cluster.start, range(done, target))
            done = target
            time.sleep(2)  # until the new containers are idle
            measurements.memory[done] = before - meminfo()["MemAvailable"]
            print_progress(f"{done} containers, {measurements.memory[done]:.0f} MB")


def connect_desktops(cluster: DockerCluster, stack: ExitStack, ollama_port: int) -> float:
    """Start a desktop for each user; returns the seconds until all are connected."""
    desktops = start_desktops(
        stack, cluster.folder, "desktops", ollama_port, f"http://127.0.0.1:{cluster.port}"
    )
    began = time.monotonic()
    desktops.send("start", invites={each: cluster.accounts.invite(each) for each in NAMES})
    desktops.wait_until(
        lambda: any(event["ready"] == MAX_USERS for event in desktops.new_events()), CONNECT_TIMEOUT
    )
    return time.monotonic() - began


def measure_streams(cluster: DockerCluster, measurements: Measurements) -> None:
    """Read one streamed response for each user, all at once, and measure the latency of lines."""
    lock = threading.Lock()

    def read(number: int) -> None:
        latency, lines, is_complete = [], 0, False
        try:
            connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
            body = json.dumps({"model": "m", "prompt": "x"})
            connection.request("POST", "/api/generate", body, cluster.authorizations[number])
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


def measure(folder: Path, measurements: Measurements, starts_only: bool) -> None:
    """Measure everything, from one user to many, or the starts of up to fifty."""
    with dockerd() as engine, ExitStack() as stack:
        print_progress("Building the image")
        engine.build()
        _, ollama_port = start_model_server(stack, folder)
        cluster = DockerCluster(stack, folder, engine)
        stack.enter_context(firewall_rules(cluster))
        stack.callback(cluster.stop_all)
        measure_docker(engine, measurements)
        print_progress(f"{SEQUENTIAL_USERS} users, one after the other")
        measurements.sequential = [cluster.start(number) for number in range(SEQUENTIAL_USERS)]
        cluster.stop_all()
        print_progress(f"{SIMULTANEOUS_USERS} users at once")
        with ThreadPoolExecutor(SIMULTANEOUS_USERS) as pool:
            measurements.simultaneous = list(pool.map(cluster.start, range(SIMULTANEOUS_USERS)))
        cluster.stop_all()
        measure_warm(folder, engine, measurements)
        if starts_only:
            return
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


# -- report


def regression_line(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The linear regression of these points."""
    slope, base = statistics.linear_regression(*zip(*points, strict=True))
    return lambda x: base + slope * x


def start_rows(measurements: Measurements) -> list[list[str]]:
    """The rows of the table of starts."""
    docker = statistics.median(measurements.docker)

    def at_once(times: Sequence[float]) -> str:
        return f"all at once, done after {max(times):.1f} s"

    return [
        ["from asking for a proxy to its first answer", "users", "p50 s", "p95 s", "to Docker's"],
        _row("Docker alone: network and container, by its CLI", measurements.docker, docker),
        _row(f"Docker alone, {at_once(measurements.docker_at_once)}",
             measurements.docker_at_once, docker),
        _row("one that waits, one user after the other", measurements.warm, docker),
        _row(f"one that waits, {at_once(measurements.warm_at_once)}",
             measurements.warm_at_once, docker),
        _row("one after the other", measurements.sequential, docker),
        _row(at_once(measurements.simultaneous), measurements.simultaneous, docker),
    ]  # fmt: skip


def text(measurements: Measurements) -> str:
    """The results as tables and sentences."""
    growth = regression_line([(number, took) for number, took in enumerate(measurements.starts, 1)])
    memory = regression_line(list(measurements.memory.items()))
    each = memory(1) - memory(0)
    docker = statistics.median(measurements.docker)
    rows = [
        *start_rows(measurements),
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
        f"{report.hardware()}.",
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
        f"everything, desktops, clients and model server included, the gateway "
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
    parser.add_argument("--starts", action="store_true", help="measure the starts alone")
    args = parser.parse_args()
    require_root()
    exit_on_signals()
    measurements = Measurements()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measure(Path(folder), measurements, args.starts)
    if args.starts:
        print(report.table(start_rows(measurements)))
        return
    print(text(measurements))
    if args.write:
        report.write(text(measurements), "containers")


if __name__ == "__main__":
    main()
