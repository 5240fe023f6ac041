"""Kill and restart the tray, the connection to the cloud and Ollama at random, a thousand times.

The desktop keeps running. Afterwards it must be connected, with no process, socket or file left
over, and without memory growth:

    python -m tests.soak [--rounds 1000] [--seed 1]

Prints a line for every fifty kills; exits with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from ctllm.errors import CtllmError
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import Status
from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.desktop_session import DesktopSession
from tests.e2e.process_info import resident_megabytes
from tests.ports import free_port

#: Seconds within which everything must be connected again after a kill.
HEALTHY_TIMEOUT = 60.0


class RelayedConnection(ProxyServer):
    """A connection from the desktop to its cloud."""

    def connectionMade(self) -> None:
        cast(CloudRelay, self.factory).connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any = None) -> None:
        cast(CloudRelay, self.factory).connections.discard(self)
        super().connectionLost(reason)


class CloudRelay(ProxyFactory):
    """A TCP relay between desktop and cloud whose connections can be aborted."""

    protocol = RelayedConnection
    noisy = False

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.connections: set[RelayedConnection] = set()

    def abort_connections(self) -> int:
        """Abort every connection; return how many."""
        connections = list(self.connections)
        for each in connections:
            cast(Any, each.transport).abortConnection()
        return len(connections)


class Soak:
    """A desktop session with a desktop, a tray and Ollama, and a cloud."""

    def __init__(self, reactor: Any, folder: Path, rng: random.Random) -> None:
        self.reactor = reactor
        self.rng = rng
        self.cluster = Cluster(folder)
        self.session = DesktopSession(self.cluster)
        self.state = folder / "alice"
        self.ollama_port, self.endpoint = free_port(), free_port()
        self.running: dict[str, ChildProcess] = {}
        self.counts: Counter[str] = Counter()

    async def start_all(self) -> None:
        await self.session.start()
        self.start("cloud")
        await wait_until(lambda: self.cluster.is_cloud_healthy(self.running["cloud"]), "the cloud")
        self.relay = CloudRelay("127.0.0.1", self.cluster.cloud_port)
        self.relay_port = self.reactor.listenTCP(0, self.relay, interface="127.0.0.1")
        self.cluster.ports.append(self.relay_port)
        await self.cluster.run_ctllm_in(
            self.state, "login", await self.cluster.create_invite("alice")
        )
        for name in ("ollama", "desktop", "tray"):
            self.start(name)

    def start(self, name: str) -> None:
        cluster, state = self.cluster, f"--state-dir={self.state}"
        if name == "cloud":
            self.running[name] = cluster.run_role(
                "cloud", "cloud", f"--listen=127.0.0.1:{cluster.cloud_port}", "--metrics-listen=off"
            )
        elif name == "ollama":
            self.running[name] = cluster.start_process(
                "ollama", "python", "-m", "tests.fake_ollama", f"--port={self.ollama_port}",
                "--model=llama3.2",
            )  # fmt: skip
        elif name == "desktop":
            self.running[name] = cluster.start_process(
                "desktop", "python", "-m", "ctllm", "desktop", state,
                f"--ollama-host=127.0.0.1:{self.ollama_port}",
                f"--desktop-listen=127.0.0.1:{self.endpoint}",
                f"--cloud-url=http://127.0.0.1:{self.relay_port.getHost().port}",
            )  # fmt: skip
        else:
            self.running[name] = self.session.tray(self.state, "--no-start", "--wait=60")
        cluster.processes = [each for each in cluster.processes if not each.exited.called]

    async def restart_one(self) -> None:
        """Kill or terminate a random process and start it again, or abort the connections."""
        name = self.rng.choice(("ollama", "bridge", "tray"))
        await deferLater(self.reactor, self.rng.random() * 0.5, lambda: None)
        if name == "bridge":
            self.counts["bridge cut"] += self.relay.abort_connections()
            return
        signal_number = self.rng.choice((signal.SIGKILL, signal.SIGTERM))
        program = self.running[name]
        program.send_signal(signal_number)
        await wait_until(lambda: program.exited.called, f"{name} to end")
        self.counts[f"{name} {signal_number.name}"] += 1
        self.start(name)

    async def wait_until_healthy(self) -> Status:
        """Wait until all are connected and a request succeeds; return the status."""

        def status() -> Status | None:
            try:
                with IpcClient(self.state, timeout=5) as daemon:
                    return daemon.status()
            except CtllmError:
                return None

        def healthy_status() -> Status | None:
            found = status()
            if found is None or found.state != "connected" or found.route != "local":
                return None
            return found if [each.is_this for each in found.desktops] == [True] else None

        found: Status = await wait_until(
            healthy_status, "everything to be connected", HEALTHY_TIMEOUT
        )
        await self.session.shows(": connected", HEALTHY_TIMEOUT)
        body = {"model": "llama3.2", "prompt": "hello", "stream": False}

        async def request_succeeds() -> bool:
            path = "/api/generate"
            return (await self.cluster.request("POST", path, body, port=self.endpoint))[0] == 200

        await wait_until(request_succeeds, "a request to succeed", HEALTHY_TIMEOUT)
        return found

    def memory_megabytes(self) -> dict[str, int]:
        """Return each process's memory, in MB."""
        return {name: round(resident_megabytes(each.pid)) for name, each in self.running.items()}

    def leftovers(self) -> list[str]:
        """Return processes that this test did not start, and unexpected files."""
        own = {program.pid for program in self.cluster.processes if not program.exited.called}
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            except (OSError, ValueError):
                continue
            of_ours = any(str(self.cluster.directory) in word for word in words)
            if of_ours and int(entry.name) not in own and parent not in own:
                found.append(f"process {entry.name}: {' '.join(words)}")
        expected_files = {
            "credentials.json", "credentials.lock", "secrets.json", "secrets.lock", "login.lock",
            "lock", "ipc.json", "ipc.sock", "preference.json",
        }  # fmt: skip
        found += [
            f"file {each}"
            for each in (self.state / "desktop").iterdir()
            if each.name not in expected_files
        ]
        icons = list((self.state / "tray").iterdir())
        if len(icons) > 2:
            found.append(f"icons {icons}")
        return found


