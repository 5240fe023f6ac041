"""What a process, or the control group that it is in, uses: read from Linux's files, cheaply."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ctllm.cloud.spawners.interfaces import Usage

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def of_process(pid: int, proc: Path = PROC) -> Usage | None:
    """Its resident memory and its processor time; None where that cannot be read (proc(5))."""
    with suppress(OSError, ValueError, IndexError):
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
        # The name, in parentheses, may hold anything; times are fields 14 and 15.
        told = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks = int(told[11]) + int(told[12])
        return Usage(pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"))
    return None


def of_container(pid: int, id: str, proc: Path = PROC, groups: Path = GROUPS) -> Usage | None:
    """What the control group of the container `id` uses, whose first process is `pid`.

    None where that cannot be read, or where the process is another's by now. Files that could be
    dropped from memory at any time do not count.
    """
    with suppress(OSError, ValueError, KeyError):
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        paths = {}
        for line in lines:
            _, names, path = line.split(":", 2)
            if id in path:
                paths.update(dict.fromkeys(names.split(","), path.lstrip("/")))
        # Systems may have both, and what is counted then is in the first.
        return _first(groups, paths) if "memory" in paths else _second(groups / paths[""])
    return None


def _second(group: Path) -> Usage:
    """Version 2: one tree for everything."""
    spare = _field(group / "memory.stat", "inactive_file")
    memory = int((group / "memory.current").read_text())
    return Usage(max(0, memory - spare), _field(group / "cpu.stat", "usage_usec") / 1e6)


def _first(groups: Path, paths: dict[str, str]) -> Usage:
    """Version 1: a tree for each kind of thing."""
    group = groups / "memory" / paths["memory"]
    spare = _field(group / "memory.stat", "total_inactive_file")
    memory = int((group / "memory.usage_in_bytes").read_text())
    cpu = int((groups / "cpuacct" / paths["cpuacct"] / "cpuacct.usage").read_text())
    return Usage(max(0, memory - spare), cpu / 1e9)


def _field(path: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
