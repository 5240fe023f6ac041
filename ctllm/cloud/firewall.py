"""The firewall rules that isolate containers of streaming proxies from their host.

Docker's internal networks have no route to other networks, but containers in them reach all
services of the host that listen on all addresses. And the host sends packets for a container that
no longer exists to its default route. Rules for the bridges prevent the former, a blackhole route
the latter.

Nothing here runs a program: the functions take the output of commands and return commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from ctllm.cloud.spawners.container_spec import BRIDGE_PREFIX

CHAIN = "CTLLM"
#: The metric by which our route is recognised. All other routes take precedence over it.
ROUTE_METRIC = "9999"
_BRIDGES = f"{BRIDGE_PREFIX}+"  # iptables' pattern for all interfaces with this prefix
#: As iptables prints them. Only packets of connections that the host opened are accepted.
_CHAIN_RULES = (
    f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    f"-A {CHAIN} -j DROP",
)
_JUMP_RULE = f"-A INPUT -i {_BRIDGES} -j {CHAIN}"
#: Docker has such rules for internal networks. These apply where Docker's do not.
_FORWARD_RULES = (f"-A FORWARD -i {_BRIDGES} -j DROP", f"-A FORWARD -o {_BRIDGES} -j DROP")

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FirewallState:
    """The rules and routes that exist.

    `rules` are the lines that `list_rules_command` prints, by program. `routes` are the lines that
    `LIST_ROUTES_COMMAND` prints.
    """

    rules: Mapping[str, Sequence[str]]
    routes: Sequence[str]


def list_rules_command(program: str) -> Command:
    """Return the command that prints all rules. `program` is iptables or ip6tables."""
    return (program, "-w", "-S")


#: The command that prints all blackhole routes.
LIST_ROUTES_COMMAND: Command = ("ip", "-4", "route", "show", "type", "blackhole")


def install_commands(state: FirewallState, pool: IPv4Network) -> list[Command]:
    """Return the commands that isolate containers, whose addresses are in `pool`."""
    commands = []
    for program, rules in state.rules.items():
        commands += _install_rules(program, rules)
    blackholes = _own_blackholes(state)
    commands += [_route_command("del", each) for each in blackholes if each != str(pool)]
    if str(pool) not in blackholes:
        commands.append(_route_command("add", str(pool)))
    return commands


def removal_commands(state: FirewallState) -> list[Command]:
    """Return the commands that remove all that `install_commands` adds."""
    commands = []
    for program, rules in state.rules.items():
        installed = [each for each in rules if each in (_JUMP_RULE, *_FORWARD_RULES)]
        commands += [_delete(program, each) for each in installed]
        if f"-N {CHAIN}" in rules:
            commands += [(program, "-w", "-F", CHAIN), (program, "-w", "-X", CHAIN)]
    return commands + [_route_command("del", each) for each in _own_blackholes(state)]


def _install_rules(program: str, rules: Sequence[str]) -> list[Command]:
    commands: list[Command] = []
    if f"-N {CHAIN}" not in rules:
        commands.append((program, "-w", "-N", CHAIN))
    if [each for each in rules if each.startswith(f"-A {CHAIN} ")] != [*_CHAIN_RULES]:
        # Fill the chain before a rule jumps to it.
        commands += [(program, "-w", "-F", CHAIN)] * (f"-N {CHAIN}" in rules)
        commands += [(program, "-w", *each.split()) for each in _CHAIN_RULES]
    input_rules = [each for each in rules if each.startswith("-A INPUT ")]
    if input_rules[:1] != [_JUMP_RULE] or _JUMP_RULE in input_rules[1:]:
        # An earlier rule could accept what the chain drops.
        commands.append(_insert(program, _JUMP_RULE))
        # Delete the others, last first. Their numbers have grown by one.
        misplaced = [at for at, rule in enumerate(input_rules, 2) if rule == _JUMP_RULE]
        commands += [(program, "-w", "-D", "INPUT", str(at)) for at in reversed(misplaced)]
    return commands + [_insert(program, each) for each in _FORWARD_RULES if each not in rules]


def _insert(program: str, rule: str) -> Command:
    _, chain, *rest = rule.split()
    return (program, "-w", "-I", chain, "1", *rest)


def _delete(program: str, rule: str) -> Command:
    return (program, "-w", "-D", *rule.split()[1:])


def _own_blackholes(state: FirewallState) -> list[str]:
    """Return the destinations of our routes, like `blackhole 10.128.0.0/12 metric 9999`."""
    pools = []
    for line in state.routes:
        words = line.split()
        if words[:1] == ["blackhole"] and words[-2:] == ["metric", ROUTE_METRIC]:
            pools.append(words[1])
    return pools


def _route_command(action: str, pool: str) -> Command:
    return ("ip", "-4", "route", action, "blackhole", pool, "metric", ROUTE_METRIC)
