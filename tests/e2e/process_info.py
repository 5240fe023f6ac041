"""What the system says of processes that are not this one's children."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

#: What a process was told and may do can be read from the outside only here.
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _processes() -> list[tuple[int, int, str]]:
    """Each process: its id, its parent's, its state."""
    argv = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    if Path("/proc/self/stat").exists():  # small containers have no ps
        return [_stat(entry) for entry in Path("/proc").glob("[0-9]*") if _stat(entry)[0]]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(pid), int(parent), state) for pid, parent, state in map(str.split, lines)]


def _stat(entry: Path) -> tuple[int, int, str]:
    try:
        state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
    except OSError:
        return 0, 0, ""  # it ended while we looked
    return int(entry.name), int(parent), state


def child_pids(parent: int) -> list[int]:
    """The living children of a process."""
    return [pid for pid, whose, state in _processes() if whose == parent and state[0] != "Z"]


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has buried yet has."""
    return any(each == pid and state[0] != "Z" for each, _, state in _processes())


def command_line(pid: int) -> list[str]:
    """What a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def option(pid: int, name: str) -> str:
    """The value of one option of a process, given as `--name value`."""
    told = command_line(pid)
    return told[told.index(f"--{name}") + 1]


def kill(pid: int, number: int) -> None:
    """Send a signal to a process, which may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def proc_status(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def resident_megabytes(pid: int) -> float:
    """How much of a process is in memory."""
    return int(proc_status(pid)["VmRSS"].split()[0]) / 1024
