"""The Docker Engine client, against canned answers that are as recorded from real engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from hypothesis import given
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ctllm.cloud.engine import (
    Conflict,
    Engine,
    EngineAbsent,
    EngineRefused,
    EngineTooOld,
    ImageMissing,
    Missing,
    NoRoom,
    NoSubnet,
    Way,
    way_to,
)
from ctllm.cloud.engine.bodies import LONGEST, MOST, demultiplexed
from ctllm.cloud.engine.complaints import complaint
from ctllm.errors import BadConfiguration

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


class Canned(Resource):
    """Answers whatever is asked with what the test put there; `open` are answers that go on."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.api = "1.41"
        self.status, self.body = 200, b"{}"
        self.goes_on = False
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.queries: list[dict[str, list[str]]] = []
        self.open: list[Any] = []
        self.left: list[Any] = []

    def render(self, request: Any) -> Any:
        method, path = request.method.decode(), request.path.decode()
        self.asked.append((method, path))
        self.queries.append(parse_qs(request.uri.decode().partition("?")[2]))
        self.bodies.append(request.content.read())
        if path == "/_ping":
            request.setHeader("Api-Version", self.api)
            return b"OK"
        request.setResponseCode(self.status)
        if not self.goes_on:
            return self.body
        request.notifyFinish().addErrback(self.left.append)
        request.write(self.body)
        self.open.append(request)
        return NOT_DONE_YET


