"""`ctllm.cloud.docker_api.client`: requests, and responses as recorded from real engines."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.testing import MemoryReactorClock
from twisted.web.iweb import IAgent

from ctllm.cloud.docker_api import (
    DockerClient,
    DockerError,
    DockerNotFound,
    DockerTransport,
    DockerUnavailable,
)
from ctllm.cloud.docker_api.streams import MAX_BODY_BYTES
from ctllm.cloud.docker_api.transport import create_transport
from tests.unit.cloud.docker_api.client_case import DockerClientCase

INSPECTED: dict[str, Any] = {
    "Id": "b2",
    "Name": "/px-u7",
    "Image": "sha256:74",
    "State": {
        "Status": "running", "Running": True, "Paused": False, "OOMKilled": False,
        "ExitCode": 0, "Error": "", "StartedAt": "2026-11-23T05:45:08.66923656Z",
    },
    "Config": {"Labels": {"a": "b"}},
    "NetworkSettings": {"Networks": {"px-u7": {"IPAddress": "10.128.0.114", "IPPrefixLen": 28}}},
}  # fmt: skip
LISTED = {"Id": "b2", "Names": ["/px-u7"], "State": "exited", "Created": 1795412708, "Labels": None}
NETWORK = {
    "Id": "cb", "Name": "px-u7", "Internal": True, "Labels": {"lab": "1"},
    "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.128.0.112/28"}]},
}  # fmt: skip


class DockerClientTests(DockerClientCase):
    def test_inspect_container_returns_state_labels_and_address(self) -> None:
        self.respond_with(INSPECTED)
        found = self.call(self.docker.inspect_container("px-u7"))
        self.assertEqual(
            (found.id, found.state.status, found.labels), ("b2", "running", {"a": "b"})
        )
        self.assertEqual((found.address("px-u7"), found.address("other")), ("10.128.0.114", ""))
        self.assertEqual(found.state.started_at.year, 2026)

    def test_list_containers_filters_by_label_and_includes_exited_ones(self) -> None:
        self.respond_with([LISTED])
        [found] = self.call(self.docker.list_containers("ctllm.instance=ab"))
        self.assertEqual((found.name, found.state), ("px-u7", "exited"))
        query = self.api.queries[-1]
        self.assertEqual(json.loads(query["filters"][0]), {"label": ["ctllm.instance=ab"]})
        self.assertEqual(query["all"], ["1"])

    def test_list_networks_returns_subnets_also_without_ipam_config(self) -> None:
        bare = {**NETWORK, "Name": "host", "IPAM": {"Config": None}}
        self.respond_with([NETWORK, bare])
        networks = self.call(self.docker.list_networks())
        self.assertEqual([each.subnets for each in networks], [["10.128.0.112/28"], []])

    def test_create_container_sends_json_and_returns_the_id(self) -> None:
        self.respond_with({"Id": "c1", "Warnings": []}, 201)
        made = self.docker.create_container("a b/c", {"Image": "x"})
        self.assertEqual(self.call(made), "c1")
        self.assertEqual(self.api.queries[-1], {"name": ["a b/c"]})
        self.assertEqual(json.loads(self.api.bodies[-1]), {"Image": "x"})

    def test_quotes_names_in_paths(self) -> None:
        self.respond_with(INSPECTED)
        self.call(self.docker.inspect_container("../networks?x#y"))
        self.assertEqual(self.api.requests[-1][1], "/v1.41/containers/..%2Fnetworks%3Fx%23y/json")
        self.respond_with({"Id": "sha256:1", "Size": 5})
        self.assertEqual(self.call(self.docker.inspect_image("a/b:1")).size, 5)
        self.assertEqual(self.api.requests[-1][1], "/v1.41/images/a%2Fb%3A1/json")

    def test_stop_container_waits_longer_by_the_containers_timeout(self) -> None:
        self.api.keeps_open, self.api.body = True, b""
        stopping = self.start(self.docker.stop_container("x", 10))
        self.assertEqual(self.api.queries[-1], {"t": ["10"]})
        self.clock.advance(39)
        self.assertNoResult(stopping)
        self.clock.advance(2)
        self.failureResultOf(stopping, DockerUnavailable)

    def test_start_container_accepts_not_modified(self) -> None:
        for status in (204, 304):
            self.api.status, self.api.body = status, b""
            self.call(self.docker.start_container("x"))

    def test_removing_accepts_not_found(self) -> None:
        self.respond_with({"message": "No such container: x"}, 404)
        self.call(self.docker.remove_container("x"))
        self.assertEqual(self.api.queries[-1], {"force": ["1"], "v": ["1"]})
        self.call(self.docker.remove_network("x"))
        self.assertIn(
            "No such container", self.failure(self.docker.inspect_container("x"), DockerNotFound)
        )

    def test_refuses_invalid_responses(self) -> None:
        wrong = {**INSPECTED, "State": {"Status": "running", "Running": "yes", "Paused": False}}
        for body in (b"", b"<html>", b"[]", b'{"Id": 5}', json.dumps(wrong).encode()):
            self.api.body = body
            self.assertIn(
                "invalid response", self.failure(self.docker.inspect_container("x"), DockerError)
            )

    def test_container_logs_contain_both_streams(self) -> None:
        self.api.body = b"\x01\0\0\0\0\0\0\x06hello\n\x02\0\0\0\0\0\0\x04bye\n"
        self.assertEqual(self.call(self.docker.container_logs("x")), "hello\nbye")

    def test_closes_the_connection_of_a_body_over_the_limit(self) -> None:
        self.api.keeps_open, self.api.body = True, b"x" * (MAX_BODY_BYTES + 1)
        self.assertIn("exceeds", self.failure(self.docker.inspect_container("x"), DockerError))
        self.agent.flush()
        self.assertEqual(len(self.api.disconnected), 1)

    def test_cancelling_during_the_body_closes_the_connection(self) -> None:
        self.api.keeps_open = True
        running = self.start(self.docker.inspect_container("x"))
        running.cancel()
        self.agent.flush()
        self.failureResultOf(running, CancelledError)
        self.assertEqual((len(self.api.disconnected), self.clock.getDelayedCalls()), (1, []))

    def test_cancelling_before_the_response_raises_cancelled_error(self) -> None:
        self.api.is_silent = True
        running = self.start(self.docker.inspect_container("x"))
        running.cancel()
        self.agent.flush()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_while_it_connects_raises_cancelled_error(self) -> None:
        """A start that times out just then is one that timed out, not an internal error."""
        transport = create_transport(MemoryReactorClock(), "unix:///run/docker.sock")
        running = self.start(DockerClient(transport, self.clock, 30).inspect_container("x"))
        running.cancel()
        self.failureResultOf(running, CancelledError)

    def test_a_truncated_response_is_an_error(self) -> None:
        self.api.keeps_open = True
        running = self.start(self.docker.inspect_container("x"))
        self.api.open_requests[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(running, DockerUnavailable)

    def test_connection_errors_contain_the_address_and_advice(self) -> None:

        class Refuses:
            number = 0

            def request(self, *_: Any, **__: Any) -> Deferred[Any]:
                return fail(ConnectError(self.number))

        for number, advice in (
            (13, "group docker"),
            (2, "socket does not exist"),
            (111, "connection was refused"),
        ):
            Refuses.number = number
            docker = DockerClient(
                DockerTransport(cast(IAgent, Refuses()), "http://docker", "the engine at /x"),
                self.clock,
            )
            self.assertIn(
                "the engine at /x: ",
                message := self.failure(docker.list_networks(), DockerUnavailable),
            )
            self.assertIn(advice, message)
        self.assertEqual(self.clock.getDelayedCalls(), [])
