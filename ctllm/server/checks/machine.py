"""Checks of this machine: what a server needs before it starts, and while it runs."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ctllm.server.checks.connection import Deadline, ProbeError, resolve
from ctllm.server.checks.findings import Finding, fault, ok, unknown, warning
from ctllm.system.kernel_limits import LowLimit, find_low_limits

GB = 1_000_000_000
#: Memory of a streaming proxy, and of all other containers of a server, in bytes.
PROXY_MEMORY, SERVER_MEMORY = 35_000_000, 700_000_000
#: Free bytes below which there is a warning or a fault; and free inodes, as a part of all.
DISK_WARNING, DISK_FAULT = 3 * GB, GB // 2
_INODES_WARNING = 0.05
_PROGRAM_SECONDS = 10


# -- names


def check_name(name: str, timeout: float, is_local: Callable[[str], bool] | None = None) -> Finding:
    """Return whether a name leads to this machine."""
    try:
        addresses = resolve(name, Deadline(timeout))
    except ProbeError as error:
        advice = f"Create an A record of {name} in DNS with the address of this machine."
        return fault("DNS", f"{name}: {error}", advice)
    return judge_addresses(name, addresses, is_local or is_local_address)


def judge_addresses(
    name: str, addresses: Sequence[str], is_local: Callable[[str], bool]
) -> Finding:
    """Return the finding for the addresses of a name."""
    found = f"{name} is {', '.join(addresses)}"
    if private := [each for each in addresses if not ip_address(each).is_global]:
        advice = "The authority of the certificate must reach the server: use a public address."
        return warning("DNS", f"{found}: {private[0]} is not of the internet", advice)
    if foreign := [each for each in addresses if not is_local(each)]:
        advice = "That is right if a router forwards the address to this machine; else correct DNS."
        return warning("DNS", f"{found}: {foreign[0]} is no address of this machine", advice)
    return ok("DNS", found)


def is_local_address(address: str) -> bool:
    """Whether an address is one of this machine: only then a socket can have it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


# -- ports


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port as `.env` has it: `PORT` or `ADDRESS:PORT`."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> PublishedPort:
        """Read a port; raises ValueError."""
        address, _, port = text.rpartition(":")
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no port")
        address = address.strip("[]")
        return cls(str(ip_address(address)) if address else "", int(port))


def check_port(key: str, text: str, is_ours: bool) -> Finding:
    """Return whether a port is free. `is_ours` says that the server itself runs, and has it."""
    try:
        published = PublishedPort.parse(text)
    except ValueError as error:
        return fault("port", f"{key}: {error}", "Correct it in .env: PORT or ADDRESS:PORT")
    number = published.port
    if is_ours:
        return ok("port", f"{number} is the server's, which runs")
    try:
        _try_to_listen(published)
    except PermissionError:
        return unknown("port", f"{number}: only root can test it", "Run the command with sudo.")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = f"End the program that has it: ss -ltnp 'sport = :{number}'"
            return fault("port", f"{number} is in use", advice)
        return fault("port", f"{number}: {error.strerror}", f"Correct {key} in .env.")
    return ok("port", f"{number} is free")


def _try_to_listen(published: PublishedPort) -> None:
    """Listen for a moment; raises OSError."""
    addresses = [published.address] if published.address else ["0.0.0.0", "::"]  # noqa: S104
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a kernel without IPv6
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, published.port))
                probe.listen(1)
            except OSError as error:
                if address == "::" and error.errno == errno.EADDRNOTAVAIL:
                    continue  # IPv6 is disabled
                raise


# -- memory, disk, clock


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the values of /proc/meminfo in bytes."""
    return {
        match[1]: int(match[2]) * 1024
        for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }


def check_memory(max_users: str, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Return whether this machine has enough memory for so many users."""
    try:
        values = parse_meminfo(meminfo.read_text())
        total, available = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError):
        return unknown("memory", f"{meminfo} cannot be read")
    if not max_users.isascii() or not max_users.isdigit() or len(max_users) > 6:
        return fault("memory", f"MAX_USERS is {max_users!r}", "Set a number in .env.")
    return judge_memory(int(max_users), total, available)


