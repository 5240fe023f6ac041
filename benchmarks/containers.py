"""What a user's container costs: how soon it answers, what memory it takes, and how that grows.

`python -m benchmarks.containers` from the root of the repository, as root, with a Docker engine
installed: it starts one of its own. `--write` keeps the results in benchmarks/README.md.
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
from benchmarks.measuring import tell
from benchmarks.paths import BIN, place, server
from benchmarks.processes import Absent, Program, cpu_seconds, listens, machine_seconds
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

ALONE, AT_ONCE, MANY = 20, 50, 300
#: As many as the cloud starts at once, so that none waits and each one's own time shows.
TURNS = 2
#: Lines a second of each stream, as a model on a busy machine gives them; and for how long.
RATE, SECONDS = 2, 20.0
LINE = 110
FORECAST = 1000
NAMES = [f"user{number}" for number in range(MANY)]


@dataclass
class Seen:
    """All that was measured: seconds and MB, by number of users where that is what grows."""

    docker: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    at_once: list[float] = field(default_factory=list)
    all_at_once: float = 0.0
    starts: list[float] = field(default_factory=list)
    memory: dict[int, float] = field(default_factory=dict)
    desktops: float = 0.0
    lines: int = 0
    wanted: int = 0
    failed: int = 0
    late: list[float] = field(default_factory=list)
    cores: float = 0.0
    front: float = 0.0
    removal: float = 0.0


class House:
    """A cloud whose proxies are containers, and a token for each user."""

    def __init__(self, stack: ExitStack, folder: Path, engine: Dockerd) -> None:
        self.folder, self.state = folder, folder / "cloud"
        self.port = free_port()
        self.config = folder / "ctllm.toml"
        self.config.write_text(f'[cloud]\nspawner = "docker"\ndocker_url = "{engine.address}"\n')
        options = ["--listen", f"127.0.0.1:{self.port}", "--metrics-listen", "off",
                   "--spawner=docker",
                   f"--docker-url={engine.address}", f"--max-proxies={MANY}",
                   "--proxy-start-timeout-seconds=120"]  # fmt: skip
        self.cloud = place(stack, folder, "cloud", *options)
        self.cloud.until(lambda: listens(f"127.0.0.1:{self.port}"))
        keys = load_signing_keys(PrivateDirectory(self.state / "cloud"))
        issuer = AccessTokenIssuer(keys.signing_key, time.time, 3600)
        scopes = frozenset((USE, MANAGE, SERVE))
        self.tokens = [issuer.issue(User("ctllm", each, each), scopes) for each in NAMES]

    def start(self, number: int) -> float:
        """Seconds from asking for a user's proxy to its first answer."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        headers = {"Authorization": f"Bearer {self.tokens[number]}"}
        connection.request("PUT", "/ctllm/proxy", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise Absent(f"user {number}: {answer.status} {body!r}")
        return time.monotonic() - began

    def ctllm(self, *words: str) -> None:
        argv = [str(BIN / "ctllm"), f"--config={self.config}", f"--state-dir={self.state}", *words]
        subprocess.run(argv, check=True, capture_output=True)

    def end_all(self) -> float:
        """Seconds until all proxies are gone, and no desktop may have another."""
        began = time.monotonic()
        self.ctllm("proxies", "drain", "--seconds=0")
        took = time.monotonic() - began
        self.ctllm("proxies", "resume")
        return took


def available() -> float:
    """MB that new programs could have: what is taken of it, all told, is what users cost."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise Absent("/proc/meminfo does not say what is available")


def bare(engine: Dockerd) -> float:
    """Seconds that Docker alone takes for a network and a container of the same image, by its CLI.

    The command itself is most of what that adds; a start without it is what the users get.
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


def grow(house: House, seen: Seen) -> None:
    """From one user to many, two starts at a time; memory is looked at as it grows."""
    marks = {1, 10, 50, 100, 150, 200, 250, MANY}
    before = available()
    done = 0
    with ThreadPoolExecutor(TURNS) as pool:
        while done < MANY:
            until = min(mark for mark in marks if mark > done)
            seen.starts += pool.map(house.start, range(done, until))
            done = until
            time.sleep(2)  # so that what was started has come to rest
            seen.memory[done] = before - available()
            say(f"{done} containers, {seen.memory[done]:.0f} MB")


def connect(house: House, stack: ExitStack, ollama: int) -> float:
    """Seconds until each user's desktop is connected."""
    invites = Invites(PrivateDirectory(house.state / "cloud").subdirectory("invites"), time.time)
    given = house.folder / "invites"
    given.write_text("\n".join(invites.create(each) for each in NAMES))
    url = f"http://127.0.0.1:{house.port}"
    argv = [sys.executable, "-m", "benchmarks.desks", str(house.folder), str(ollama), url]
    desks = Program(stack, house.folder / "desks.log", argv, given)
    began = time.monotonic()
    desks.until(lambda: desks.said.endswith(f"\n{MANY}\n"), 300)
    return time.monotonic() - began


def stream(house: House, seen: Seen) -> None:
    """One answer for each user, all at once; each line tells when the model server wrote it."""
    lock = threading.Lock()

    def read(number: int) -> None:
        late, lines, whole = [], 0, False
        try:
            connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=60)
            headers = {"Authorization": f"Bearer {house.tokens[number]}"}
            body = json.dumps({"model": "m", "prompt": "x"})
            connection.request("POST", "/api/generate", body, headers)
            answer = connection.getresponse()
            while line := answer.readline():
                now = time.time()
                told = json.loads(line)
                whole = told["done"]
                lines += 1
                late.append((now - _seconds(told["created_at"])) * 1000)
            connection.close()
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            pass
        with lock:
            seen.late += late
            seen.lines += lines
            seen.failed += not whole

    threading.stack_size(256 * 1024)
    readers = [threading.Thread(target=read, args=(number,)) for number in range(MANY)]
    cpu, front, began = machine_seconds(), cpu_seconds((house.cloud.pid,)), time.monotonic()
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    took = time.monotonic() - began
    seen.cores = (machine_seconds() - cpu) / took
    seen.front = (cpu_seconds((house.cloud.pid,)) - front) / took


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


