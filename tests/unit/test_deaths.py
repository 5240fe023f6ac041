"""Deaths of containers, by events and by the list of an engine of pretence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.docker_api import EngineAbsent, Happened
from ctllm.cloud.spawners.exit_watcher import AGAIN, SKEW, Deaths, Living
from tests.unit.proxies_case import A, B

NOW = 1_700_000_000.0


class Engine:
    """Has containers by id and state; its events are the test's to tell and to end."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.hearing: list[tuple[float, Any, Deferred[None]]] = []
        self.filters: Any = None
        self.absent = False

    async def containers(self, label: str) -> list[Any]:
        if self.absent:
            raise EngineAbsent("gone")
        return [SimpleNamespace(id=id, state=state) for id, state in self.states.items()]

    async def events(self, filters: Any, since: float, heard: Any) -> None:
        if self.absent:
            raise EngineAbsent("gone")
        self.filters = filters
        end: Deferred[None] = Deferred()
        self.hearing.append((since, heard, end))
        await end

    def end(self) -> None:
        self.hearing.pop()[2].callback(None)


def event(action: str, proxy: str, container: str, **more: str) -> Happened:
    """One, as an engine tells of it."""
    actor: Any = SimpleNamespace(id=container, attributes={"ctllm.proxy": proxy, **more})
    return Happened("container", action, actor)


class DeathTests(SynchronousTestCase):
    """Two proxies, a and b, in the containers 1 and 2."""

    def setUp(self) -> None:
        self.clock, self.engine = Clock(), Engine()
        self.died: list[tuple[str, str]] = []
        died = lambda *told: self.died.append(told)  # noqa: E731
        engine: Any = self.engine
        self.deaths = Deaths(engine, self.clock, "l=1", lambda: NOW, died)
        self.engine.states = {"1": "running", "2": "running"}
        self.deaths.born(A, Living("1", 11))
        self.deaths.born(B, Living("2", 12))
        self.deaths.startService()

    def tearDown(self) -> None:
        self.deaths.stopService()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def tell(self, *told: Any, **more: str) -> None:
        self.engine.hearing[-1][1](event(*told, **more))
        self.clock.advance(0)

    def test_listens_since_before_it_looked(self) -> None:
        """So that nothing falls in between; for containers of its own, and what ends them."""
        self.assertEqual(self.engine.hearing[0][0], NOW - SKEW)
        self.assertEqual(self.engine.filters["label"], ["l=1"])
        self.assertLessEqual({"die", "oom", "pause", "destroy"}, set(self.engine.filters["event"]))

    def test_each_kind(self) -> None:
        """Why it ended, in words; told once."""
        self.tell("die", A, "1", exitCode="137")
        self.tell("destroy", A, "1")
        self.assertEqual(self.died, [(A, "its container exited with 137")])
        self.tell("pause", B, "2")
        self.assertEqual(self.died[1:], [(B, "its container was paused")])

    def test_memory(self) -> None:
        """The reason comes before the end."""
        self.tell("oom", A, "1")
        self.assertEqual(self.died, [])
        self.tell("die", A, "1", exitCode="137")
        self.assertEqual(self.died, [(A, "it wanted more memory than it may have")])
        self.tell("die", B, "2", exitCode="12")
        self.assertEqual(self.died[1:], [(B, "it wanted more memory than it may have")])

    def test_of_others(self) -> None:
        """An earlier container of the same proxy, one that was told to end, one unheard of."""
        self.deaths.forget(B)
        for told in (("die", A, "0"), ("die", B, "2"), ("destroy", "ctllm-proxy-x", "1"),
                     ("die", "", "1")):  # fmt: skip
            self.tell(*told)
        self.assertEqual(self.died, [])

    def test_while_nobody_listened(self) -> None:
        """Who is not there any more, or does not run, when the engine is back has died."""
        self.engine.absent = True
        self.engine.end()
        self.clock.advance(AGAIN * 3)
        self.assertEqual(self.died, [])
        self.engine.absent = False
        self.engine.states = {"1": "exited"}
        self.clock.pump([AGAIN, 0])
        self.assertEqual(dict(self.died), {A: "its container is exited",
                                           B: "its container is not there any more"})  # fmt: skip
        self.assertEqual(len(self.engine.hearing), 1)

    def test_born_while_the_list_was_made(self) -> None:
        """It is in no list yet, and lives."""
        listing: Deferred[Any] = Deferred()
        self.engine.end()

        async def slow(label: str) -> Any:
            return await listing

        self.patch(self.engine, "containers", slow)
        self.clock.advance(AGAIN)
        self.deaths.born(A, Living("3", 13))
        self.deaths.forget(B)
        listing.callback([])
        self.clock.advance(0)
        self.assertEqual(self.died, [])

    def test_a_fault(self) -> None:
        """Is logged, and listening goes on."""
        self.engine.hearing.pop()[2].errback(ValueError("x"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(AGAIN)
        self.assertEqual(len(self.engine.hearing), 1)
