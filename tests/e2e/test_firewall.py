"""`ctllm firewall` with the real iptables and routes, of a network namespace of the test's own."""

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


class Space:
    """A network namespace; `run` runs a command in it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "ctllm.toml"
        self.config.write_text("")
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        self._inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == ours:
            assert self._holder.poll() is None
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, code: int = 0) -> str:
        ran = subprocess.run([*self._inside, *argv], capture_output=True, check=False, text=True)
        assert ran.returncode == code, (ran.returncode, ran.stdout, ran.stderr)
        return (ran.stdout + ran.stderr).strip()

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
def space(tmp_path: Path) -> Iterator[Space]:
    """An empty one."""
    made = Space(tmp_path)
    yield made
    made.close()


def test_closes_and_opens(space: Space) -> None:
    """It says what is missing, prints what it runs, does nothing twice, and takes all away."""
    before = space.run("iptables-save"), space.routes()
    missing = space.ctllm("--check", code=1)
    assert missing.startswith("Missing:\niptables -w -N CTLLM\n")
    assert (space.run("iptables-save"), space.routes()) == before, "check only looks"
    printed = space.ctllm()
    assert set(missing.splitlines()[1:]) < set(printed.splitlines())
    for program in ("iptables", "ip6tables"):
        assert space.rules("INPUT", program) == INPUT
        assert space.rules("CTLLM", program) == CHAIN
        assert set(space.rules("FORWARD", program)) > FORWARD
    assert space.routes() == [ROUTE]
    assert space.ctllm("--check").startswith("Nothing is missing")
    assert space.ctllm().startswith("Nothing is missing")
    assert space.rules("INPUT") == INPUT
    space.ctllm("--remove")
    assert space.rules("INPUT") == INPUT[:1] and space.routes() == []
    assert "CTLLM" not in space.run("ip6tables", "-S")
    assert space.ctllm("--remove").startswith("Nothing to remove")


def test_mends_what_others_did(space: Space) -> None:
    """A rule before ours, ours twice, one missing: all as it was; rules of others stay."""
    space.ctllm()
    other = "-A INPUT -p tcp -j ACCEPT"
    space.run("iptables", "-I", "INPUT", "1", *other.split()[2:])
    space.run("iptables", "-A", "INPUT", *INPUT[1].split()[2:])
    space.run("iptables", "-D", "CTLLM", "-j", "DROP")
    space.run("iptables", "-D", "FORWARD", "-i", "ctl+", "-j", "DROP")
    space.ctllm("--check", code=1)
    space.ctllm()
    assert space.rules("INPUT") == [*INPUT, other] and space.rules("CTLLM") == CHAIN
    assert set(space.rules("FORWARD")) > FORWARD
    space.ctllm("--remove")
    assert space.rules("INPUT") == [INPUT[0], other]


def test_another_pool(space: Space) -> None:
    """The route follows the configuration, and no other route is touched."""
    space.run("ip", "route", "add", "blackhole", "10.9.0.0/16", "metric", "5")
    space.ctllm()
    space.config.write_text('[cloud]\ndocker_network_pool = "10.144.0.0/16"\n')
    space.ctllm()
    assert sorted(space.routes()) == [
        "blackhole 10.144.0.0/16 metric 9999",
        "blackhole 10.9.0.0/16 metric 5",
    ]


def test_what_is_wrong_is_said(space: Space) -> None:
    """The pool that is none, and a chain that somebody else uses too."""
    space.config.write_text('[cloud]\ndocker_network_pool = "8.8.8.0/24"\n')
    assert "docker_network_pool" in space.ctllm(code=1)
    space.config.write_text("")
    space.ctllm()
    space.run("iptables", "-A", "INPUT", "-s", "10.1.0.0/16", "-j", "CTLLM")
    assert "iptables -w -X CTLLM" in space.ctllm("--remove", code=1)
