"""Calls of the Docker Engine client, against canned answers as recorded from real engines."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError

from ctllm.cloud.docker_api import (
    DockerClient,
    DockerError,
    DockerNotFound,
    DockerTransport,
    DockerUnavailable,
)
from ctllm.cloud.docker_api.streams import MAX_BODY_BYTES
from tests.unit.engine_case import DockerClientCase

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


class CallTests(DockerClientCase):
    """What is asked, and what is read of the answers."""

    def test_a_container(self) -> None:
        """Its state, labels and address."""
        self.respond_with(INSPECTED)
        found = self.call(self.docker.inspect_container("px-u7"))
        self.assertEqual(
            (found.id, found.state.status, found.labels), ("b2", "running", {"a": "b"})
        )
        self.assertEqual((found.address("px-u7"), found.address("other")), ("10.128.0.114", ""))
        self.assertEqual(found.state.started_at.year, 2026)

    def test_lists_by_label(self) -> None:
        """Those that ended, too."""
        self.respond_with([LISTED])
        [found] = self.call(self.docker.list_containers("ctllm.instance=ab"))
        self.assertEqual((found.name, found.state), ("px-u7", "exited"))
        query = self.api.queries[-1]
        self.assertEqual(json.loads(query["filters"][0]), {"label": ["ctllm.instance=ab"]})
        self.assertEqual(query["all"], ["1"])

    def test_networks(self) -> None:
        """Their subnets; one of another kind may have none."""
        bare = {**NETWORK, "Name": "host", "IPAM": {"Config": None}}
        self.respond_with([NETWORK, bare])
        networks = self.call(self.docker.list_networks())
        self.assertEqual([each.subnets for each in networks], [["10.128.0.112/28"], []])

    def test_made(self) -> None:
        """The body is JSON, the name is in the query, and the id is given."""
        self.respond_with({"Id": "c1", "Warnings": []}, 201)
        made = self.docker.create_container("a b/c", {"Image": "x"})
        self.assertEqual(self.call(made), "c1")
        self.assertEqual(self.api.queries[-1], {"name": ["a b/c"]})
        self.assertEqual(json.loads(self.api.bodies[-1]), {"Image": "x"})

    def test_names_stay_within_their_path(self) -> None:
        """Whatever is in them."""
        self.respond_with(INSPECTED)
        self.call(self.docker.inspect_container("../networks?x#y"))
        self.assertEqual(self.api.requests[-1][1], "/v1.41/containers/..%2Fnetworks%3Fx%23y/json")
        self.respond_with({"Id": "sha256:1", "Size": 5})
        self.assertEqual(self.call(self.docker.inspect_image("a/b:1")).size, 5)
        self.assertEqual(self.api.requests[-1][1], "/v1.41/images/a%2Fb%3A1/json")

    def test_stopping_may_take_longer(self) -> None:
        """By as much as the container may take to end."""
        self.api.keeps_open, self.api.body = True, b""
        stopping = self.start(self.docker.stop_container("x", 10))
        self.assertEqual(self.api.queries[-1], {"t": ["10"]})
        self.clock.advance(39)
        self.assertNoResult(stopping)
        self.clock.advance(2)
        self.failureResultOf(stopping, DockerUnavailable)

    def test_started_already(self) -> None:
        """304 is as good as 204."""
        for status in (204, 304):
            self.api.status, self.api.body = status, b""
            self.call(self.docker.start_container("x"))

    def test_gone_already(self) -> None:
        """404 is as good as 204 for those who remove, and for nobody else."""
        self.respond_with({"message": "No such container: x"}, 404)
        self.call(self.docker.remove_container("x"))
        self.assertEqual(self.api.queries[-1], {"force": ["1"], "v": ["1"]})
        self.call(self.docker.remove_network("x"))
        self.assertIn(
            "No such container", self.failure(self.docker.inspect_container("x"), DockerNotFound)
        )

    def test_nonsense(self) -> None:
        """An answer without what it should have, or of another kind, is refused in words."""
        wrong = {**INSPECTED, "State": {"Status": "running", "Running": "yes", "Paused": False}}
        for body in (b"", b"<html>", b"[]", b'{"Id": 5}', json.dumps(wrong).encode()):
            self.api.body = body
            self.assertIn(
                "invalid response", self.failure(self.docker.inspect_container("x"), DockerError)
            )

    def test_last_words(self) -> None:
        """Of both outputs."""
        self.api.body = b"\x01\0\0\0\0\0\0\x06hello\n\x02\0\0\0\0\0\0\x04bye\n"
        self.assertEqual(self.call(self.docker.container_logs("x")), "hello\nbye")

    def test_an_answer_without_end(self) -> None:
        """Is hung up on at its limit."""
        self.api.keeps_open, self.api.body = True, b"x" * (MAX_BODY_BYTES + 1)
        self.assertIn("exceeds", self.failure(self.docker.inspect_container("x"), DockerError))
        self.agent.flush()
        self.assertEqual(len(self.api.disconnected), 1)

    def test_a_call_that_is_cancelled(self) -> None:
        """Closes its connection and leaves no timer."""
        self.api.keeps_open = True
        calling = self.start(self.docker.inspect_container("x"))
        calling.cancel()
        self.agent.flush()
        self.failureResultOf(calling, CancelledError)
        self.assertEqual((len(self.api.disconnected), self.clock.getDelayedCalls()), (1, []))

    def test_a_call_that_is_cancelled_before_its_answer(self) -> None:
        """The same: whoever cancels hears of that, not of an engine that is not there."""
        self.api.is_silent = True
        calling = self.start(self.docker.inspect_container("x"))
        calling.cancel()
        self.agent.flush()
        self.failureResultOf(calling, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_answer_that_breaks_off(self) -> None:
        """Is no answer."""
        self.api.keeps_open = True
        calling = self.start(self.docker.inspect_container("x"))
        self.api.open_requests[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(calling, DockerUnavailable)

    def test_nobody_answers(self) -> None:
        """Who cannot be reached is named, with what to do."""

        class Refuses:
            number = 0

            def request(self, *_: Any, **__: Any) -> Deferred[Any]:
                return fail(ConnectError(self.number))

        for number, said in (
            (13, "group docker"),
            (2, "socket does not exist"),
            (111, "connection was refused"),
        ):
            Refuses.number = number
            engine = DockerClient(
                DockerTransport(Refuses(), "http://docker", "the engine at /x"), self.clock
            )
            self.assertIn(
                "the engine at /x: ",
                refused := self.failure(engine.list_networks(), DockerUnavailable),
            )
            self.assertIn(said, refused)
        self.assertEqual(self.clock.getDelayedCalls(), [])
