"""A thousand desktops reconnect to a restarted cloud by themselves, spread over time."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import Cooperator, deferLater

from ctllm.cloud.identity import Invites, PrivateDirectory
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.cloud_client import CloudClient
from ctllm.desktop.cloud_session import CloudSession, log_in
from ctllm.desktop.login_store import open_login_store
from ctllm.desktop.reconnect_backoff import MAX_FIRST_DELAY
from ctllm.errors import OllamaDown
from ctllm.http.client.url_endpoint import endpoint_for_url
from ctllm.ipc.messages import ConnectionState
from ctllm.tunnel.frames import Desktop
from ctllm.tunnel.responder import Responder
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.network_relay import NetworkRelay

USERS, DESKTOPS_PER_USER = 32, 32
#: Seconds without another connected desktop after which the test fails.
PROGRESS_TIMEOUT = 180.0


class SimulatedDesktop:
    """The parts of a desktop that use the cloud: its login and its bridge; no Ollama."""

    def __init__(self, cluster: Cluster, url: str, number: int) -> None:
        self.logins = open_login_store(cluster.directory / f"desktop-{number}", reactor)
        self.client = CloudClient(url, reactor)
        self.session = CloudSession(self.logins, lambda url: self.client, reactor)
        self.connection_attempts: list[float] = []
        self.retry_delays: list[float] = []  # seconds from a failed attempt to the next one
        self._failed_at = 0.0
        self._was_connected = False
        tunnel = Responder(
            1 << 18,
            30,
            8,
            request_handler=self.refuse_request,
            resume_buffer_bytes=0,
            desktop=Desktop(self.logins.file.load().desktop_id, f"desktop {number}"),
        )
        self.bridge = Bridge(
            tunnel, self.session, reactor, (4, 4), lambda url: endpoint_for_url(url, reactor)
        )
        self.bridge.add_observer(self.on_state_changed)

    def refuse_request(self, *_: Any) -> Any:
        raise OllamaDown("There is no Ollama.")

    def on_state_changed(self, state: ConnectionState, reason: str) -> None:
        if state is ConnectionState.ERROR:
            self._failed_at = 0.0 if self._was_connected else reactor.seconds()
        elif state is ConnectionState.CONNECTED:
            self._was_connected = True
        elif state is ConnectionState.CONNECTING:
            self._was_connected = False
            self.connection_attempts.append(reactor.seconds())
            if self._failed_at:
                self.retry_delays.append(self.connection_attempts[-1] - self._failed_at)

    @property
    def is_connected(self) -> bool:
        return self.bridge.state is ConnectionState.CONNECTED


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class DesktopFleet:
    """All simulated desktops."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self.allowed_delayed_calls = len(reactor.getDelayedCalls()) + 1
        self.desktops = [
            SimulatedDesktop(cluster, url, number) for number in range(USERS * DESKTOPS_PER_USER)
        ]

    async def log_in_all(self) -> None:
        directory = PrivateDirectory(self.cluster.state_dir("cloud") / "cloud").subdirectory(
            "invites"
        )
        invites = Invites(directory, time.time)

        def logins() -> Any:
            for number, desktop in enumerate(self.desktops):
                invite = invites.create(f"user{number // DESKTOPS_PER_USER}")
                yield Deferred.fromCoroutine(log_in(desktop.logins, desktop.client, invite))

        cooperate = Cooperator().coiterate
        pending = logins()
        await DeferredList([cooperate(pending) for _ in range(8)], fireOnOneErrback=True)

    async def start(self) -> None:
        for first in range(0, len(self.desktops), 50):
            for desktop in self.desktops[first : first + 50]:
                desktop.bridge.startService()
            await deferLater(reactor, 0.2)
        await self.wait_all_connected()

    async def wait_all_connected(self) -> None:
        await self.wait_for_progress(reactor.seconds())

    async def stop(self) -> None:
        await DeferredList([maybeDeferred(desktop.bridge.stopService) for desktop in self.desktops])
        # autobahn's delayed calls are shared by many connections and end by themselves.
        await wait_until(
            lambda: len(reactor.getDelayedCalls()) <= self.allowed_delayed_calls,
            "autobahn's delayed calls",
            PROGRESS_TIMEOUT,
        )

    def attempts_since(self, began: float) -> list[int]:
        """Return the number of connection attempts in each second since `began`."""
        offsets = [
            at - began
            for desktop in self.desktops
            for at in desktop.connection_attempts
            if at >= began
        ]
        counted = Counter(map(int, offsets))
        return [counted[second] for second in range(max(counted, default=-1) + 1)]

    def retry_delays(self) -> list[float]:
        """Return the seconds between each failed attempt and the next one."""
        return [delay for desktop in self.desktops for delay in desktop.retry_delays]

    async def wait_for_progress(self, began: float) -> None:
        """Wait until all are connected; fail without progress or if other requests fail."""
        cpu_before, slowest, peak, progress_at = self.cloud_cpu_seconds(), 0.0, 0, began
        reached: list[str] = []
        while peak < len(self.desktops):
            started = reactor.seconds()
            status, _, _ = await self.cluster.request("GET", "/health")
            slowest = max(slowest, reactor.seconds() - started)
            assert status == 200
            count = sum(desktop.is_connected for desktop in self.desktops)
            if count > peak:
                for quarter in range(
                    peak * 4 // len(self.desktops), count * 4 // len(self.desktops)
                ):
                    reached.append(f"{(quarter + 1) * 25} % after {started - began:.0f} s")
                peak, progress_at = count, reactor.seconds()
            assert started - progress_at < PROGRESS_TIMEOUT, (
                f"At most {peak} desktops were connected."
            )
            await deferLater(reactor, 0.1)
        print(", ".join(reached))
        print(f"CPU time of the cloud: {self.cloud_cpu_seconds() - cpu_before:.1f} s")
        print(f"slowest response to other requests: {slowest:.2f} s")

    def cloud_cpu_seconds(self) -> float:
        return cpu_seconds(self.cluster.processes[-1].pid)