def judge_memory(max_users: int, total: int, available: int) -> Finding:
    """Return the finding for the memory of this machine, in bytes."""
    needed = SERVER_MEMORY + max_users * PROXY_MEMORY
    found = f"{total / GB:.1f} GB; {max_users} users need {needed / GB:.1f} GB"
    if needed > total:
        fitting = max(0, (total - SERVER_MEMORY) // PROXY_MEMORY)
        return fault("memory", found, f"Set MAX_USERS={fitting} in .env, or add memory.")
    if available < total // 20:
        found = f"{available / GB:.1f} GB of {total / GB:.1f} GB are available"
        return warning("memory", found, "See what uses it: ps aux --sort=-rss | head")
    return ok("memory", found)


def check_kernel_limits(
    max_users: str, find: Callable[[int, bool], Sequence[LowLimit]] = find_low_limits
) -> Finding:
    """Return whether Linux allows so many containers, which have no networks."""
    low = find(int(max_users), False) if max_users.isdecimal() and len(max_users) <= 6 else []
    if not low:
        return ok("kernel", "its limits suffice")
    found = ", ".join(f"{each.name} is {each.value}, not {each.needed}" for each in low)
    setting = "; ".join(f"{each.name} = {each.needed}" for each in low)
    advice = f"Write into /etc/sysctl.d/60-ctllm.conf, then run sysctl --system: {setting}"
    return warning("kernel", f"{max_users} users need more: {found}", advice)


def check_disks(paths: Sequence[Path]) -> list[Finding]:
    """Return whether the file systems of these paths have space, each once."""
    found: dict[int, Finding] = {}
    for path in paths:
        existing = next(each for each in (path, *path.parents) if each.exists())
        try:
            device, status = existing.stat().st_dev, os.statvfs(existing)
        except OSError as error:
            found[-1] = unknown("disk", f"{path}: {error.strerror}")
            continue
        free = status.f_bavail * status.f_frsize
        inodes = status.f_favail / status.f_files if status.f_files else 1.0
        found.setdefault(device, judge_disk(str(path), free, inodes))
    return list(found.values())


def judge_disk(path: str, free: int, free_inodes: float) -> Finding:
    """Return the finding for a file system: its free bytes, and the part of free inodes."""
    found = f"{path}: {free / GB:.1f} GB are free"
    advice = "Remove what is not needed: docker system df; docker image prune"
    if free < DISK_FAULT:
        return fault("disk", found, advice)
    if free < DISK_WARNING:
        return warning("disk", found, advice)
    if free_inodes < _INODES_WARNING:
        return warning("disk", f"{path}: {free_inodes:.0%} of the inodes are free", advice)
    return ok("disk", found)


def run_program(*argv: str) -> str | None:
    """Return the output of a program, None if it is missing, fails, or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603
            argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=_PROGRAM_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def check_time_synchronisation(run: Callable[..., str | None] = run_program) -> Finding:
    """Return whether the clock of this machine follows those of the internet."""
    output = run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if output is None:
        return unknown("NTP", "timedatectl does not answer")
    if output.strip() == "yes":
        return ok("NTP", "the clock is synchronized")
    return warning("NTP", "the clock is not synchronized", "Run: timedatectl set-ntp true")


# -- Docker's programs


def find_compose(run: Callable[..., str | None] = run_program) -> tuple[str, ...]:
    """Return the command of Docker Compose: version 2, else docker-compose 1.29; () for none."""
    version = run("docker", "compose", "version", "--short")
    if version and parse_version(version) >= (2, 0):
        return ("docker", "compose")
    version = run("docker-compose", "version", "--short")
    return ("docker-compose",) if version and parse_version(version) >= (1, 29) else ()


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers at the begin of a version."""
    match = re.match(r"\s*v?(\d{1,6}(?:\.\d{1,6}){0,3})", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def check_compose(command: Sequence[str]) -> Finding:
    """Return whether there is a Docker Compose."""
    if command:
        return ok("Compose", " ".join(command))
    advice = "Install docker-compose-plugin of Docker, or docker-compose of Debian."
    return fault("Compose", "neither `docker compose` nor docker-compose 1.29 is here", advice)


def docker_socket(env: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Path:
    """Return the socket of the engine: that of `.env`, of $DOCKER_HOST, else the usual one."""
    host = environ.get("DOCKER_HOST", "")
    usual = host.removeprefix("unix://") if host.startswith("unix:///") else "/var/run/docker.sock"
    return Path(env.get("DOCKER_SOCKET") or usual)
