"""The command `ctllm firewall`: isolate containers from their host."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from ctllm.cli.firewall_watcher import FirewallWatcher, listen
from ctllm.cli.output import print_text
from ctllm.cli.parser import Parser
from ctllm.cloud import firewall
from ctllm.config import Config, parse_network_pool
from ctllm.errors import BadConfiguration

#: Exists only if the kernel has IPv6.
_IPV6 = Path("/proc/net/if_inet6")
#: Where system programs are, which a user's PATH may lack.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
#: Seconds between two checks: by default, and at most.
_INTERVAL, _MAX_INTERVAL = 10, 60
#: Seconds that a command may take. iptables waits for its lock.
_TIMEOUT = 8
_COMPLETE = "Nothing is missing: containers in {} are isolated from this machine."


def add_commands(parser: Parser) -> None:
    """Add firewall."""
    firewall_parser = parser.add_command(
        "firewall",
        run,
        "Isolate containers from the host",
        "Isolate the containers of streaming proxies from this machine: drop what they send to it "
        "or through it, except responses to the cloud. The command prints the rules that are "
        "missing and adds them. With --watch it stays, sets rules again that another program has "
        "removed, and confirms them to the cloud, which starts no container without that. Run it "
        "as root; ctllm-firewall.service does.",
        heading="on the server",
        examples=(
            "sudo ctllm firewall                  set the rules once",
            "sudo ctllm firewall --check          only print what is missing",
            "sudo -u root -g ctllm ctllm firewall --watch",
        ),
    )
    choice = firewall_parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--watch", nargs="?", const=_INTERVAL, type=_parse_interval, metavar="SECONDS",
        help="set missing rules every SECONDS (1 to 60, default "
        f"{_INTERVAL}) and whenever the cloud asks at cloud.firewall_socket, to which the group of "
        "this process may connect",
    )  # fmt: skip
    choice.add_argument(
        "--check", action="store_true",
        help="only print what is missing; exit with status 1 if anything is",
    )  # fmt: skip
    choice.add_argument("--remove", action="store_true", help="remove the rules of this command")


def run(config: Config, arguments: Namespace) -> None:
    """Add the rules, keep them, remove them, or print which are missing."""
    if arguments.remove:
        commands = firewall.removal_commands(_read_state())
        _run_all(commands, "Nothing to remove: there are no rules or routes of ctllm.")
        return
    pool = parse_network_pool(config.cloud.docker_network_pool)
    if arguments.check:
        missing = firewall.install_commands(_read_state(), pool)
        lines = ["Missing:", *map(shlex.join, missing)] if missing else [_COMPLETE.format(pool)]
        print_text("\n".join(lines))
        raise SystemExit(1 if missing else 0)
    _install(pool, _COMPLETE.format(pool))
    if arguments.watch is not None:
        _watch(pool, config.cloud.firewall_socket, arguments.watch)


def _watch(pool: IPv4Network, socket_path: str, interval: float) -> None:
    if not socket_path:
        raise BadConfiguration("cloud.firewall_socket is empty: the cloud could not ask")
    path = Path(socket_path).expanduser()
    watcher = FirewallWatcher(lambda: _install(pool, ""), listen(path), interval)
    print_text(f"Watching every {interval:g} s. The cloud asks at {path}.")
    with suppress(KeyboardInterrupt):
        while True:
            watcher.run_once()


def _install(pool: IPv4Network, nothing: str) -> None:
    """Add what is missing; print `nothing` if nothing is. Raises BadConfiguration."""
    missing = firewall.install_commands(_read_state(), pool)
    _run_all(missing, nothing)
    if missing and (still := firewall.install_commands(_read_state(), pool)):
        raise BadConfiguration(
            f"still missing after it was added: {'; '.join(map(shlex.join, still))}"
        )


def _parse_interval(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _MAX_INTERVAL:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to {_MAX_INTERVAL}")
    return int(text)


def missing_rules(config: Config) -> list[firewall.Command]:
    """Return the commands that add what is missing; raises BadConfiguration."""
    pool = parse_network_pool(config.cloud.docker_network_pool)
    return firewall.install_commands(_read_state(), pool)


def read_docker_rules() -> list[str]:
    """Return the rules of the tables that Docker uses, for IPv4; raises BadConfiguration."""
    if os.geteuid() != 0:
        raise BadConfiguration("only root can read rules")
    command = firewall.list_rules_command("iptables")
    return [*_run(command), *_run((*command, "-t", "nat"))]


def _read_state() -> firewall.FirewallState:
    if os.geteuid() != 0:
        raise BadConfiguration("only root can read and change rules; run: sudo ctllm firewall")
    programs = ["iptables", *["ip6tables"] * _IPV6.exists()]
    rules = {each: _run(firewall.list_rules_command(each)) for each in programs}
    return firewall.FirewallState(rules, _run(firewall.LIST_ROUTES_COMMAND))


def _run_all(commands: Sequence[firewall.Command], nothing: str) -> None:
    if not commands:
        if nothing:
            print_text(nothing)
        return
    print_text("\n".join(["Running:", *map(shlex.join, commands)]))
    for command in commands:
        _run(command)
    print_text("Done.")


def _run(command: firewall.Command) -> list[str]:
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise BadConfiguration(f"{command[0]} is not installed; install iptables and iproute2")
    argv = [program, *command[1:]]
    try:
        done = subprocess.run(  # noqa: S603
            argv, capture_output=True, check=False, text=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise BadConfiguration(
            f"{shlex.join(command)} did not end within {_TIMEOUT} s; does another program hold the "
            "lock of iptables?"
        ) from None
    if done.returncode:
        raise BadConfiguration(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.splitlines()
