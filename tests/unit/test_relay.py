"""The ways of a proxy: straight on, by the model in the body, or to all desktops for a list."""

from __future__ import annotations

import json

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.message.head import ResponseHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.request_router import RequestRouter
from ctllm.relay.fan_out import LIST_TIMEOUT, MAX_LIST
from tests.unit.fakes import MemoryTransport
from tests.unit.test_rendezvous import Desk

JSON = ResponseHead(200, b"OK", ((b"Content-Type", b"application/json"),))


class Case(SynchronousTestCase):
    """Desktops behind a relay, and a client's connection to it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rendezvous = DesktopRegistry(self.clock, 1 << 18, 30, 8, 60)
        self.room = BufferBudget(1 << 23)
        relay = RequestRouter(self.rendezvous, self.clock, self.room)

        async def answer(incoming: ServerRequest) -> None:
            await relay.route(incoming.head, incoming)

        self.factory = HttpServerFactory(answer, self.clock)
        self.desks: list[Desk] = []
        self.wire = self.connect()

    def connect(self) -> MemoryTransport:
        protocol, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        return wire

    def desk(self, ollama: str, *models: str) -> Desk:
        """Another desktop, newer than those before it."""
        self.clock.advance(1)
        self.desks.append(Desk(self.rendezvous, len(self.desks) + 1, "d", ollama, *models))
        return self.desks[-1]

    def settle(self) -> None:
        self.clock.advance(0)
        for desk in self.desks:
            desk.settle()
        self.clock.advance(0)

    def send(self, text: str | bytes) -> None:
        self.wire.protocol.dataReceived(text.encode() if isinstance(text, str) else text)
        self.settle()

    def ask(self, line: str, *headers: str, body: bytes = b"") -> None:
        length = [f"Content-Length: {len(body)}"] if body else []
        head = "\r\n".join([f"{line} HTTP/1.1", "Host: x", *length, *headers, "", ""])
        self.send(head.encode() + body)

    def answer(self, desk: Desk, body: bytes, head: ResponseHead = JSON) -> None:
        """The newest request of a desktop is answered."""
        desk.callers[-1].write_head(head)
        if body:
            desk.callers[-1].write(body)
        desk.callers[-1].finish()
        self.settle()

    def said(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer."""
        head, _, body = self.wire.take_written().partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, head, body

    def nothing_is_left(self) -> None:
        self.assertEqual((self.rendezvous.stream_count, self.room.reserved), (0, 0))
        timers = [
            call
            for call in self.clock.getDelayedCalls()
            if call.getTime() < self.clock.seconds() + 10
        ]
        self.assertEqual(timers, [])


class StraightOn(Case):
    """Where there is nothing to choose, nothing waits."""

    def test_one_desktop(self) -> None:
        """The exchange begins before the body does, and each piece passes as it comes."""
        desk = self.desk("up", "m:1")
        self.desk("down")
        self.ask("POST /api/chat", "Content-Length: 100")
        self.assertEqual(len(desk.heads), 1)
        self.send(b'{"mess')
        self.assertEqual(desk.calls[0].calls, [b'{"mess'])
        self.assertEqual(self.room.reserved, 0)

    def test_a_desktop_that_is_named(self) -> None:
        """Likewise, though others have the model."""
        one = self.desk("up", "x:1")
        self.desk("up", "y:1")
        self.ask("POST /api/chat", f"Ctllm-Desktop: {one.id}", "Content-Length: 100")
        self.send(b'{"model":"y:1"')
        self.assertEqual(one.calls[0].calls, [b'{"model":"y:1"'])

    def test_one_desktop_lists(self) -> None:
        """Its list is passed on as it is, whatever it is, with its headers."""
        desk = self.desk("up", "m:1")
        self.desk("demo", "demo:echo")
        self.ask("GET /api/tags")
        self.answer(desk, b"what[ever", ResponseHead(200, b"OK", ((b"X-Request-Id", b"1"),)))
        _, head, body = self.said()
        self.assertIn(b"X-Request-Id: 1", head)
        self.assertIn(b"Ctllm-Request-Id: ", head)
        self.assertIn(b"what[ever", body)

    def test_what_names_no_model(self) -> None:
        """It goes to the best one, unread."""
        self.desk("up", "x:1")
        best = self.desk("up", "y:1")
        for line in ("POST /api/pull", "POST /api/blobs/sha256:00", "PUT /api/chat", "GET /"):
            self.wire = self.connect()
            self.ask(line, "Content-Length: 100")
            self.send(b'{"model":"x:1"')
            self.assertEqual(best.heads[-1].method.decode(), line.split(" ")[0])
        self.assertEqual(len(best.heads), 4)

    def test_a_head_of_a_list(self) -> None:
        """It goes to the best one."""
        other, best = self.desk("up", "x:1"), self.desk("up", "y:1")
        self.ask("HEAD /api/tags")
        self.assertEqual((len(other.heads), len(best.heads)), (0, 1))


