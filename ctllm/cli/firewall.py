"""The command `ctllm firewall`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ctllm.cli.options import Command
from ctllm.cli.output import print_text
from ctllm.cloud import firewall
from ctllm.config import Config, parse_network_pool
from ctllm.errors import BadConfiguration

#: There only where the system has IPv6.
_IPV6 = Path("/proc/net/if_inet6")
#: Where programs of the system are, which a user's path need not name.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def run(config: Config, told: Command) -> None:
    """Close containers off, or open, or say what is missing."""
    found = _look()
    if told["remove"]:
        _do(
            firewall.removal_commands(found),
            "Nothing to remove: there are no rules and routes of ctllm's.",
        )
        return
    pool = parse_network_pool(config.cloud.docker_network_pool)
    missing = firewall.install_commands(found, pool)
    well = f"Nothing is missing: containers are closed off ({', '.join(found.rules)}, {pool})."
    if told["check"]:
        print_text("\n".join(["Missing:", *map(shlex.join, missing)]) if missing else well)
        raise SystemExit(1 if missing else 0)
    _do(missing, well)
    if missing and (still := firewall.install_commands(_look(), pool)):
        raise BadConfiguration(
            f"this is still missing, though it was done: {'; '.join(map(shlex.join, still))}"
        )


def _look() -> firewall.FirewallState:
    if os.geteuid() != 0:
        raise BadConfiguration("only root sees and sets rules: sudo ctllm firewall")
    programs = ["iptables", *["ip6tables"] * _IPV6.exists()]
    rules = {each: _run(firewall.list_rules_command(each)) for each in programs}
    return firewall.FirewallState(rules, _run(firewall.LIST_ROUTES_COMMAND))


def _do(commands: Sequence[firewall.Command], nothing: str) -> None:
    if not commands:
        print_text(nothing)
        return
    print_text("\n".join(["This is run now:", *map(shlex.join, commands)]))
    for each in commands:
        _run(each)
    print_text("Done.")


def _run(command: firewall.Command) -> list[str]:
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise BadConfiguration(f"{command[0]} is not here; install iptables and iproute2")
    argv = [program, *command[1:]]
    ran = subprocess.run(argv, capture_output=True, check=False, text=True)  # noqa: S603
    if ran.returncode:
        raise BadConfiguration(f"{shlex.join(command)}: {ran.stderr.strip()}")
    return ran.stdout.splitlines()
