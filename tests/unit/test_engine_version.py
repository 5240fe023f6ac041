"""Which version of the Docker Engine API is spoken, and for how long."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError

from ctllm.cloud.docker_api import (
    EngineAbsent,
    EngineRefused,
    EngineTooOld,
)
from tests.unit.engine_case import Case


class VersionTests(Case):
    """Which version of the API is spoken."""

    def test_the_older_of_both(self) -> None:
        """Asked once, without a version, and in every path from then on."""
        self.answer([])
        self.call(self.engine.networks())
        self.call(self.engine.networks())
        asked = [("GET", "/_ping"), *[("GET", "/v1.41/networks")] * 2]
        self.assertEqual(self.canned.asked, asked)

    def test_a_newer_engine(self) -> None:
        """Is spoken to as this was written."""
        self.canned.api = "1.99"
        self.assertEqual(self.call(self.engine.version()), "1.47")

    def test_an_old_engine(self) -> None:
        """Is refused, with both versions in words; 1.9 is older than 1.40."""
        for old in ("1.39", "1.9"):
            self.canned.api = old
            said = self.refused(self.engine.networks(), EngineTooOld)
            self.assertIn(f"speaks version {old}", said)
            self.assertIn("needs 1.40", said)

    def test_something_else(self) -> None:
        """What says no version is no engine."""
        self.canned.api = "latest"
        self.assertIn("no Docker engine", self.refused(self.engine.networks(), EngineRefused))

    def test_another_engine_after_a_failure(self) -> None:
        """It was replaced while it did not answer: its version is asked again."""
        self.answer([])
        self.call(self.engine.networks())
        self.canned.goes_on = True
        hanging = self.start(self.engine.networks())
        self.clock.advance(31)
        self.assertIn("within 30 s", str(self.failureResultOf(hanging, EngineAbsent).value))
        self.canned.goes_on, self.canned.api = False, "1.43"
        self.call(self.engine.networks())
        self.assertEqual(self.canned.asked[-2:], [("GET", "/_ping"), ("GET", "/v1.43/networks")])

    def test_another_engine_after_a_lost_connection(self) -> None:
        """There was nobody for a moment."""
        self.answer([])
        self.call(self.engine.networks())
        self.lost, self.canned.api = ConnectError(111), "1.44"
        self.refused(self.engine.networks(), EngineAbsent)
        self.lost = None
        self.call(self.engine.networks())
        self.assertEqual(self.canned.asked[-1], ("GET", "/v1.44/networks"))

    def test_another_engine_that_nobody_missed(self) -> None:
        """It refuses the old one's version, or ended its events: its own is asked for."""
        self.answer([])
        self.call(self.engine.networks())
        self.canned.api = "1.44"
        self.answer({"message": "client version 1.41 is too old. Minimum is 1.44"}, 400)
        self.refused(self.engine.networks(), EngineTooOld)
        self.answer([])
        self.call(self.engine.networks())
        self.assertEqual(self.canned.asked[-1], ("GET", "/v1.44/networks"))

    def test_another_engine_after_events(self) -> None:
        """However they ended."""
        self.canned.goes_on, self.canned.body = True, b""
        hearing = self.start(self.engine.events({}, 0, self.fail))
        self.canned.open[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(hearing, EngineAbsent)
        self.canned.api, self.canned.goes_on = "1.44", False
        self.answer([])
        self.call(self.engine.networks())
        self.assertEqual(self.canned.asked[-1], ("GET", "/v1.44/networks"))

    def test_an_engine_that_says_nothing(self) -> None:
        """Has its time, whatever it is asked: its version, events, anything."""
        self.canned.silent = True
        for asked in (
            self.engine.version(),
            self.engine.events({}, 0, print),
            self.engine.networks(),
        ):
            waiting = self.start(asked)
            self.clock.advance(29)
            self.assertNoResult(waiting)
            self.clock.advance(2)
            self.agent.flush()
            self.assertIn("within 30 s", str(self.failureResultOf(waiting, EngineAbsent).value))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_events_that_do_not_begin(self) -> None:
        """Have their time too, from an engine that told its version; silence afterwards is free."""
        self.answer([])
        self.call(self.engine.networks())
        self.canned.silent = True
        waiting = self.start(self.engine.events({}, 0, print))
        self.clock.advance(31)
        self.failureResultOf(waiting, EngineAbsent)
        self.canned.silent, self.canned.goes_on, self.canned.body = False, True, b""
        hearing = self.start(self.engine.events({}, 0, print))
        self.clock.advance(100_000)
        self.assertNoResult(hearing)
        hearing.cancel()
        self.failureResultOf(hearing, CancelledError)
