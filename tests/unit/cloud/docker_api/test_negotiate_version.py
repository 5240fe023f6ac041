"""`ctllm.cloud.docker_api.client`: the version of the API, and timeouts."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError

from ctllm.cloud.docker_api import (
    DockerError,
    DockerTooOld,
    DockerUnavailable,
)
from tests.unit.cloud.docker_api.client_case import DockerClientCase


class VersionTests(DockerClientCase):
    def test_uses_the_engines_version_and_asks_once(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.call(self.docker.list_networks())
        expected = [("GET", "/_ping"), *[("GET", "/v1.41/networks")] * 2]
        self.assertEqual(self.api.requests, expected)

    def test_uses_its_own_maximum_with_a_newer_engine(self) -> None:
        self.api.version = "1.99"
        self.assertEqual(self.call(self.docker.negotiate_version()), "1.47")

    def test_refuses_an_older_engine(self) -> None:
        for old in ("1.39", "1.9"):
            self.api.version = old
            message = self.failure(self.docker.list_networks(), DockerTooOld)
            self.assertIn(f"supports version {old}", message)
            self.assertIn("requires 1.40", message)

    def test_refuses_a_server_without_a_version(self) -> None:
        self.api.version = "latest"
        self.assertIn("not a Docker engine", self.failure(self.docker.list_networks(), DockerError))

    def test_negotiates_again_after_a_timeout(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.keeps_open = True
        hanging = self.start(self.docker.list_networks())
        self.clock.advance(31)
        self.assertIn("within 30 s", str(self.failureResultOf(hanging, DockerUnavailable).value))
        self.api.keeps_open, self.api.version = False, "1.43"
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-2:], [("GET", "/_ping"), ("GET", "/v1.43/networks")])

    def test_negotiates_again_after_a_connection_error(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.connection_error, self.api.version = ConnectError(111), "1.44"
        self.failure(self.docker.list_networks(), DockerUnavailable)
        self.connection_error = None
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.44/networks"))

    def test_negotiates_again_after_the_version_was_refused(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.version = "1.44"
        self.respond_with({"message": "client version 1.41 is too old. Minimum is 1.44"}, 400)
        self.failure(self.docker.list_networks(), DockerTooOld)
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.44/networks"))

    def test_negotiates_again_after_the_events_ended(self) -> None:
        self.api.keeps_open, self.api.body = True, b""
        following = self.start(self.docker.follow_events({}, 0, self.fail))
        self.api.open_requests[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(following, DockerUnavailable)
        self.api.version, self.api.keeps_open = "1.44", False
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.44/networks"))

    def test_every_request_times_out(self) -> None:
        self.api.is_silent = True
        for request in (
            self.docker.negotiate_version(),
            self.docker.follow_events({}, 0, print),
            self.docker.list_networks(),
        ):
            waiting = self.start(request)
            self.clock.advance(29)
            self.assertNoResult(waiting)
            self.clock.advance(2)
            self.agent.flush()
            self.assertIn(
                "within 30 s", str(self.failureResultOf(waiting, DockerUnavailable).value)
            )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_events_time_out_before_the_response_but_not_during_it(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.is_silent = True
        waiting = self.start(self.docker.follow_events({}, 0, print))
        self.clock.advance(31)
        self.failureResultOf(waiting, DockerUnavailable)
        self.api.is_silent, self.api.keeps_open, self.api.body = False, True, b""
        following = self.start(self.docker.follow_events({}, 0, print))
        self.clock.advance(100_000)
        self.assertNoResult(following)
        following.cancel()
        self.failureResultOf(following, CancelledError)
