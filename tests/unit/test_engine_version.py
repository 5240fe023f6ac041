"""Which version of the Docker Engine API is spoken, and for how long."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError

from ctllm.cloud.docker_api import (
    DockerError,
    DockerTooOld,
    DockerUnavailable,
)
from tests.unit.engine_case import DockerClientCase


class VersionTests(DockerClientCase):
    """Which version of the API is spoken."""

    def test_the_older_of_both(self) -> None:
        """Asked once, without a version, and in every path from then on."""
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.call(self.docker.list_networks())
        asked = [("GET", "/_ping"), *[("GET", "/v1.41/networks")] * 2]
        self.assertEqual(self.api.requests, asked)

    def test_a_newer_engine(self) -> None:
        """Is spoken to as this was written."""
        self.api.version = "1.99"
        self.assertEqual(self.call(self.docker.negotiate_version()), "1.47")

    def test_an_old_engine(self) -> None:
        """Is refused, with both versions in words; 1.9 is older than 1.40."""
        for old in ("1.39", "1.9"):
            self.api.version = old
            said = self.failure(self.docker.list_networks(), DockerTooOld)
            self.assertIn(f"supports version {old}", said)
            self.assertIn("requires 1.40", said)

    def test_something_else(self) -> None:
        """What says no version is no engine."""
        self.api.version = "latest"
        self.assertIn("not a Docker engine", self.failure(self.docker.list_networks(), DockerError))

    def test_another_engine_after_a_failure(self) -> None:
        """It was replaced while it did not answer: its version is asked again."""
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.keeps_open = True
        hanging = self.start(self.docker.list_networks())
        self.clock.advance(31)
        self.assertIn("within 30 s", str(self.failureResultOf(hanging, DockerUnavailable).value))
        self.api.keeps_open, self.api.version = False, "1.43"
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-2:], [("GET", "/_ping"), ("GET", "/v1.43/networks")])

    def test_another_engine_after_a_lost_connection(self) -> None:
        """There was nobody for a moment."""
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.connection_error, self.api.version = ConnectError(111), "1.44"
        self.failure(self.docker.list_networks(), DockerUnavailable)
        self.connection_error = None
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.44/networks"))

    def test_another_engine_that_nobody_missed(self) -> None:
        """It refuses the old one's version, or ended its events: its own is asked for."""
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.version = "1.44"
        self.respond_with({"message": "client version 1.41 is too old. Minimum is 1.44"}, 400)
        self.failure(self.docker.list_networks(), DockerTooOld)
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.44/networks"))

    def test_another_engine_after_events(self) -> None:
        """However they ended."""
        self.api.keeps_open, self.api.body = True, b""
        hearing = self.start(self.docker.follow_events({}, 0, self.fail))
        self.api.open_requests[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(hearing, DockerUnavailable)
        self.api.version, self.api.keeps_open = "1.44", False
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.44/networks"))

    def test_an_engine_that_says_nothing(self) -> None:
        """Has its time, whatever it is asked: its version, events, anything."""
        self.api.is_silent = True
        for asked in (
            self.docker.negotiate_version(),
            self.docker.follow_events({}, 0, print),
            self.docker.list_networks(),
        ):
            waiting = self.start(asked)
            self.clock.advance(29)
            self.assertNoResult(waiting)
            self.clock.advance(2)
            self.agent.flush()
            self.assertIn(
                "within 30 s", str(self.failureResultOf(waiting, DockerUnavailable).value)
            )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_events_that_do_not_begin(self) -> None:
        """Have their time too, from an engine that told its version; silence afterwards is free."""
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.is_silent = True
        waiting = self.start(self.docker.follow_events({}, 0, print))
        self.clock.advance(31)
        self.failureResultOf(waiting, DockerUnavailable)
        self.api.is_silent, self.api.keeps_open, self.api.body = False, True, b""
        hearing = self.start(self.docker.follow_events({}, 0, print))
        self.clock.advance(100_000)
        self.assertNoResult(hearing)
        hearing.cancel()
        self.failureResultOf(hearing, CancelledError)
