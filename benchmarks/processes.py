"""Processes of a benchmark: start and stop them, and measure them through /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Unavailable(Exception):
    """Something cannot be measured on this machine; the message is the reason."""


def is_listening(address: str) -> bool:
    """Whether a server accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


class Program:
    """A child process that reads the file `stdin` and writes its output to the file `log`."""

    def __init__(
        self, stack: ExitStack, log: Path, argv: list[str], stdin: Path = Path(os.devnull)
    ) -> None:
        self.log = log
        with log.open("wb") as output_file, stdin.open("rb") as input_file:
            self.child = subprocess.Popen(
                argv, stdin=input_file, stdout=output_file, stderr=subprocess.STDOUT
            )
        stack.callback(self.stop)

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Terminate the process; kill it after 8 seconds."""
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(8)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait for `condition()`; raises Unavailable with the program's output on a timeout."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(self.output.strip()[-300:] or "it did not start")
            time.sleep(0.02)


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state, parent, …)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def descendants(pid: int) -> tuple[int, ...]:
    """The running child processes of `pid`, and their descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(stat(int(entry))[1])
            except OSError:
                continue  # it has just exited
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return tuple(family[1:])


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """CPU time so far of all threads, from /proc/PID/task/TID/schedstat (nanoseconds)."""
    threads = [path for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((path / "schedstat").read_text().split()[0]) for path in threads) / 1e9


def machine_seconds() -> float:
    """CPU time so far of everything on the machine."""
    user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + soft) / TICKS_PER_SECOND


def memory_mb(pids: tuple[int, ...], field: str = "VmRSS") -> float:
    """Resident memory (`VmRSS`) or its peak (`VmHWM`) in MB; shared pages count in each process."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return total / 1024
