"""`ctllm.cloud.docker_api.client`: the stream of events."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError

from ctllm.cloud.docker_api import (
    DockerError,
    DockerUnavailable,
)
from ctllm.cloud.docker_api.streams import MAX_LINE_BYTES
from tests.unit.cloud.docker_api.client_case import DockerClientCase


class FollowEventsTests(DockerClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[Any] = []
        self.api.keeps_open, self.api.body = True, b""
        filters = {"type": ["container"], "event": ["die"]}
        self.following = self.start(self.docker.follow_events(filters, 0, self.events.append))

    def receive(self, data: bytes) -> None:
        self.api.open_requests[0].write(data)
        self.agent.flush()

    def test_passes_on_each_event_when_its_line_is_complete(self) -> None:
        event = {"Type": "container", "Action": "die", "Actor": {"Attributes": {"name": "x"}}}
        line = json.dumps(event).encode() + b"\n"
        self.receive(line + b"\n" + line[:10])
        self.assertEqual([each.action for each in self.events], ["die"])
        self.receive(line[10:])
        self.assertEqual([each.attributes["name"] for each in self.events], ["x", "x"])
        self.assertEqual(json.loads(self.api.queries[-1]["filters"][0])["event"], ["die"])
        self.assertNoResult(self.following)

    def test_returns_when_the_engine_ends_the_response(self) -> None:
        self.api.open_requests[0].finish()
        self.agent.flush()
        self.assertIsNone(self.successResultOf(self.following))

    def test_a_truncated_response_is_an_error(self) -> None:
        self.api.open_requests[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(self.following, DockerUnavailable)

    def test_cancelling_closes_the_connection(self) -> None:
        self.following.cancel()
        self.agent.flush()
        self.failureResultOf(self.following, CancelledError)
        self.assertEqual(len(self.api.disconnected), 1)

    def test_an_invalid_event_is_an_error(self) -> None:
        self.receive(b"nonsense\n")
        self.failureResultOf(self.following, DockerError)
        self.assertEqual(len(self.api.disconnected), 1)

    def test_refuses_a_line_over_the_limit(self) -> None:
        self.receive(b"x" * (MAX_LINE_BYTES + 1))
        self.assertIn("exceeds", str(self.failureResultOf(self.following, DockerError).value))
