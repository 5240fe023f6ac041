"""Processes of a benchmark: started, measured through /proc, and ended by their own ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Absent(Exception):
    """A peer cannot be measured here; says why."""


def listens(address: str) -> bool:
    """Whether something accepts at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


class Program:
    """One child process; what it says goes to the file `log`, what it reads is in `given`."""

    def __init__(
        self, stack: ExitStack, log: Path, argv: list[str], given: Path = Path(os.devnull)
    ) -> None:
        self.log = log
        with log.open("wb") as out, given.open("rb") as into:
            self.child = subprocess.Popen(argv, stdin=into, stdout=out, stderr=subprocess.STDOUT)
        stack.callback(self.stop)

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it, by force in the end."""
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(8)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def until(self, condition: Callable[[], bool], patience: float = 20.0) -> None:
        """Wait for `condition()`; Absent, with what the program said, if it never comes."""
        end = time.monotonic() + patience
        while not condition():
            if self.child.poll() is not None or time.monotonic() > end:
                raise Absent(self.said.strip()[-300:] or "it did not start")
            time.sleep(0.02)


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state, parent, …)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def children(pid: int) -> tuple[int, ...]:
    """The processes that `pid` started and theirs, living now."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(stat(int(entry))[1])
            except OSError:
                continue  # it ended just now
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return tuple(found[1:])


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """Time on a processor so far, of all threads: /proc/PID/task/TID/schedstat has nanoseconds."""
    threads = [path for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((path / "schedstat").read_text().split()[0]) for path in threads) / 1e9


def machine_seconds() -> float:
    """CPU time that the whole machine has spent on anything so far."""
    user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + soft) / TICKS


def memory_mb(pids: tuple[int, ...], what: str = "VmRSS") -> float:
    """Resident memory, or with `VmHWM` its peak, in MB; shared pages count in each process."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(what))
    return total / 1024
