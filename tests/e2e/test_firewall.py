"""`ctllm firewall` with real iptables rules and routes, in a network namespace of the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import BIN

INPUT = ["-P INPUT ACCEPT", "-A INPUT -i ctl+ -j CTLLM"]
CHAIN = [
    "-N CTLLM",
    "-A CTLLM -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A CTLLM -j DROP",
]
FORWARD = {"-A FORWARD -i ctl+ -j DROP", "-A FORWARD -o ctl+ -j DROP"}
ROUTE = "blackhole 10.128.0.0/12 metric 9999"


class NetworkNamespace:
    """A network namespace, with commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "ctllm.toml"
        self.config.write_text("")
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        self._inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == own:
            assert self._holder.poll() is None
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, code: int = 0) -> str:
        result = subprocess.run([*self._inside, *argv], capture_output=True, check=False, text=True)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return (result.stdout + result.stderr).strip()

    def ctllm(self, *options: str, code: int = 0) -> str:
        return self.run(str(BIN / "ctllm"), f"--config={self.config}", "firewall", *options,
                        code=code)  # fmt: skip

    def rules(self, chain: str, program: str = "iptables") -> list[str]:
        return self.run(program, "-S", chain).splitlines()

    def routes(self) -> list[str]:
        return [line.strip() for line in self.run("ip", "-4", "route").splitlines()]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[NetworkNamespace]:
    """A network namespace without rules and routes."""
    namespace = NetworkNamespace(tmp_path)
    yield namespace
    namespace.close()


def test_rules_are_checked_installed_once_and_removed(namespace: NetworkNamespace) -> None:
    """--check lists the missing commands; installing prints them; --remove removes all rules."""
    before = namespace.run("iptables-save"), namespace.routes()
    missing = namespace.ctllm("--check", code=1)
    assert missing.startswith("Missing:\niptables -w -N CTLLM\n")
    assert (namespace.run("iptables-save"), namespace.routes()) == before, "--check changes state"
    printed = namespace.ctllm()
    assert set(missing.splitlines()[1:]) < set(printed.splitlines())
    for program in ("iptables", "ip6tables"):
        assert namespace.rules("INPUT", program) == INPUT
        assert namespace.rules("CTLLM", program) == CHAIN
        assert set(namespace.rules("FORWARD", program)) > FORWARD
    assert namespace.routes() == [ROUTE]
    assert namespace.ctllm("--check").startswith("Nothing is missing")
    assert namespace.ctllm().startswith("Nothing is missing")
    assert namespace.rules("INPUT") == INPUT
    namespace.ctllm("--remove")
    assert namespace.rules("INPUT") == INPUT[:1] and namespace.routes() == []
    assert "CTLLM" not in namespace.run("ip6tables", "-S")
    assert namespace.ctllm("--remove").startswith("Nothing to remove")


def test_changed_rules_are_repaired(namespace: NetworkNamespace) -> None:
    """A rule precedes ctllm's, one is duplicated, two are missing; rules of others remain."""
    namespace.ctllm()
    other = "-A INPUT -p tcp -j ACCEPT"
    namespace.run("iptables", "-I", "INPUT", "1", *other.split()[2:])
    namespace.run("iptables", "-A", "INPUT", *INPUT[1].split()[2:])
    namespace.run("iptables", "-D", "CTLLM", "-j", "DROP")
    namespace.run("iptables", "-D", "FORWARD", "-i", "ctl+", "-j", "DROP")
    namespace.ctllm("--check", code=1)
    namespace.ctllm()
    assert namespace.rules("INPUT") == [*INPUT, other] and namespace.rules("CTLLM") == CHAIN
    assert set(namespace.rules("FORWARD")) > FORWARD
    namespace.ctllm("--remove")
    assert namespace.rules("INPUT") == [INPUT[0], other]


def test_the_route_follows_the_configured_pool(namespace: NetworkNamespace) -> None:
    """Routes that ctllm did not create remain."""
    namespace.run("ip", "route", "add", "blackhole", "10.9.0.0/16", "metric", "5")
    namespace.ctllm()
    namespace.config.write_text('[cloud]\ndocker_network_pool = "10.144.0.0/16"\n')
    namespace.ctllm()
    assert sorted(namespace.routes()) == [
        "blackhole 10.144.0.0/16 metric 9999",
        "blackhole 10.9.0.0/16 metric 5",
    ]


def test_errors_name_the_invalid_option_or_the_failed_command(namespace: NetworkNamespace) -> None:
    """The pool is not a private network; another rule refers to the chain."""
    namespace.config.write_text('[cloud]\ndocker_network_pool = "8.8.8.0/24"\n')
    assert "docker_network_pool" in namespace.ctllm(code=1)
    namespace.config.write_text("")
    namespace.ctllm()
    namespace.run("iptables", "-A", "INPUT", "-s", "10.1.0.0/16", "-j", "CTLLM")
    assert "iptables -w -X CTLLM" in namespace.ctllm("--remove", code=1)
