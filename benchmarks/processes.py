"""Processes of a benchmark: start and stop them, and measure them through /proc."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Unavailable(Exception):
    """Something cannot be measured on this machine; the message is the reason."""


def find_program(name: str) -> str:
    """The path of a program; also searches the folders for system administration."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        raise Unavailable(f"{name} is not installed")
    return path


def is_listening(address: str) -> bool:
    """Whether a server accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def is_healthy(port: int) -> bool:
    """Whether the cloud at a port of this machine responds; it has its keys and folders then."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Program:
    """A child process that writes its output to the file `log`. `stdin` is as for `Popen`."""

    def __init__(
        self,
        stack: ExitStack,
        log: Path,
        argv: list[str],
        stdin: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as output_file:
            self.child = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=output_file,
                stderr=subprocess.STDOUT,
                env=environment,
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
            self.kill()

    def kill(self) -> None:
        """Kill the process."""
        self.child.kill()
        self.child.wait()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait for `condition()`; raises Unavailable with the program's output on a timeout."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(self.output.strip()[-300:] or "it did not start")
            time.sleep(0.02)


class ControlledProgram(Program):
    """A program that takes commands and prints events, both as lines of JSON."""

    def __init__(self, stack: ExitStack, log: Path, argv: list[str]) -> None:
        self._offset = log.stat().st_size if log.exists() else 0
        super().__init__(stack, log, argv, subprocess.PIPE)

    def send(self, do: str, **arguments: Any) -> None:
        """Send a command."""
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.child.stdin.flush()

    def new_events(self) -> list[dict[str, Any]]:
        """The events since the last call. Raises Unavailable if the program has ended."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            complete, _, _ = file.read().rpartition(b"\n")
        self._offset += len(complete) + bool(complete)
        if self.child.poll() is not None:
            raise Unavailable(f"{self.log.name}: {self.output.strip()[-1000:]}")
        return [json.loads(line) for line in complete.splitlines() if line.startswith(b"{")]


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state, parent, …)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def all_pids() -> list[int]:
    """The ids of all processes."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def parent_pids() -> dict[int, int]:
    """The parent of each process."""
    parents = {}
    for pid in all_pids():
        with suppress(OSError):  # it has just exited
            parents[pid] = int(stat(pid)[1])
    return parents


def descendants(pid: int) -> tuple[int, ...]:
    """The running child processes of `pid`, and their descendants."""
    parents, family = parent_pids(), [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return tuple(family[1:])


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """CPU time so far of all threads, from /proc/PID/task/TID/schedstat (nanoseconds)."""
    return sum(map(_cpu_nanoseconds, pids)) / 1e9


def _cpu_nanoseconds(pid: int) -> int:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((path / "schedstat").read_text().split()[0]) for path in threads)
    except OSError:
        return 0  # it has just exited


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


@dataclass(frozen=True)
class Memory:
    """The memory of a process in MB, from /proc/PID/smaps_rollup.

    `resident` counts shared pages in full, `proportional` divides them among the processes that
    share them, and `private` is what ends with the process.
    """

    resident: float
    proportional: float
    private: float


def read_memory(pid: int) -> Memory:
    """Return the memory of a process now."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {
        name: int(kb) for name, kb in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)
    }
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return Memory(*(each / 1024 for each in (kilobytes["Rss"], kilobytes["Pss"], private)))