async def soak(reactor: Any, rounds: int, seed: int) -> None:
    """Run the test; exit with status 1 if a check fails."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = Soak(reactor, Path(folder), random.Random(seed))
        try:
            leftovers = await _run_rounds(run, rounds)
        finally:
            await run.session.close()
            await run.cluster.stop()
    print(f"{rounds} kills: {dict(run.counts)}")
    if leftovers:
        print("\n".join(["Left over or grown:", *leftovers]))
        raise SystemExit(1)
    print("Nothing is left over.")


async def _run_rounds(run: Soak, rounds: int) -> list[str]:
    """Restart at random `rounds` times; return what is left over."""
    await run.start_all()
    await run.wait_until_healthy()
    before: dict[str, int] = {}
    first_files = 0
    began = time.monotonic()
    for number in range(1, rounds + 1):
        await run.restart_one()
        if number % 50 == 0 or number == rounds:
            files = _open_file_count(await run.wait_until_healthy())
            before, first_files = before or run.memory_megabytes(), first_files or files
            took = time.monotonic() - began
            print(
                f"{number} kills, {took:.0f} s: {run.memory_megabytes()} MB, {files} open files",
                flush=True,
            )
    await deferLater(run.reactor, 25, lambda: None)  # idle connections are closed after 20 s
    files = _open_file_count(await run.wait_until_healthy())
    leftovers = run.leftovers()
    if files > first_files + 3:
        leftovers.append(f"{files} open files of the desktop, at first {first_files}")
    grown = {name: (before[name], now) for name, now in run.memory_megabytes().items()}
    return leftovers + [
        f"{name} grew: {a} to {b} MB" for name, (a, b) in grown.items() if b > a + 8
    ]


def _open_file_count(status: Status) -> int:
    return len(os.listdir(f"/proc/{status.pid}/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(soak(reactor, options.rounds, options.seed)))


if __name__ == "__main__":
    main()
