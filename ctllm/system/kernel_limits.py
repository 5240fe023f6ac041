"""Limits of Linux that a machine with many containers reaches, and that are low by default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Threads of a container: one of the streaming proxy, and about 11 of Docker's shim.
_THREADS_PER_CONTAINER = 14
#: Threads of all other programs.
_OTHER_THREADS = 4000
#: inotify instances of root's other programs, and neighbours on other networks.
_OTHER_INSTANCES, _OTHER_NEIGHBOURS = 128, 256
#: Exists where control groups are of version 2 only. Docker's shim then has an inotify instance for
#: each container, to be told that it is out of memory.
_CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers")
_SYSCTL = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class LowLimit:
    """A limit of this machine, by its name for sysctl(8), and what is needed."""

    name: str
    value: int
    needed: int


def find_low_limits(
    containers: int, has_networks: bool, sysctl: Path = _SYSCTL, cgroup_v2: Path = _CGROUP_V2
) -> list[LowLimit]:
    """Return the limits that so many containers reach.

    `has_networks` says whether each has a network of its own. A limit that cannot be read, because
    this is not Linux or a sandbox hides it, counts as high enough.
    """
    return [
        LowLimit(name, value, needed)
        for name, needed in _needed_limits(containers, has_networks, cgroup_v2.exists())
        if (value := _read(sysctl / name.replace(".", "/"))) is not None and value < needed
    ]


def _needed_limits(
    containers: int, has_networks: bool, has_cgroup_v2: bool
) -> Iterator[tuple[str, int]]:
    threads = _OTHER_THREADS + containers * _THREADS_PER_CONTAINER
    yield "kernel.pid_max", threads
    yield "kernel.threads-max", threads
    if has_cgroup_v2:
        yield "fs.inotify.max_user_instances", _OTHER_INSTANCES + containers
    if has_networks:  # the kernel keeps the address of each container that the cloud talks to
        yield "net.ipv4.neigh.default.gc_thresh3", _OTHER_NEIGHBOURS + containers


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
