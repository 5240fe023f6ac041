"""What an engine and a cloud have on a machine: containers, networks, links, rules, files.

The difference of two inventories is what was left over.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.processes import find_program
from tests.e2e.dockerd import Dockerd, mounts_below

#: The counters of packets and bytes in the output of iptables-save.
_COUNTERS = re.compile(r" \[\d+:\d+\]$")
_RULES = ("iptables-save", "ip6tables-save")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def take_inventory(engine: Dockerd, state: Path, cgroup_parent: str) -> frozenset[str]:
    """One entry for each thing that the users of a cloud may leave, as `KIND NAME`.

    `state` is the state folder of the cloud, and `cgroup_parent` the control group that has those
    of all containers. The engine runs in the network namespace of this process.
    """
    return frozenset(
        [
            *entries("container", engine.docker("ps", "-aq", "--no-trunc").splitlines()),
            *entries("network", engine.docker("network", "ls", "-q", "--no-trunc").splitlines()),
            *entries("link", link_names(_run("ip", "-o", "link").splitlines())),
            *entries("route", _run("ip", "route").splitlines()),
            *(each for command in _RULES for each in entries(command, rules(_run(command)))),
            *entries("mount", mounts_below(engine.folder)),
            *entries("file", files_below(state / "sockets", state / "run")),
            *entries("cgroup", control_groups(cgroup_parent)),
        ]
    )


def entries(kind: str, names: Iterable[str]) -> Iterator[str]:
    """Entries of one kind."""
    return (f"{kind} {name}" for name in names)


def link_names(lines: Iterable[str]) -> Iterator[str]:
    """The names of links in the output of `ip -o link`, without the other end of a pair."""
    return (line.split(": ")[1].partition("@")[0] for line in lines)


def rules(saved: str) -> Iterator[str]:
    """The rules and chains in the output of `iptables-save`, without comments and counters."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line and not line.startswith("#") and line != "COMMIT":
            yield f"{table}: {_COUNTERS.sub('', line)}"


def files_below(*folders: Path) -> Iterator[str]:
    """All that folders contain."""
    return (str(path) for folder in folders if folder.exists() for path in folder.rglob("*"))


def control_groups(parent: str, mounted: Path = _CONTROL_GROUPS) -> Iterator[str]:
    """The control groups below `parent`, of all controllers."""
    for path in _parent_groups(parent, mounted):
        yield from (str(group) for group in path.iterdir() if group.is_dir())


def remove_control_groups(parent: str, mounted: Path = _CONTROL_GROUPS) -> None:
    """Remove `parent`, of all controllers, and what is below it, unless processes are in it."""
    for path in _parent_groups(parent, mounted):
        for folder, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


def _parent_groups(parent: str, mounted: Path) -> list[Path]:
    """Version 2 has one hierarchy, version 1 has one for each controller."""
    name = parent.strip("/")
    return [path for path in (mounted / name, *mounted.glob(f"*/{name}")) if path.exists()]


def summarise(left_over: Iterable[str]) -> str:
    """The number of entries of each kind; "nothing" if there are none."""
    kinds = Counter(entry.partition(" ")[0] for entry in left_over)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"


def _run(*argv: str) -> str:
    program, *options = argv
    return subprocess.run(
        [find_program(program), *options], check=True, capture_output=True, text=True
    ).stdout
