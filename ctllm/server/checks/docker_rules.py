"""The check of Docker's own firewall rules: those of published ports, and of the way out.

Docker sets them when it and its containers start, and does not notice when something removes them:
a firewall that is loaded again, `nft flush ruleset`. Connections to published ports then still
arrive, through a program of Docker, but all seem to come from one address; and containers reach
nothing outside, so that certificates are not renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface

from ctllm.server.checks.connection import ProbeError
from ctllm.server.checks.engine import Container, Engine, Info
from ctllm.server.checks.findings import Finding, fault, ok, unknown

_CHECK = "Docker rules"
#: Of compose.yaml. The other networks are internal, or have published ports alone.
_WAY_OUT = "outbound"
_ADVICE = (
    "Something has removed them, such as a firewall that was loaded again. Docker sets them when "
    "it starts: sudo systemctl restart docker. With live-restore, containers run on; else they "
    "start again, which cuts streams."
)

#: Returns the rules of the tables `nat` and `filter` as `iptables -S` does; raises ProbeError.
ReadRules = Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class RequiredRule:
    """A rule of a chain, with all of `parts`; `name` is for people."""

    name: str
    chain: str
    parts: tuple[str, ...]

    def is_among(self, rules: Sequence[str]) -> bool:
        """Return whether one of `rules` is this one."""
        chain = f"-A {self.chain} "
        return any(
            rule.startswith(chain) and all(part in f"{rule} " for part in self.parts)
            for rule in rules
        )


def required_rules(containers: Sequence[Container], project: str) -> list[RequiredRule]:
    """Return the rules without which these containers of a project are not as they should be."""
    rules = [*_rules_of_ports(containers), *_rules_of_way_out(containers, project)]
    if not rules:
        return []
    return [
        RequiredRule("the jump from PREROUTING", "PREROUTING", ("-j DOCKER ",)),
        RequiredRule("the jump from FORWARD", "FORWARD", ("-j DOCKER",)),
        *dict.fromkeys(rules),
    ]


def _rules_of_ports(containers: Sequence[Container]) -> Iterator[RequiredRule]:
    for container in containers:
        for inside, published in container.network_settings.ports.items():
            port, _, protocol = inside.partition("/")
            for each in published or ():
                if ":" not in each.address:  # IPv6 has tables of its own
                    parts = (f"-p {protocol} ", f"--dport {each.port} ", "-j DNAT ", f":{port} ")
                    yield RequiredRule(f"port {each.port}/{protocol}", "DOCKER", parts)


def _rules_of_way_out(containers: Sequence[Container], project: str) -> Iterator[RequiredRule]:
    for container in containers:
        network = container.network_settings.networks.get(f"{project}_{_WAY_OUT}")
        if network is not None and network.address:
            subnet = ip_interface(f"{network.address}/{network.prefix_length}").network
            parts = (f"-s {subnet} ", "-j MASQUERADE ")
            yield RequiredRule(f"the way out of {subnet}", "POSTROUTING", parts)


def check_docker_rules(engine: Engine, project: str, read_rules: ReadRules) -> Finding:
    """Return whether Docker's rules for the containers of a project are there."""
    try:
        info = engine.info()
        containers = [engine.inspect(each) for each in engine.list_project(project).values()]
    except (ProbeError, ValueError) as error:
        return unknown(_CHECK, str(error))
    if reason := _reason_not_to_judge(info):
        return unknown(_CHECK, reason)
    required = required_rules(containers, project)
    if not required:
        return ok(_CHECK, "no container has a published port or a way out")
    try:
        rules = read_rules()
    except ProbeError as error:
        return unknown(_CHECK, str(error), "Run the command with sudo.")
    missing = [each.name for each in required if not each.is_among(rules)]
    if missing:
        return fault(_CHECK, f"missing: {', '.join(missing)}", _ADVICE)
    return ok(_CHECK, f"all {len(required)} that the containers need are set")


def _reason_not_to_judge(info: Info) -> str:
    """Return why Docker's rules are not in the tables of iptables, or an empty string."""
    backend = info.firewall_backend
    if backend is not None and not backend.driver.startswith("iptables"):  # or iptables+firewalld
        return f"Docker sets them with {backend.driver}, which is not read here"
    if "name=rootless" in info.security_options:
        return "Docker runs without root, in a network namespace of its own"
    return ""
