"""What keeps containers of streaming proxies from their host: which rules, and how to get there.

Docker's internal networks lead to no other network, but to the host itself: to all of its services
that listen on all addresses. And a packet to an address of a container that is gone leaves by the
default route, to whoever has that address there. Rules by the name of the bridges close the one, a
route of last resort the other. Nothing here runs anything: commands are given, and what they print
is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from ctllm.cloud.spawners.container_spec import BRIDGE_PREFIX

CHAIN = "CTLLM"
#: One that no other route has: it is ours, and all others come before it.
ROUTE_METRIC = "9999"
_BRIDGES = f"{BRIDGE_PREFIX}+"  # to iptables, every interface whose name begins so
#: As iptables prints them. Answers to the host's own connections come in, and nothing else.
_CHAIN_RULES = (
    f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    f"-A {CHAIN} -j DROP",
)
_JUMP_RULE = f"-A INPUT -i {_BRIDGES} -j {CHAIN}"
#: Docker has the like for networks that are internal; these hold where its own do not.
_FORWARD_RULES = (f"-A FORWARD -i {_BRIDGES} -j DROP", f"-A FORWARD -o {_BRIDGES} -j DROP")

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FirewallState:
    """What there is. `rules` has, by program, what `QUESTION` prints; `routes` the blackholes."""

    rules: Mapping[str, Sequence[str]]
    routes: Sequence[str]


def list_rules_command(program: str) -> Command:
    """Prints all rules, to be given in `Found.rules`; `program` is iptables or ip6tables."""
    return (program, "-w", "-S")


#: Prints what is to be given in `Found.routes`.
LIST_ROUTES_COMMAND: Command = ("ip", "-4", "route", "show", "type", "blackhole")


def install_commands(state: FirewallState, pool: IPv4Network) -> list[Command]:
    """The commands that are missing until containers are closed off; `pool` has their addresses."""
    commands = []
    for program, rules in state.rules.items():
        commands += _install_rules(program, rules)
    blackholes = _own_blackholes(state)
    commands += [_route_command("del", each) for each in blackholes if each != str(pool)]
    if str(pool) not in blackholes:
        commands.append(_route_command("add", str(pool)))
    return commands


def removal_commands(state: FirewallState) -> list[Command]:
    """The commands that take away all that `to_close` puts there."""
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
        # The chain is full before anything is sent into it.
        commands += [(program, "-w", "-F", CHAIN)] * (f"-N {CHAIN}" in rules)
        commands += [(program, "-w", *each.split()) for each in _CHAIN_RULES]
    input_rules = [each for each in rules if each.startswith("-A INPUT ")]
    if input_rules[:1] != [_JUMP_RULE] or _JUMP_RULE in input_rules[1:]:
        # What comes before it may let in what it would not.
        commands.append(_insert(program, _JUMP_RULE))
        # Those in the wrong place, now one place further down; the last first.
        misplaced = [at for at, rule in enumerate(input_rules, 2) if rule == _JUMP_RULE]
        commands += [(program, "-w", "-D", "INPUT", str(at)) for at in reversed(misplaced)]
    return commands + [_insert(program, each) for each in _FORWARD_RULES if each not in rules]


def _insert(program: str, rule: str) -> Command:
    _, chain, *rest = rule.split()
    return (program, "-w", "-I", chain, "1", *rest)


def _delete(program: str, rule: str) -> Command:
    return (program, "-w", "-D", *rule.split()[1:])


def _own_blackholes(state: FirewallState) -> list[str]:
    """The pools of our own routes, as in `blackhole 10.128.0.0/12 metric 9999`."""
    pools = []
    for line in state.routes:
        words = line.split()
        if words[:1] == ["blackhole"] and words[-2:] == ["metric", ROUTE_METRIC]:
            pools.append(words[1])
    return pools


def _route_command(action: str, pool: str) -> Command:
    return ("ip", "-4", "route", action, "blackhole", pool, "metric", ROUTE_METRIC)
