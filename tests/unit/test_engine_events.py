"""Events of a Docker engine."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError

from ctllm.cloud.docker_api import (
    DockerError,
    DockerUnavailable,
)
from ctllm.cloud.docker_api.streams import MAX_LINE_BYTES
from tests.unit.engine_case import DockerClientCase


class EventTests(DockerClientCase):
    """What happens, as it happens."""

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[Any] = []
        self.api.keeps_open, self.api.body = True, b""
        filters = {"type": ["container"], "event": ["die"]}
        self.hearing = self.start(self.docker.follow_events(filters, 0, self.heard.append))

    def say(self, data: bytes) -> None:
        self.api.open_requests[0].write(data)
        self.agent.flush()

    def test_each_is_given_at_once(self) -> None:
        """In pieces and several at a time; empty lines are none."""
        event = {"Type": "container", "Action": "die", "Actor": {"Attributes": {"name": "x"}}}
        line = json.dumps(event).encode() + b"\n"
        self.say(line + b"\n" + line[:10])
        self.assertEqual([each.action for each in self.heard], ["die"])
        self.say(line[10:])
        self.assertEqual([each.attributes["name"] for each in self.heard], ["x", "x"])
        self.assertEqual(json.loads(self.api.queries[-1]["filters"][0])["event"], ["die"])
        self.assertNoResult(self.hearing)

    def test_the_end(self) -> None:
        """When the engine ends, so does the hearing."""
        self.api.open_requests[0].finish()
        self.agent.flush()
        self.assertIsNone(self.successResultOf(self.hearing))

    def test_an_end_that_is_none(self) -> None:
        """An engine that dies is no engine that ends in order."""
        self.api.open_requests[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(self.hearing, DockerUnavailable)

    def test_no_more_wanted(self) -> None:
        """The connection is closed, and nothing is heard any more."""
        self.hearing.cancel()
        self.agent.flush()
        self.failureResultOf(self.hearing, CancelledError)
        self.assertEqual(len(self.api.disconnected), 1)

    def test_nonsense(self) -> None:
        """Ends it, and the connection."""
        self.say(b"nonsense\n")
        self.failureResultOf(self.hearing, DockerError)
        self.assertEqual(len(self.api.disconnected), 1)

    def test_a_line_without_end(self) -> None:
        """The same."""
        self.say(b"x" * (MAX_LINE_BYTES + 1))
        self.assertIn("exceeds", str(self.failureResultOf(self.hearing, DockerError).value))