class ByModel(Case):
    """With several desktops the body is looked at."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.desk("up", "x:1")
        self.two = self.desk("up", "y:1")

    def test_in_the_body(self) -> None:
        """It goes where the model is, whole, and the answer names its exchange."""
        body = b'{"messages":[{"content":"' + b"x" * 500_000 + b'"}],"model":"x:1"}'
        self.ask("POST /v1/chat/completions", f"Content-Length: {len(body)}")
        for start in range(0, len(body), 65536):
            self.assertEqual((self.one.heads, self.two.heads), ([], []))
            self.send(body[start : start + 65536])
        told = self.one.calls[0].calls
        self.assertEqual((b"".join(told[:-1]), told[-1]), (body, "end"))
        self.answer(self.one, b"hi")
        status, head, _ = self.said()
        self.assertEqual(status, 200)
        self.assertIn(b"Ctllm-Request-Id: ", head)
        self.assertEqual(self.two.heads, [])
        self.nothing_is_left()

    def test_in_the_path(self) -> None:
        """GET /v1/models/{model}."""
        self.ask("GET /v1/models/x%3A1")
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 0))

    def test_a_client_that_waits_to_be_asked(self) -> None:
        """Expect: 100-continue: it is asked for its body before anything is decided."""
        self.ask("POST /api/chat", "Content-Length: 15", "Expect: 100-continue")
        self.assertTrue(self.wire.take_written().startswith(b"HTTP/1.1 100 "))
        self.send(b'{"model":"x:1"}')
        self.assertEqual(self.one.calls[0].calls, [b'{"model":"x:1"}', "end"])

    def test_no_body(self) -> None:
        """The best one says what is wrong."""
        self.ask("POST /api/chat", "Content-Length: 0")
        self.assertEqual(len(self.two.heads), 1)

    def test_a_client_that_leaves_before_its_model_is_known(self) -> None:
        """No desktop ever hears of it, and nothing is left."""
        self.ask("POST /api/chat", "Content-Length: 1000000")
        self.send(b'{"messages":["' + bytes(100_000))
        self.assertGreater(self.room.reserved, 100_000)
        self.wire.disconnect()
        self.settle()
        self.assertEqual((self.one.heads, self.two.heads), ([], []))
        self.nothing_is_left()

    def test_a_client_that_leaves_after(self) -> None:
        """Its work is cancelled."""
        self.ask("POST /api/chat", body=b'{"model":"x:1"}')
        self.wire.disconnect()
        self.settle()
        self.assertNotEqual(self.one.calls[0].calls[-1], "end")
        self.nothing_is_left()

    def test_desktops_that_leave_meanwhile(self) -> None:
        """The one that is still there is asked; when none is, the client hears it."""
        self.ask("POST /api/chat", "Content-Length: 15")
        self.one.lose(self.clock.seconds())
        self.send(b'{"model":"x:1"}')
        self.assertEqual(len(self.two.heads), 1)
        self.wire = self.connect()
        self.one.connect()
        self.ask("POST /api/chat", "Content-Length: 15")
        for desk in self.desks:
            desk.lose(self.clock.seconds())
        self.send(b'{"model":"x:1"}')
        self.assertEqual(self.said()[0], 503)
        self.assertEqual(self.room.reserved, 0)

    def test_one_that_may_come_back(self) -> None:
        """With its whole request on its way, leaving is not cancelling here either."""
        for body in (b'{"model":"x:1"}', b'{"messages":"%b","model":"x:1"}' % bytes(500_000)):
            self.wire = self.connect()
            self.ask("POST /api/chat", "Ctllm-Resume: 60", body=body)
            self.wire.disconnect()
            self.settle()
            self.assertEqual(self.one.calls[-1].calls[-1], "end")
            self.answer(self.one, b"hi")
        self.wire = self.connect()
        self.ask("POST /api/chat", "Ctllm-Resume: soon", body=b'{"model":"x:1"}')
        self.assertEqual(self.said()[0], 400)

    def test_the_next_request_of_the_connection(self) -> None:
        """It is another choice."""
        for desk, model in ((self.one, "x:1"), (self.two, "y:1"), (self.one, "X:1")):
            self.ask("POST /api/chat", body=b'{"model":"%b"}' % model.encode())
            self.answer(desk, b"hi")
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (2, 1))


class Lists(Case):
    """With several desktops their lists are merged."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.desk("up", "x:1")
        self.two = self.desk("up", "y:1")

    def listed(self) -> list[str]:
        status, head, body = self.said()
        self.assertEqual(status, 200)
        self.assertIn(b"Content-Type: application/json; charset=utf-8", head)
        return [model["name"] for model in json.loads(body)["models"]]

    def give(self, desk: Desk, *names: str) -> None:
        self.answer(desk, json.dumps({"models": [{"name": name} for name in names]}).encode())

    def test_of_all(self) -> None:
        """All are asked at once; the answer comes with the last; the preferred one's come first."""
        self.ask("GET /api/tags?x=1", "Accept-Encoding: gzip", "X-Kept: 1")
        for desk in (self.one, self.two):
            (head,) = desk.heads
            self.assertEqual(head.target, b"/api/tags?x=1")
            self.assertEqual(dict(head.headers).get(b"X-Kept"), b"1")
            self.assertNotIn(b"Accept-Encoding", dict(head.headers))
        self.give(self.one, "x:1", "both")
        self.assertEqual(self.said()[0], 0)
        self.give(self.two, "y:1", "both:latest")
        self.assertEqual(self.listed(), ["y:1", "both:latest", "x:1"])
        self.nothing_is_left()

    def test_openai(self) -> None:
        """In its shape and with its content type."""
        self.ask("GET /v1/models")
        self.answer(self.one, b'{"object":"list","data":[{"id":"x:1"}]}')
        self.answer(self.two, b'{"object":"list","data":[{"id":"y:1"}]}')
        _, head, body = self.said()
        self.assertIn(b"Content-Type: application/json\r\n", head)
        self.assertEqual(body, b'{"object":"list","data":[{"id":"y:1"},{"id":"x:1"}]}')

    def test_a_demo_beside_real_ones(self) -> None:
        """It is not asked; nor is one without Ollama."""
        demo, down = self.desk("demo", "demo:echo"), self.desk("down")
        self.ask("GET /api/tags")
        self.assertEqual((demo.heads, down.heads), ([], []))

    def test_one_that_fails(self) -> None:
        """It is left out, however it fails."""
        for head, body in (
            (ResponseHead(500), b'{"models":[{"name":"no"}]}'),
            (JSON, b"<html>"),
            (JSON, b'{"models":[' + b" " * MAX_LIST + b"]}"),
        ):
            self.wire = self.connect()
            self.ask("GET /api/tags")
            self.give(self.two, "y:1")
            self.answer(self.one, body, head)
            self.assertEqual(self.listed(), ["y:1"])
            self.nothing_is_left()

    def test_one_that_does_not_answer(self) -> None:
        """After three seconds it is left out, and told to stop."""
        self.ask("GET /api/tags")
        self.one.callers[0].write_head(JSON)
        self.give(self.two, "y:1")
        self.clock.advance(LIST_TIMEOUT - 0.1)
        self.settle()
        self.assertEqual(self.said()[0], 0)
        self.clock.advance(0.2)
        self.settle()
        self.assertEqual(self.listed(), ["y:1"])
        self.assertNotEqual(self.one.calls[0].calls[-1], "end")
        self.nothing_is_left()

    def test_a_client_that_waits_no_longer(self) -> None:
        """It is answered with what came in its time; the desktops have less of it."""
        self.ask("GET /api/tags", "Ctllm-Timeout: 1500")
        for desk in (self.one, self.two):
            timeouts = [each for each in desk.heads[0].headers if each[0] == b"Ctllm-Timeout"]
            self.assertEqual(timeouts, [(b"Ctllm-Timeout", b"1000")])
        self.give(self.two, "y:1")
        self.clock.advance(1.4)
        self.settle()
        self.assertEqual(self.said()[0], 0)
        self.clock.advance(0.2)
        self.settle()
        self.assertEqual(self.listed(), ["y:1"])
        self.nothing_is_left()

    def test_one_that_sends_without_end(self) -> None:
        """It is cut off at the most that is read, at once."""
        self.ask("GET /api/tags")
        self.give(self.two, "y:1")
        self.one.callers[0].write_head(JSON)
        for _ in range(MAX_LIST // 65536 + 1):
            self.one.callers[0].write(b" " * 65536)
            self.settle()
        self.assertEqual(self.listed(), ["y:1"])
        self.assertNotEqual(self.one.calls[0].calls[-1], "end")
        self.nothing_is_left()

    def test_more_than_may_be_held_for_all(self) -> None:
        """Lists count with the bodies that wait."""
        self.room.reserve((1 << 23) - 100)
        self.ask("GET /api/tags")
        self.give(self.two, "y:1")
        self.give(self.one, *("long" * 10 + str(number) for number in range(9)))
        self.assertEqual(self.listed(), ["y:1"])
        self.assertEqual(self.room.reserved, (1 << 23) - 100)

    def test_one_that_is_lost(self) -> None:
        """It is left out."""
        self.ask("GET /api/tags")
        self.one.lose(self.clock.seconds())
        self.give(self.two, "y:1")
        self.clock.advance(LIST_TIMEOUT)
        self.settle()
        self.assertEqual(self.listed(), ["y:1"])

    def test_all_fail(self) -> None:
        """The best one is asked again, and its answer passes as it is."""
        self.ask("GET /api/tags")
        for desk in (self.one, self.two):
            self.answer(desk, b'{"error":"broken"}', ResponseHead(500))
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 2))
        head = ((b"Retry-After", b"7"), (b"Content-Length", b"9"))
        self.answer(self.two, b"no, sorry", ResponseHead(503, b"Busy", head))
        status, said, body = self.said()
        self.assertEqual((status, body), (503, b"no, sorry"))
        self.assertIn(b"Retry-After: 7", said)

    def test_a_client_that_leaves(self) -> None:
        """All that was asked for it is cancelled; nobody is asked anew."""
        self.ask("GET /api/tags")
        self.give(self.one, "x:1")
        self.wire.disconnect()
        self.settle()
        self.assertNotEqual(self.two.calls[0].calls[-1], "end")
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 1))
        self.nothing_is_left()

    def test_a_client_that_leaves_before_any_list(self) -> None:
        """Nobody is asked in its name any more."""
        self.ask("GET /api/tags")
        self.wire.disconnect()
        self.settle()
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 1))
        self.nothing_is_left()

    def test_one_that_is_full(self) -> None:
        """A desktop that takes no more exchanges is left out."""
        for _ in range(8):
            self.wire = self.connect()
            self.ask("GET /", f"Ctllm-Desktop: {self.one.id}")
        self.wire = self.connect()
        self.ask("GET /api/tags")
        self.give(self.two, "y:1")
        self.assertEqual(self.listed(), ["y:1"])
