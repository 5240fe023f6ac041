"""The resources that processes and containers use, read from Linux's proc and cgroup files."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ctllm.cloud.spawners.interfaces import ResourceUsage

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def process_usage(pid: int, proc: Path = PROC) -> ResourceUsage | None:
    """Return the resident memory and processor time of a process, or None if it has no entry."""
    with suppress(OSError, ValueError, IndexError):
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
        # Fields 14 and 15 (proc(5)); the second field is a name, which may contain anything.
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return ResourceUsage(pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"))
    return None


def container_usage(
    pid: int, container_id: str, proc: Path = PROC, cgroups: Path = CGROUPS
) -> ResourceUsage | None:
    """Return what the control group of a container uses, whose first process is `pid`.

    Return None if it cannot be read, or if `pid` is another process by now. The memory does not
    include files that the kernel can drop at any time.
    """
    with suppress(OSError, ValueError, KeyError):
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        paths = {}
        for line in lines:
            _, names, path = line.split(":", 2)
            if container_id in path:
                paths.update(dict.fromkeys(names.split(","), path.lstrip("/")))
        # Systems may mount both versions. The controllers are then in version 1.
        return (
            _cgroup1_usage(cgroups, paths)
            if "memory" in paths
            else _cgroup2_usage(cgroups / paths[""])
        )
    return None


def _cgroup2_usage(group: Path) -> ResourceUsage:
    """Version 2: one hierarchy for all controllers."""
    reclaimable = _read_field(group / "memory.stat", "inactive_file")
    memory = int((group / "memory.current").read_text())
    return ResourceUsage(
        max(0, memory - reclaimable), _read_field(group / "cpu.stat", "usage_usec") / 1e6
    )


def _cgroup1_usage(cgroups: Path, paths: dict[str, str]) -> ResourceUsage:
    """Version 1: a hierarchy for each controller."""
    group = cgroups / "memory" / paths["memory"]
    reclaimable = _read_field(group / "memory.stat", "total_inactive_file")
    memory = int((group / "memory.usage_in_bytes").read_text())
    cpu = int((cgroups / "cpuacct" / paths["cpuacct"] / "cpuacct.usage").read_text())
    return ResourceUsage(max(0, memory - reclaimable), cpu / 1e9)


def _read_field(path: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