@ensureDeferred
async def test_a_thousand_desktops_reconnect_to_a_restarted_cloud(cluster: Cluster) -> None:
    """Meanwhile the cloud serves other requests; the retry delays are spread."""
    options = (f"--max-proxies={USERS}",)
    cloud = await cluster.start_cloud(*options)
    relay = NetworkRelay(cluster.cloud_port)
    cluster.ports.append(relay)
    fleet = DesktopFleet(cluster, f"http://127.0.0.1:{relay.port}")
    await fleet.log_in_all()
    await fleet.start()
    try:
        await cloud.stop(signal.SIGKILL)
        await wait_until(
            lambda: not any(desktop.is_connected for desktop in fleet.desktops),
            "all bridges to notice",
            PROGRESS_TIMEOUT,
        )
        noticed_at = reactor.seconds()
        await wait_until(
            lambda: all(desktop.retry_delays for desktop in fleet.desktops),
            "each desktop to have tried twice",
            PROGRESS_TIMEOUT,
        )
        await cluster.start_cloud(*options)
        await fleet.wait_for_progress(reactor.seconds())
        after = fleet.attempts_since(
            noticed_at + MAX_FIRST_DELAY
        )  # every desktop has tried once by then
        print("attempts in each second since all had tried once:", after)
        delays = fleet.retry_delays()
        # Under load, delayed calls are late and then run together, so attempts are not counted
        # per second; but the delays themselves have to be spread.
        assert len(delays) >= len(fleet.desktops)
        assert min(delays) > 0.99
        assert sum(delay > 3 for delay in delays) > len(delays) / 4
        began = reactor.seconds()
        relay.reset()  # the same while the cloud runs
        await wait_until(
            lambda: not all(desktop.is_connected for desktop in fleet.desktops),
            "some bridges to notice",
            PROGRESS_TIMEOUT,
        )
        await fleet.wait_for_progress(began)
        print("attempts in each second since the reset:", fleet.attempts_since(began))
    finally:
        await fleet.stop()
