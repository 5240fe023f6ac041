"""Information about processes that are not children of the test process."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

#: Command lines and rights of other processes are read from /proc.
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _processes() -> list[tuple[int, int, str]]:
    """Return the id, the parent's id and the state of each process."""
    argv = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    if Path("/proc/self/stat").exists():  # small containers have no ps
        return [_stat(entry) for entry in Path("/proc").glob("[0-9]*") if _stat(entry)[0]]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(pid), int(parent), state) for pid, parent, state in map(str.split, lines)]


def _stat(entry: Path) -> tuple[int, int, str]:
    try:
        state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
    except OSError:
        return 0, 0, ""  # the process has ended meanwhile
    return int(entry.name), int(parent), state


def child_pids(parent: int) -> list[int]:
    """Return the process ids of the running children of a process."""
    return [pid for pid, ppid, state in _processes() if ppid == parent and state[0] != "Z"]


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    return any(each == pid and state[0] != "Z" for each, _, state in _processes())


def command_line(pid: int) -> list[str]:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def open_files(pid: int) -> dict[Path, str]:
    """Return the descriptors of a process in /proc, each with what it refers to."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the process has closed it meanwhile
            found[descriptor] = os.readlink(descriptor)
    return found


def option(pid: int, name: str) -> str:
    """Return the value of a process's option, given as `--name value`."""
    arguments = command_line(pid)
    return arguments[arguments.index(f"--{name}") + 1]


def kill(pid: int, number: int) -> None:
    """Send a signal to a process; do nothing if it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def proc_status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    return int(proc_status(pid)["VmRSS"].split()[0]) / 1024


def core_limits(pid: int) -> list[str]:
    """Return the soft and the hard limit of the size of a process's core file."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [each for each in lines if each.startswith("Max core file size")]
    return line.removeprefix("Max core file size").split()[:2]
