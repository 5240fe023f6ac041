"""`ctllm.cloud.spawners.exit_watcher`: exits in events and in lists of containers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.docker_api import DockerEvent, DockerUnavailable
from ctllm.cloud.spawners.exit_watcher import (
    CLOCK_SKEW,
    RECONNECT_DELAY,
    ExitWatcher,
    RunningContainer,
)
from ctllm.cloud.spawners.interfaces import new_waiting_id
from ctllm.common.exit_codes import OUT_OF_MEMORY_MESSAGE
from tests.unit.cloud.proxies.manager_case import A, B

NOW = 1_700_000_000.0


class FakeDocker:
    """A Docker client with containers by id and state, whose events a test sends and ends."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.subscriptions: list[tuple[float, Any, Deferred[None]]] = []
        self.filters: Any = None
        self.is_unavailable = False

    async def list_containers(self, label: str) -> list[Any]:
        if self.is_unavailable:
            raise DockerUnavailable("unavailable")
        return [SimpleNamespace(id=id, state=state) for id, state in self.states.items()]

    async def follow_events(self, filters: Any, since: float, on_event: Any) -> None:
        if self.is_unavailable:
            raise DockerUnavailable("unavailable")
        self.filters = filters
        end: Deferred[None] = Deferred()
        self.subscriptions.append((since, on_event, end))
        await end

    def end(self) -> None:
        self.subscriptions.pop()[2].callback(None)


def event(action: str, proxy: str, container: str, **more: str) -> DockerEvent:
    """An event of a container, as Docker sends it."""
    actor: Any = SimpleNamespace(id=container, attributes={"ctllm.proxy": proxy, **more})
    return DockerEvent("container", action, actor)


class ExitWatcherTests(SynchronousTestCase):
    """Two proxies, A and B, in the containers 1 and 2."""

    def setUp(self) -> None:
        self.clock, self.docker = Clock(), FakeDocker()
        self.exits: list[tuple[str, str]] = []
        on_exit = lambda *exit: self.exits.append(exit)  # noqa: E731
        docker: Any = self.docker
        self.watcher = ExitWatcher(docker, self.clock, "l=1", lambda: NOW, on_exit)
        self.docker.states = {"1": "running", "2": "running"}
        self.watcher.watch(A, RunningContainer("1", 11))
        self.watcher.watch(B, RunningContainer("2", 12))
        self.watcher.startService()

    def tearDown(self) -> None:
        self.watcher.stopService()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def send(self, *values: Any, **attributes: str) -> None:
        self.docker.subscriptions[-1][1](event(*values, **attributes))
        self.clock.advance(0)

    def test_follows_events_since_before_the_check(self) -> None:
        self.assertEqual(self.docker.subscriptions[0][0], NOW - CLOCK_SKEW)
        self.assertEqual(self.docker.filters["label"], ["l=1"])
        self.assertLessEqual({"die", "oom", "pause", "destroy"}, set(self.docker.filters["event"]))

    def test_reports_each_exit_once_with_its_reason(self) -> None:
        self.send("die", A, "1", exitCode="137")
        self.send("destroy", A, "1")
        self.assertEqual(self.exits, [(A, "its container exited with code 137")])
        self.send("pause", B, "2")
        self.assertEqual(self.exits[1:], [(B, "its container was paused")])

    def test_reports_containers_that_exceeded_their_memory(self) -> None:
        self.send("oom", A, "1")
        self.assertEqual(self.exits, [])
        self.send("die", A, "1", exitCode="137")
        self.assertEqual(self.exits, [(A, OUT_OF_MEMORY_MESSAGE)])
        self.send("die", B, "2", exitCode="12")
        self.assertEqual(self.exits[1:], [(B, OUT_OF_MEMORY_MESSAGE)])

    def test_ignores_events_of_other_containers(self) -> None:
        self.watcher.unwatch(B)
        for values in (("die", A, "0"), ("die", B, "2"), ("destroy", "ctllm-proxy-x", "3")):
            self.send(*values)
        self.assertEqual(self.exits, [])

    def test_reports_the_exit_of_a_renamed_container_by_its_new_name(self) -> None:
        """Docker does not change the label, which names a proxy that waited."""
        waiting = new_waiting_id()
        self.watcher.watch(waiting, RunningContainer("3", 13))
        self.watcher.rename(waiting, "ctllm-proxy-" + "c" * 32)
        self.send("die", waiting, "3", exitCode="1")
        self.assertEqual(
            self.exits, [("ctllm-proxy-" + "c" * 32, "its container exited with code 1")]
        )

    def test_reports_exits_that_happened_while_disconnected(self) -> None:
        self.docker.is_unavailable = True
        self.docker.end()
        self.clock.advance(RECONNECT_DELAY * 3)
        self.assertEqual(self.exits, [])
        self.docker.is_unavailable = False
        self.docker.states = {"1": "exited"}
        self.clock.pump([RECONNECT_DELAY, 0])
        self.assertEqual(dict(self.exits), {A: "its container is exited",
                                           B: "its container is gone"})  # fmt: skip
        self.assertEqual(len(self.docker.subscriptions), 1)

    def test_does_not_report_a_container_started_after_the_list_was_made(self) -> None:
        listing: Deferred[Any] = Deferred()
        self.docker.end()

        async def slow(label: str) -> Any:
            return await listing

        self.patch(self.docker, "list_containers", slow)
        self.clock.advance(RECONNECT_DELAY)
        self.watcher.watch(A, RunningContainer("3", 13))
        self.watcher.unwatch(B)
        listing.callback([])
        self.clock.advance(0)
        self.assertEqual(self.exits, [])

    def test_logs_an_unexpected_error_and_reconnects(self) -> None:
        self.docker.subscriptions.pop()[2].errback(ValueError("x"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(RECONNECT_DELAY)
        self.assertEqual(len(self.docker.subscriptions), 1)