class Case(SynchronousTestCase):
    """An engine that answers over memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.canned = Canned()
        self.agent = RequestTraversalAgent(self.canned)
        self.engine = Engine(Way(self.agent, "http://docker", "the engine"), self.clock, 30)

    def start(self, doing: Any) -> Deferred[Any]:
        done = Deferred.fromCoroutine(doing)
        self.agent.flush()
        return done

    def call(self, doing: Any) -> Any:
        return self.successResultOf(self.start(doing))

    def refused(self, doing: Any, kind: type[Exception]) -> str:
        return str(self.failureResultOf(self.start(doing), kind).value)

    def answer(self, value: Any, status: int = 200) -> None:
        self.canned.status, self.canned.body = status, json.dumps(value).encode()


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


class CallTests(Case):
    """What is asked, and what is read of the answers."""

    def test_a_container(self) -> None:
        """Its state, labels and address."""
        self.answer(INSPECTED)
        found = self.call(self.engine.container("px-u7"))
        self.assertEqual(
            (found.id, found.state.status, found.labels), ("b2", "running", {"a": "b"})
        )
        self.assertEqual((found.address("px-u7"), found.address("other")), ("10.128.0.114", ""))
        self.assertEqual(found.state.started_at.year, 2026)

    def test_lists_by_label(self) -> None:
        """Those that ended, too."""
        self.answer([LISTED])
        [found] = self.call(self.engine.containers("ctllm.instance=ab"))
        self.assertEqual((found.name, found.state), ("px-u7", "exited"))
        query = self.canned.queries[-1]
        self.assertEqual(json.loads(query["filters"][0]), {"label": ["ctllm.instance=ab"]})
        self.assertEqual(query["all"], ["1"])

    def test_networks(self) -> None:
        """Their subnets; one of another kind may have none."""
        bare = {**NETWORK, "Name": "host", "IPAM": {"Config": None}}
        self.answer([NETWORK, bare])
        networks = self.call(self.engine.networks())
        self.assertEqual([each.subnets for each in networks], [["10.128.0.112/28"], []])

    def test_made(self) -> None:
        """The body is JSON, the name is in the query, and the id is given."""
        self.answer({"Id": "c1", "Warnings": []}, 201)
        made = self.engine.create_container("a b/c", {"Image": "x"})
        self.assertEqual(self.call(made), "c1")
        self.assertEqual(self.canned.queries[-1], {"name": ["a b/c"]})
        self.assertEqual(json.loads(self.canned.bodies[-1]), {"Image": "x"})

    def test_names_stay_within_their_path(self) -> None:
        """Whatever is in them."""
        self.answer(INSPECTED)
        self.call(self.engine.container("../networks?x#y"))
        self.assertEqual(self.canned.asked[-1][1], "/v1.41/containers/..%2Fnetworks%3Fx%23y/json")

    def test_started_already(self) -> None:
        """304 is as good as 204."""
        for status in (204, 304):
            self.canned.status, self.canned.body = status, b""
            self.call(self.engine.start_container("x"))

    def test_gone_already(self) -> None:
        """404 is as good as 204 for those who remove, and for nobody else."""
        self.answer({"message": "No such container: x"}, 404)
        self.call(self.engine.remove_container("x"))
        self.call(self.engine.remove_network("x"))
        self.assertIn("No such container", self.refused(self.engine.container("x"), Missing))

    def test_nonsense(self) -> None:
        """An answer without what it should have, or of another kind, is refused in words."""
        wrong = {**INSPECTED, "State": {"Status": "running", "Running": "yes", "Paused": False}}
        for body in (b"", b"<html>", b"[]", b'{"Id": 5}', json.dumps(wrong).encode()):
            self.canned.body = body
            self.assertIn("makes no sense", self.refused(self.engine.container("x"), EngineRefused))

    def test_last_words(self) -> None:
        """Of both outputs."""
        self.canned.body = b"\x01\0\0\0\0\0\0\x06hello\n\x02\0\0\0\0\0\0\x04bye\n"
        self.assertEqual(self.call(self.engine.last_words("x")), "hello\nbye")

    def test_an_answer_without_end(self) -> None:
        """Is hung up on at its limit."""
        self.canned.goes_on, self.canned.body = True, b"x" * (MOST + 1)
        self.assertIn("longer than", self.refused(self.engine.container("x"), EngineRefused))
        self.agent.flush()
        self.assertEqual(len(self.canned.left), 1)

    def test_a_call_that_is_cancelled(self) -> None:
        """Closes its connection and leaves no timer."""
        self.canned.goes_on = True
        calling = self.start(self.engine.container("x"))
        calling.cancel()
        self.agent.flush()
        self.failureResultOf(calling, CancelledError)
        self.assertEqual((len(self.canned.left), self.clock.getDelayedCalls()), (1, []))

    def test_an_answer_that_breaks_off(self) -> None:
        """Is no answer."""
        self.canned.goes_on = True
        calling = self.start(self.engine.container("x"))
        self.canned.open[0].transport.abortConnection()
        self.agent.flush()
        self.failureResultOf(calling, EngineAbsent)

    def test_nobody_answers(self) -> None:
        """Who cannot be reached is named, with what to do."""

        class Refuses:
            def request(self, *_: Any, **__: Any) -> Deferred[Any]:
                return fail(ConnectError(13))

        engine = Engine(Way(Refuses(), "http://docker", "the engine at /x"), self.clock)
        self.assertIn("group docker", self.refused(engine.networks(), EngineAbsent))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EventTests(Case):
    """What happens, as it happens."""

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[Any] = []
        self.canned.goes_on, self.canned.body = True, b""
        filters = {"type": ["container"], "event": ["die"]}
        self.hearing = self.start(self.engine.events(filters, self.heard.append))

    def say(self, data: bytes) -> None:
        self.canned.open[0].write(data)
        self.agent.flush()

    def test_each_is_given_at_once(self) -> None:
        """In pieces and several at a time; empty lines are none."""
        event = {"Type": "container", "Action": "die", "Actor": {"Attributes": {"name": "x"}}}
        line = json.dumps(event).encode() + b"\n"
        self.say(line + b"\n" + line[:10])
        self.assertEqual([each.action for each in self.heard], ["die"])
        self.say(line[10:])
        self.assertEqual([each.attributes["name"] for each in self.heard], ["x", "x"])
        self.assertEqual(json.loads(self.canned.queries[-1]["filters"][0])["event"], ["die"])
        self.assertNoResult(self.hearing)

    def test_the_end(self) -> None:
        """When the engine ends, so does the hearing."""
        self.canned.open[0].finish()
        self.agent.flush()
        self.assertIsNone(self.successResultOf(self.hearing))

    def test_no_more_wanted(self) -> None:
        """The connection is closed, and nothing is heard any more."""
        self.hearing.cancel()
        self.agent.flush()
        self.failureResultOf(self.hearing, CancelledError)
        self.assertEqual(len(self.canned.left), 1)

    def test_nonsense(self) -> None:
        """Ends it, and the connection."""
        self.say(b"nonsense\n")
        self.failureResultOf(self.hearing, EngineRefused)
        self.assertEqual(len(self.canned.left), 1)

    def test_a_line_without_end(self) -> None:
        """The same."""
        self.say(b"x" * (LONGEST + 1))
        self.assertIn("line", str(self.failureResultOf(self.hearing, EngineRefused).value))


class ComplaintTests(SynchronousTestCase):
    """What engines complain of."""

    def test_kinds(self) -> None:
        """Each has its type, and the engine's own words at the end."""
        for status, said, kind in (
            (404, "No such container: x", Missing),
            (404, "No such image: ctllm:1", ImageMissing),
            (409, "Conflict. The container name is already in use", Conflict),
            (403, "Pool overlaps with other one on this address space", NoSubnet),
            (500, "write /var/lib/docker/x: no space left on device", NoRoom),
            (400, "client version 1.99 is too new. Maximum supported is 1.41", EngineTooOld),
            (500, "something", EngineRefused),
        ):
            found = complaint(status, json.dumps({"message": said}).encode())
            self.assertIs(type(found), kind)
            self.assertTrue(found.message.endswith(said), found.message)

    @given(st.integers(300, 599), st.binary(max_size=2000))
    def test_anything(self, status: int, said: bytes) -> None:
        """Is an error in one line of bounded length."""
        message = complaint(status, said).message
        self.assertTrue(len(message) < 700 and "\n" not in message)

    @given(st.lists(st.binary(max_size=50)), st.integers(0, 60))
    def test_logs(self, pieces: list[bytes], cut: int) -> None:
        """Frames of both outputs in their order; a cut one gives what there is of it."""
        framed = b"".join(bytes([1, 0, 0, 0]) + len(p).to_bytes(4, "big") + p for p in pieces)
        self.assertEqual(demultiplexed(framed), b"".join(pieces))
        shorter = demultiplexed(framed[: len(framed) - cut]) if cut else b""
        self.assertTrue(b"".join(pieces).startswith(shorter))


