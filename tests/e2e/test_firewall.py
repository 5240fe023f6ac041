"""`ctllm firewall` with real iptables rules and routes, in a network namespace of the test."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
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
        self.socket = folder / "run" / "socket"
        self.config.write_text(f'[cloud]\nfirewall_socket = "{self.socket}"\n')
        self.programs = folder / "bin"  # before others in the PATH
        self.watchers: list[subprocess.Popen[str]] = []
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        self._inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == own:
            assert self._holder.poll() is None
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, code: int = 0, text: str = "") -> str:
        result = subprocess.run(
            [*self._inside, *argv], input=text, capture_output=True, check=False, text=True
        )
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return (result.stdout + result.stderr).strip()

    def ctllm(self, *options: str, code: int = 0) -> str:
        return self.run(str(BIN / "ctllm"), f"--config={self.config}", "firewall", *options,
                        code=code)  # fmt: skip

    def watch(self, seconds: int) -> subprocess.Popen[str]:
        """Start `ctllm firewall --watch`; return when it watches."""
        argv = [str(BIN / "ctllm"), f"--config={self.config}", "firewall", f"--watch={seconds}"]
        watcher = subprocess.Popen(
            [*self._inside, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"},
        )
        self.watchers.append(watcher)
        assert watcher.stdout is not None
        lines = iter(watcher.stdout.readline, "")
        assert any(line.startswith("Watching") for line in lines), watcher.wait()
        return watcher

    def ask(self) -> bytes:
        """Return the watcher's answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            return b"".join(iter(lambda: connection.recv(4096), b""))

    def flush(self) -> None:
        """Remove all rules and routes, as a firewall that is loaded again does."""
        for program in ("iptables", "ip6tables"):
            # At once: a watcher may be setting rules meanwhile.
            self.run(f"{program}-restore", "-w", text="*filter\nCOMMIT\n")
        self.run("ip", "route", "flush", "type", "blackhole")

    def rules(self, chain: str, program: str = "iptables") -> list[str]:
        return self.run(program, "-S", chain).splitlines()

    def routes(self) -> list[str]:
        return [line.strip() for line in self.run("ip", "-4", "route").splitlines()]

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.kill()
            watcher.wait()
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


def is_isolated(namespace: NetworkNamespace) -> bool:
    """Return whether rules and route are complete."""
    argv = (str(BIN / "ctllm"), f"--config={namespace.config}", "firewall", "--check")
    try:
        namespace.run(*argv)
    except AssertionError:
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_flushed_rules_are_set_again(namespace: NetworkNamespace) -> None:
    """By a watcher that was started after another one was killed; two do not run."""
    killed = namespace.watch(60)
    assert is_isolated(namespace)
    refused = namespace.ctllm("--watch", code=1)
    assert "another ctllm firewall --watch listens" in refused
    killed.kill()
    killed.wait()
    namespace.watch(1)
    namespace.flush()
    wait_for(lambda: is_isolated(namespace))
    assert namespace.rules("INPUT") == INPUT and namespace.routes() == [ROUTE]


def test_an_answer_follows_a_check(namespace: NetworkNamespace) -> None:
    """Rules are complete when the answer arrives; if they cannot be set, it has the reason."""
    watcher = namespace.watch(60)
    for _ in range(3):
        namespace.flush()
        assert namespace.ask() == b'{"problem":""}\n'
        assert is_isolated(namespace)
    assert stat.filemode(namespace.socket.stat().st_mode) == "srw-rw----"
    namespace.programs.mkdir()
    broken = namespace.programs / "ip6tables"
    broken.write_text("#!/bin/sh\necho the table is broken >&2\nexit 4\n")
    broken.chmod(0o755)
    for _ in range(2):
        assert b"ip6tables -w -S: the table is broken" in namespace.ask()
    broken.unlink()
    assert namespace.ask() == b'{"problem":""}\n'
    watcher.terminate()
    output, _ = watcher.communicate()
    assert output.count("the table is broken") == 1
    assert is_isolated(namespace), "The rules end with the watcher."
