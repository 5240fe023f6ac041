"""`ctllm.cloud.docker_api.client`: the version of the API, and timeouts."""

from __future__ import annotations

import json

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError

from ctllm.cloud.docker_api import (
    DockerError,
    DockerTooNew,
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
            self.assertIn("Update Docker", message)
            self.assertEqual(self.api.requests[-1], ("GET", "/_ping"))

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

    def test_an_engine_that_refuses_less_than_1_44_is_used(self) -> None:
        self.api.min_version, self.api.version = "1.44", "1.52"  # as Docker 29
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests, [("GET", "/_ping"), ("GET", "/v1.47/networks")])

    def test_an_engine_of_1_41_at_most_is_used(self) -> None:
        self.api.min_version, self.api.version = "1.12", "1.41"  # as Docker 20.10
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.assertEqual(self.api.requests[-1], ("GET", "/v1.41/networks"))

    def test_an_engine_that_is_too_new_is_an_error_with_advice(self) -> None:
        self.api.min_version, self.api.version = "1.60", "1.70"
        for _ in range(2):
            message = self.failure(self.docker.list_networks(), DockerTooNew)
            self.assertIn("Update ctllm", message)
            self.assertIn("Minimum supported API version is 1.60", message)
        self.assertEqual(self.api.requests, [("GET", "/_ping"), ("GET", "/v1.47/networks")] * 2)

    def test_a_request_is_sent_again_when_the_engine_was_replaced(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        for min_version, version in (("1.44", "1.46"), ("1.12", "1.41")):
            self.api.min_version, self.api.version = min_version, version
            self.api.requests.clear()
            self.respond_with({"Id": "c1"}, 201)
            made = self.call(self.docker.create_container("x", {"Image": "y"}))
            self.assertEqual((made, json.loads(self.api.bodies[-1])), ("c1", {"Image": "y"}))
            paths = [path for _, path in self.api.requests]
            self.assertEqual(paths[1:], ["/_ping", f"/v{version}/containers/create"])

    def test_a_request_is_sent_again_only_once(self) -> None:
        self.respond_with([])
        self.call(self.docker.list_networks())
        self.api.min_version, self.api.version = "1.60", "1.41"  # it contradicts itself
        self.api.requests.clear()
        self.failure(self.docker.list_networks(), DockerTooNew)
        self.assertEqual([path for _, path in self.api.requests].count("/_ping"), 1)

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