class WayTests(SynchronousTestCase):
    """Addresses of engines."""

    def test_good_ones(self) -> None:
        """A socket, with and without a scheme, and loopback."""
        for address, where in (
            ("unix:///var/run/docker.sock", "the Docker engine at /var/run/docker.sock"),
            ("/run/x.sock", "the Docker engine at /run/x.sock"),
            ("tcp://127.0.0.1:2375", "the Docker engine at 127.0.0.1:2375"),
            ("tcp://[::1]:2375", "the Docker engine at [::1]:2375"),
        ):
            self.assertEqual(way_to(Clock(), address).where, where)

    def test_bad_ones(self) -> None:
        """No scheme that we know, no host, no port, a path."""
        for address in ("", "docker", "ssh://host", "tcp://", "tcp://h:x", "unix://x/y",
                        "tcp://127.0.0.1:1/x"):  # fmt: skip
            said = self.assertRaises(BadConfiguration, way_to, Clock(), address).message
            self.assertIn(repr(address), said)

    def test_strangers_need_certificates(self) -> None:
        """Plain TCP to another machine is refused; folders without them are named."""
        for address in ("tcp://192.0.2.1:2375", "tcp://example.org:2375"):
            said = self.assertRaises(BadConfiguration, way_to, Clock(), address).message
            self.assertIn("certificates", said)
        empty = Path(self.mktemp())
        empty.mkdir()
        said = self.assertRaises(
            BadConfiguration, way_to, Clock(), "tcp://example.org", str(empty)
        ).message
        self.assertIn("ca.pem", said)
        (empty / "ca.pem").write_text("none")
        said = self.assertRaises(
            BadConfiguration, way_to, Clock(), "tcp://example.org", str(empty)
        ).message
        self.assertIn("is none", said)
