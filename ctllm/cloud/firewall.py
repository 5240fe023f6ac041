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

from ctllm.cloud.spawners.container_spec import BRIDGE

CHAIN = "CTLLM"
#: One that no other route has: it is ours, and all others come before it.
METRIC = "9999"
_OURS = f"{BRIDGE}+"  # to iptables, every interface whose name begins so
#: As iptables prints them. Answers to the host's own connections come in, and nothing else.
_RULES = (
    f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    f"-A {CHAIN} -j DROP",
)
_JUMP = f"-A INPUT -i {_OURS} -j {CHAIN}"
#: Docker has the like for networks that are internal; these hold where its own do not.
_THROUGH = (f"-A FORWARD -i {_OURS} -j DROP", f"-A FORWARD -o {_OURS} -j DROP")

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is. `rules` has, by program, what `QUESTION` prints; `routes` the blackholes."""

    rules: Mapping[str, Sequence[str]]
    routes: Sequence[str]


def question(program: str) -> Command:
    """Prints all rules, to be given in `Found.rules`; `program` is iptables or ip6tables."""
    return (program, "-w", "-S")


#: Prints what is to be given in `Found.routes`.
ROUTES: Command = ("ip", "-4", "route", "show", "type", "blackhole")


def to_close(found: Found, pool: IPv4Network) -> list[Command]:
    """The commands that are missing until containers are closed off; `pool` has their addresses."""
    commands = []
    for program, rules in found.rules.items():
        commands += _to_close(program, rules)
    routes = _routes(found)
    commands += [_route("del", each) for each in routes if each != str(pool)]
    if str(pool) not in routes:
        commands.append(_route("add", str(pool)))
    return commands


def to_open(found: Found) -> list[Command]:
    """The commands that take away all that `to_close` puts there."""
    commands = []
    for program, rules in found.rules.items():
        ours = [each for each in rules if each in (_JUMP, *_THROUGH)]
        commands += [_deleted(program, each) for each in ours]
        if f"-N {CHAIN}" in rules:
            commands += [(program, "-w", "-F", CHAIN), (program, "-w", "-X", CHAIN)]
    return commands + [_route("del", each) for each in _routes(found)]


def _to_close(program: str, rules: Sequence[str]) -> list[Command]:
    commands: list[Command] = []
    if f"-N {CHAIN}" not in rules:
        commands.append((program, "-w", "-N", CHAIN))
    if [each for each in rules if each.startswith(f"-A {CHAIN} ")] != [*_RULES]:
        # The chain is full before anything is sent into it.
        commands += [(program, "-w", "-F", CHAIN)] * (f"-N {CHAIN}" in rules)
        commands += [(program, "-w", *each.split()) for each in _RULES]
    entrance = [each for each in rules if each.startswith("-A INPUT ")]
    if entrance[:1] != [_JUMP] or _JUMP in entrance[1:]:
        # What comes before it may let in what it would not.
        commands.append(_inserted(program, _JUMP))
        # Those in the wrong place, now one place further down; the last first.
        wrong = [at for at, rule in enumerate(entrance, 2) if rule == _JUMP]
        commands += [(program, "-w", "-D", "INPUT", str(at)) for at in reversed(wrong)]
    return commands + [_inserted(program, each) for each in _THROUGH if each not in rules]


def _inserted(program: str, rule: str) -> Command:
    _, chain, *rest = rule.split()
    return (program, "-w", "-I", chain, "1", *rest)


def _deleted(program: str, rule: str) -> Command:
    return (program, "-w", "-D", *rule.split()[1:])


def _routes(found: Found) -> list[str]:
    """The pools of our own routes, as in `blackhole 10.128.0.0/12 metric 9999`."""
    ours = []
    for line in found.routes:
        words = line.split()
        if words[:1] == ["blackhole"] and words[-2:] == ["metric", METRIC]:
            ours.append(words[1])
    return ours


def _route(what: str, pool: str) -> Command:
    return ("ip", "-4", "route", what, "blackhole", pool, "metric", METRIC)