@contextmanager
def closed_off(house: House) -> Iterator[None]:
    """With the firewall's rules, as a server has them; afterwards as it was."""
    argv = [str(BIN / "ctllm"), f"--config={house.config}", "firewall", "--check"]
    missing = subprocess.run(argv, capture_output=True, check=False).returncode
    house.ctllm("firewall")
    try:
        yield
    finally:
        if missing:
            house.ctllm("firewall", "--remove")


def measure(folder: Path, seen: Seen) -> None:
    """All of it, from one to many."""
    with dockerd() as engine, ExitStack() as stack:
        say("the image")
        engine.build()
        _, ollama = server(stack, folder)
        house = House(stack, folder, engine)
        stack.enter_context(closed_off(house))
        stack.callback(house.end_all)
        say(f"Docker alone, {ALONE // 2} times")
        seen.docker = [bare(engine) for _ in range(ALONE // 2)]
        say(f"{ALONE} users, one after the other")
        seen.alone = [house.start(number) for number in range(ALONE)]
        house.end_all()
        say(f"{AT_ONCE} users at once")
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            seen.at_once = list(pool.map(house.start, range(AT_ONCE)))
        seen.all_at_once = time.monotonic() - began
        house.end_all()
        grow(house, seen)
        seen.desktops = connect(house, stack, ollama)
        say(f"{MANY} streams")
        count = int(SECONDS * RATE)
        tell(ollama, {"lines": count, "line_interval": 1 / RATE, "line_bytes": LINE})
        seen.wanted = MANY * (count + 1)  # the last one says that it is done
        stream(house, seen)
        seen.removal = house.end_all()


def say(what: str) -> None:
    print(f"{what} …", file=sys.stderr)


# -- what came of it


def line(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The straight line that is nearest to these points."""
    slope, base = statistics.linear_regression(*zip(*points, strict=True))
    return lambda at: base + slope * at


def text(seen: Seen) -> str:
    """Tables."""
    growth = line([(number, took) for number, took in enumerate(seen.starts, 1)])
    memory = line(list(seen.memory.items()))
    each = memory(1) - memory(0)
    docker = statistics.median(seen.docker)
    rows = [
        ["from asking for a proxy to its first answer", "users", "p50 s", "p95 s", "to Docker's"],
        ["Docker alone: network and container, by its CLI", "-", _s(docker), "-", "1"],
        _row("one after the other", seen.alone, docker),
        _row(f"all at once, done after {seen.all_at_once:.0f} s", seen.at_once, docker),
        _row(f"the first {TURNS * 10} of {MANY}, two at a time", seen.starts[:20], docker),
        _row(f"the last {TURNS * 10} of them", seen.starts[-20:], docker),
    ]
    marks = [[str(at), f"{mb:.0f}", f"{mb / at:.1f}"] for at, mb in seen.memory.items()]
    late = sorted(seen.late)
    p50, p99 = report.at(late, 0.5), report.at(late, 0.99)
    return "\n\n".join([
        f"{report.processor()}, {os.cpu_count()} cores.",
        report.table(rows),
        report.table([["users", "MB in all", "MB each"], *marks]),
        f"Memory is what the whole machine has less: {each:.1f} MB a user by the straight line.",
        f"A straight line to {FORECAST:,} users: {growth(FORECAST):.2f} s a start, two at a time "
        f"({growth(1):.2f} s for the first, {growth(MANY):.2f} for the {MANY}th), and "
        f"{memory(FORECAST) / 1024:.1f} GB.",
        f"{MANY} users, each with a desktop (all connected after {seen.desktops:.0f} s) and a "
        f"stream of {RATE} lines a second at once: {seen.lines:,} of {seen.wanted:,} lines came, "
        f"{seen.failed} streams failed, lines were {report.number(p50)} ms late (p50; p99 "
        f"{report.number(p99)}). The machine used {seen.cores:.2f} cores for everything, desktops, "
        f"clients and model server included, the front {seen.front:.2f}.",
        f"All {MANY} were ended, four at a time, in {seen.removal:.0f} s.",
    ])  # fmt: skip


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"


def _row(name: str, times: Sequence[float], docker: float) -> list[str]:
    found = sorted(times)
    p50, p95 = report.at(found, 0.5) or 0.0, report.at(found, 0.95) or 0.0
    return [name, str(len(found)), _s(p50), _s(p95), f"{p50 / docker:.2f}"]


def main() -> None:
    """Measure, print, and keep the results if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the results in README.md")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks.containers starts a Docker engine, which only root can")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measure(Path(folder), seen)
    print(text(seen))
    if asked.write:
        report.write(text(seen), "containers")


if __name__ == "__main__":
    main()
