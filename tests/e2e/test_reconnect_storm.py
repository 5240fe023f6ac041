"""A cloud is killed under a thousand desktops: they come back by themselves, and not as a herd."""

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
from ctllm.desktop.cloud_endpoint import endpoint_for_url
from ctllm.desktop.cloud_session import CloudSession, log_in
from ctllm.desktop.credential_file import CredentialFile
from ctllm.desktop.reconnect_backoff import MAX_FIRST_DELAY
from ctllm.errors import OllamaDown
from ctllm.ipc.messages import ConnectionState
from ctllm.tunnel.frames import Desktop
from ctllm.tunnel.responder import Responder
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.network_relay import NetworkRelay

USERS, EACH = 32, 32
#: Seconds without one more that is connected after which this is no progress but a standstill.
STANDSTILL = 180.0


class Desk:
    """What of a desktop makes work for a cloud: its sign-in, its bridge; no Ollama."""

    def __init__(self, cluster: Cluster, url: str, number: int) -> None:
        self.file = CredentialFile(cluster.directory / f"desk-{number}")
        self.client = CloudClient(url, reactor)
        self.session = CloudSession(self.file, lambda url: self.client, reactor)
        self.dials: list[float] = []
        self.pauses: list[float] = []  # between an attempt that failed and the next one
        self._failed = 0.0
        self._worked = False
        tunnel = Responder(
            1 << 18,
            30,
            8,
            request_handler=self.refuse,
            resume_buffer_bytes=0,
            desktop=Desktop(self.file.load().desktop_id, f"desk {number}"),
        )
        self.bridge = Bridge(
            tunnel, self.session, reactor, (4, 4), lambda url: endpoint_for_url(url, reactor)
        )
        self.bridge.add_observer(self.changed)

    def refuse(self, *_: Any) -> Any:
        raise OllamaDown("there is none")

    def changed(self, state: ConnectionState, reason: str) -> None:
        if state is ConnectionState.ERROR:
            self._failed = 0.0 if self._worked else reactor.seconds()
        elif state is ConnectionState.CONNECTED:
            self._worked = True
        elif state is ConnectionState.CONNECTING:
            self._worked = False
            self.dials.append(reactor.seconds())
            if self._failed:
                self.pauses.append(self.dials[-1] - self._failed)

    @property
    def up(self) -> bool:
        return self.bridge.state is ConnectionState.CONNECTED


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Herd:
    """All the desktops."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self.timers = len(reactor.getDelayedCalls()) + 1
        self.desks = [Desk(cluster, url, number) for number in range(USERS * EACH)]

    async def sign_in(self) -> None:
        folder = PrivateDirectory(self.cluster.state_dir("cloud") / "cloud").subdirectory("invites")
        invites = Invites(folder, time.time)

        def each() -> Any:
            for number, desk in enumerate(self.desks):
                invite = invites.create(f"user{number // EACH}")
                yield Deferred.fromCoroutine(log_in(desk.file, desk.client, invite))

        work = Cooperator().coiterate
        todo = each()
        await DeferredList([work(todo) for _ in range(8)], fireOnOneErrback=True)

    async def start(self) -> None:
        for first in range(0, len(self.desks), 50):
            for desk in self.desks[first : first + 50]:
                desk.bridge.startService()
            await deferLater(reactor, 0.2)
        await self.all_up()

    async def all_up(self) -> None:
        await self.back(reactor.seconds())

    async def stop(self) -> None:
        await DeferredList([maybeDeferred(desk.bridge.stopService) for desk in self.desks])
        # autobahn's timers are shared by many connections, and end by themselves.
        await wait_until(
            lambda: len(reactor.getDelayedCalls()) <= self.timers, "timers", STANDSTILL
        )

    def dials_since(self, began: float) -> list[int]:
        """How many dialled in each second since then."""
        late = [at - began for desk in self.desks for at in desk.dials if at >= began]
        counted = Counter(map(int, late))
        return [counted[second] for second in range(max(counted, default=-1) + 1)]

    def pauses(self) -> list[float]:
        """How long those waited whose attempt had failed."""
        return [pause for desk in self.desks for pause in desk.pauses]

    async def back(self, began: float) -> None:
        """Wait until all are connected, as long as they become more, while others are answered."""
        used, slowest, most, grew = self.cpu(), 0.0, 0, began
        reached: list[str] = []
        while most < len(self.desks):
            asked = reactor.seconds()
            status, _, _ = await self.cluster.request("GET", "/health")
            slowest = max(slowest, reactor.seconds() - asked)
            assert status == 200
            count = sum(desk.up for desk in self.desks)
            if count > most:
                for quarter in range(most * 4 // len(self.desks), count * 4 // len(self.desks)):
                    reached.append(f"{(quarter + 1) * 25} % after {asked - began:.0f} s")
                most, grew = count, reactor.seconds()
            assert asked - grew < STANDSTILL, f"{most} were up at most"
            await deferLater(reactor, 0.1)
        print(", ".join(reached))
        print(f"processor time of the cloud: {self.cpu() - used:.1f} s")
        print(f"slowest answer to others: {slowest:.2f} s")

    def cpu(self) -> float:
        return cpu(self.cluster.processes[-1].pid)


@ensureDeferred
async def test_a_thousand_desktops_come_back(cluster: Cluster) -> None:
    """All of them, however slow the machine is; and the cloud answers others meanwhile."""
    options = (f"--max-proxies={USERS}",)
    cloud = await cluster.start_cloud(*options)
    wire = NetworkRelay(cluster.cloud_port)
    cluster.ports.append(wire)
    herd = Herd(cluster, f"http://127.0.0.1:{wire.port}")
    await herd.sign_in()
    await herd.start()
    try:
        await cloud.stop(signal.SIGKILL)
        await wait_until(
            lambda: not any(desk.up for desk in herd.desks), "all to notice", STANDSTILL
        )
        noticed = reactor.seconds()
        await cluster.start_cloud(*options)
        await herd.back(reactor.seconds())
        after = herd.dials_since(
            noticed + MAX_FIRST_DELAY
        )  # before that, nobody was there to be hurt
        print("dials in each second since all had tried once:", after)
        waited = herd.pauses()
        # On a busy machine all timers are late and then due together, so no dials are counted
        # against the clock; what each was told to wait is at least seen to be spread.
        assert len(waited) > 0
        assert min(waited) > 0.99
        assert sum(pause > 3 for pause in waited) > len(waited) / 4
        began = reactor.seconds()
        wire.reset()  # and once more, with the cloud there all the time
        await wait_until(
            lambda: not all(desk.up for desk in herd.desks), "some to notice", STANDSTILL
        )
        await herd.back(began)
        print("dials in each second since the cut:", herd.dials_since(began))
    finally:
        await herd.stop()
