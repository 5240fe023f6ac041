"""The command `ctllm firewall`: isolate containers from their host."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ctllm.cli.output import print_text
from ctllm.cli.parser import Parser
from ctllm.cloud import firewall
from ctllm.config import Config, parse_network_pool
from ctllm.errors import BadConfiguration

#: Exists only if the kernel has IPv6.
_IPV6 = Path("/proc/net/if_inet6")
#: Where system programs are, which a user's PATH may lack.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def add_commands(parser: Parser) -> None:
    """Add firewall."""
    firewall_parser = parser.add_command(
        "firewall",
        run,
        "Isolate containers from the host",
        "Isolate the containers of streaming proxies from this machine: drop what they send to it "
        "or through it, except responses to the cloud. The command prints the rules that are "
        "missing and adds them. Run it as root after each boot.",
        heading="on the server",
        examples=("sudo ctllm firewall", "sudo ctllm firewall --check"),
    )
    choice = firewall_parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--check", action="store_true",
        help="only print what is missing; exit with status 1 if anything is",
    )  # fmt: skip
    choice.add_argument("--remove", action="store_true", help="remove the rules of this command")


def run(config: Config, arguments: Namespace) -> None:
    """Add the rules, remove them, or print which are missing."""
    state = _read_state()
    if arguments.remove:
        commands = firewall.removal_commands(state)
        _run_all(commands, "Nothing to remove: there are no rules or routes of ctllm.")
        return
    pool = parse_network_pool(config.cloud.docker_network_pool)
    missing = firewall.install_commands(state, pool)
    complete = f"Nothing is missing: containers are isolated ({', '.join(state.rules)}, {pool})."
    if arguments.check:
        print_text("\n".join(["Missing:", *map(shlex.join, missing)]) if missing else complete)
        raise SystemExit(1 if missing else 0)
    _run_all(missing, complete)
    if missing and (still := firewall.install_commands(_read_state(), pool)):
        raise BadConfiguration(
            f"still missing after it was added: {'; '.join(map(shlex.join, still))}"
        )


def _read_state() -> firewall.FirewallState:
    if os.geteuid() != 0:
        raise BadConfiguration("only root can read and change rules; run: sudo ctllm firewall")
    programs = ["iptables", *["ip6tables"] * _IPV6.exists()]
    rules = {each: _run(firewall.list_rules_command(each)) for each in programs}
    return firewall.FirewallState(rules, _run(firewall.LIST_ROUTES_COMMAND))


def _run_all(commands: Sequence[firewall.Command], nothing: str) -> None:
    if not commands:
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
    done = subprocess.run(argv, capture_output=True, check=False, text=True)  # noqa: S603
    if done.returncode:
        raise BadConfiguration(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.splitlines()
