"""Deaths of containers, by events and by the list of an engine of pretence."""

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
from ctllm.common.exit_codes import OUT_OF_MEMORY_MESSAGE
from tests.unit.proxies_case import A, B

NOW = 1_700_000_000.0


class FakeDocker:
    """Has containers by id and state; its events are the test's to tell and to end."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.subscriptions: list[tuple[float, Any, Deferred[None]]] = []
        self.filters: Any = None
        self.is_unavailable = False

    async def list_containers(self, label: str) -> list[Any]:
        if self.is_unavailable:
            raise DockerUnavailable("gone")
        return [SimpleNamespace(id=id, state=state) for id, state in self.states.items()]

    async def follow_events(self, filters: Any, since: float, on_event: Any) -> None:
        if self.is_unavailable:
            raise DockerUnavailable("gone")
        self.filters = filters
        end: Deferred[None] = Deferred()
        self.subscriptions.append((since, on_event, end))
        await end

    def end(self) -> None:
        self.subscriptions.pop()[2].callback(None)


def event(action: str, proxy: str, container: str, **more: str) -> DockerEvent:
    """One, as an engine tells of it."""
    actor: Any = SimpleNamespace(id=container, attributes={"ctllm.proxy": proxy, **more})
    return DockerEvent("container", action, actor)


class DeathTests(SynchronousTestCase):
    """Two proxies, a and b, in the containers 1 and 2."""

    def setUp(self) -> None:
        self.clock, self.engine = Clock(), FakeDocker()
        self.died: list[tuple[str, str]] = []
        died = lambda *told: self.died.append(told)  # noqa: E731
        engine: Any = self.engine
        self.deaths = ExitWatcher(engine, self.clock, "l=1", lambda: NOW, died)
        self.engine.states = {"1": "running", "2": "running"}
        self.deaths.watch(A, RunningContainer("1", 11))
        self.deaths.watch(B, RunningContainer("2", 12))
        self.deaths.startService()

    def tearDown(self) -> None:
        self.deaths.stopService()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def tell(self, *told: Any, **more: str) -> None:
        self.engine.subscriptions[-1][1](event(*told, **more))
        self.clock.advance(0)

    def test_listens_since_before_it_looked(self) -> None:
        """So that nothing falls in between; for containers of its own, and what ends them."""
        self.assertEqual(self.engine.subscriptions[0][0], NOW - CLOCK_SKEW)
        self.assertEqual(self.engine.filters["label"], ["l=1"])
        self.assertLessEqual({"die", "oom", "pause", "destroy"}, set(self.engine.filters["event"]))

    def test_each_kind(self) -> None:
        """Why it ended, in words; told once."""
        self.tell("die", A, "1", exitCode="137")
        self.tell("destroy", A, "1")
        self.assertEqual(self.died, [(A, "its container exited with code 137")])
        self.tell("pause", B, "2")
        self.assertEqual(self.died[1:], [(B, "its container was paused")])

    def test_memory(self) -> None:
        """The reason comes before the end."""
        self.tell("oom", A, "1")
        self.assertEqual(self.died, [])
        self.tell("die", A, "1", exitCode="137")
        self.assertEqual(self.died, [(A, OUT_OF_MEMORY_MESSAGE)])
        self.tell("die", B, "2", exitCode="12")
        self.assertEqual(self.died[1:], [(B, OUT_OF_MEMORY_MESSAGE)])

    def test_of_others(self) -> None:
        """An earlier container of the same proxy, one that was told to end, one unheard of."""
        self.deaths.unwatch(B)
        for told in (("die", A, "0"), ("die", B, "2"), ("destroy", "ctllm-proxy-x", "1"),
                     ("die", "", "1")):  # fmt: skip
            self.tell(*told)
        self.assertEqual(self.died, [])

    def test_while_nobody_listened(self) -> None:
        """Who is not there any more, or does not run, when the engine is back has died."""
        self.engine.is_unavailable = True
        self.engine.end()
        self.clock.advance(RECONNECT_DELAY * 3)
        self.assertEqual(self.died, [])
        self.engine.is_unavailable = False
        self.engine.states = {"1": "exited"}
        self.clock.pump([RECONNECT_DELAY, 0])
        self.assertEqual(dict(self.died), {A: "its container is exited",
                                           B: "its container is gone"})  # fmt: skip
        self.assertEqual(len(self.engine.subscriptions), 1)

    def test_born_while_the_list_was_made(self) -> None:
        """It is in no list yet, and lives."""
        listing: Deferred[Any] = Deferred()
        self.engine.end()

        async def slow(label: str) -> Any:
            return await listing

        self.patch(self.engine, "list_containers", slow)
        self.clock.advance(RECONNECT_DELAY)
        self.deaths.watch(A, RunningContainer("3", 13))
        self.deaths.unwatch(B)
        listing.callback([])
        self.clock.advance(0)
        self.assertEqual(self.died, [])

    def test_a_fault(self) -> None:
        """Is logged, and listening goes on."""
        self.engine.subscriptions.pop()[2].errback(ValueError("x"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(RECONNECT_DELAY)
        self.assertEqual(len(self.engine.subscriptions), 1)
