"""The ways of a proxy: straight on, by the model in the body, or to all desktops for a list."""

from __future__ import annotations

import json
import re

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.message.head import ResponseHead
from ctllm.http.request_log import RequestLog
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.request_router import RequestRouter
from ctllm.relay.fan_out import LIST_TIMEOUT, MAX_LIST
from tests.unit.fakes import FakeDesktop, MemoryTransport

JSON = ResponseHead(200, b"OK", ((b"Content-Type", b"application/json"),))


class Case(SynchronousTestCase):
    """Desktops behind a relay, and a client's connection to it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = DesktopRegistry(self.clock, 1 << 18, 30, 8, 60)
        self.room = BufferBudget(1 << 23)
        relay = RequestRouter(
            self.registry, self.clock, self.room, RequestLog(self.clock, is_enabled=True)
        )

        async def answer(incoming: ServerRequest) -> None:
            await relay.route(incoming.head, incoming)

        self.factory = HttpServerFactory(answer, self.clock)
        self.desks: list[FakeDesktop] = []
        self.wire = self.connect()

    def connect(self) -> MemoryTransport:
        protocol, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        return wire

    def desk(self, ollama: str, *models: str) -> FakeDesktop:
        """Another desktop, newer than those before it."""
        self.clock.advance(1)
        self.desks.append(FakeDesktop(self.registry, len(self.desks) + 1, "d", ollama, *models))
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

    def answer(self, desk: FakeDesktop, body: bytes, head: ResponseHead = JSON) -> None:
        """The newest request of a desktop is answered."""
        desk.sinks[-1].write_head(head)
        if body:
            desk.sinks[-1].write(body)
        desk.sinks[-1].finish()
        self.settle()

    def said(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer."""
        head, _, body = self.wire.take_written().partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, head, body

    def nothing_is_left(self) -> None:
        self.assertEqual((self.registry.stream_count, self.room.reserved), (0, 0))
        timers = [
            call
            for call in self.clock.getDelayedCalls()
            if call.getTime() < self.clock.seconds() + 10
        ]
        self.assertEqual(timers, [])


class DirectRoutingTests(Case):
    """Requests for which there is no choice of desktops."""

    def test_streams_the_body_to_the_only_desktop(self) -> None:
        desk = self.desk("up", "m:1")
        self.desk("down")
        self.ask("POST /api/chat", "Content-Length: 100")
        self.assertEqual(len(desk.heads), 1)
        self.send(b'{"mess')
        self.assertEqual(desk.request_sinks[0].calls, [b'{"mess'])
        self.assertEqual(self.room.reserved, 0)

    def test_streams_the_body_to_a_named_desktop(self) -> None:
        one = self.desk("up", "x:1")
        self.desk("up", "y:1")
        self.ask("POST /api/chat", f"Ctllm-Desktop: {one.id}", "Content-Length: 100")
        self.send(b'{"model":"y:1"')
        self.assertEqual(one.request_sinks[0].calls, [b'{"model":"y:1"'])

    def test_relays_the_list_of_the_only_desktop_unchanged(self) -> None:
        desk = self.desk("up", "m:1")
        self.desk("demo", "demo:echo")
        self.ask("GET /api/tags")
        self.answer(desk, b"what[ever", ResponseHead(200, b"OK", ((b"X-Request-Id", b"1"),)))
        _, head, body = self.said()
        self.assertIn(b"X-Request-Id: 1", head)
        self.assertIn(b"Ctllm-Request-Id: ", head)
        self.assertIn(b"what[ever", body)

    def test_sends_a_request_without_model_to_the_best_desktop(self) -> None:
        self.desk("up", "x:1")
        best = self.desk("up", "y:1")
        for line in ("POST /api/pull", "POST /api/blobs/sha256:00", "PUT /api/chat", "GET /"):
            self.wire = self.connect()
            self.ask(line, "Content-Length: 100")
            self.send(b'{"model":"x:1"')
            self.assertEqual(best.heads[-1].method.decode(), line.split(" ")[0])
        self.assertEqual(len(best.heads), 4)

    def test_sends_head_of_a_list_to_the_best_desktop(self) -> None:
        other, best = self.desk("up", "x:1"), self.desk("up", "y:1")
        self.ask("HEAD /api/tags")
        self.assertEqual((len(other.heads), len(best.heads)), (0, 1))


class RoutingByModelTests(Case):
    """Requests whose model selects the desktop."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.desk("up", "x:1")
        self.two = self.desk("up", "y:1")

    def test_routes_by_the_model_in_the_body(self) -> None:
        body = b'{"messages":[{"content":"' + b"x" * 500_000 + b'"}],"model":"x:1"}'
        self.ask("POST /v1/chat/completions", f"Content-Length: {len(body)}")
        for start in range(0, len(body), 65536):
            self.assertEqual((self.one.heads, self.two.heads), ([], []))
            self.send(body[start : start + 65536])
        told = self.one.request_sinks[0].calls
        self.assertEqual((b"".join(told[:-1]), told[-1]), (body, "end"))
        self.answer(self.one, b"hi")
        status, head, _ = self.said()
        self.assertEqual(status, 200)
        self.assertIn(b"Ctllm-Request-Id: ", head)
        self.assertEqual(self.two.heads, [])
        self.nothing_is_left()

    def test_routes_by_the_model_in_the_path(self) -> None:
        self.ask("GET /v1/models/x%3A1")
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 0))

    def test_requests_the_body_of_an_expect_100_continue(self) -> None:
        self.ask("POST /api/chat", "Content-Length: 15", "Expect: 100-continue")
        self.assertTrue(self.wire.take_written().startswith(b"HTTP/1.1 100 "))
        self.send(b'{"model":"x:1"}')
        self.assertEqual(self.one.request_sinks[0].calls, [b'{"model":"x:1"}', "end"])

    def test_sends_a_request_without_body_to_the_best_desktop(self) -> None:
        self.ask("POST /api/chat", "Content-Length: 0")
        self.assertEqual(len(self.two.heads), 1)

    def test_disconnection_before_the_model_starts_no_request(self) -> None:
        self.ask("POST /api/chat", "Content-Length: 1000000")
        self.send(b'{"messages":["' + bytes(100_000))
        self.assertGreater(self.room.reserved, 100_000)
        self.wire.disconnect()
        self.settle()
        self.assertEqual((self.one.heads, self.two.heads), ([], []))
        self.nothing_is_left()

    def test_disconnection_after_the_model_cancels_the_request(self) -> None:
        self.ask("POST /api/chat", body=b'{"model":"x:1"}')
        self.wire.disconnect()
        self.settle()
        self.assertNotEqual(self.one.request_sinks[0].calls[-1], "end")
        self.nothing_is_left()

    def test_uses_a_remaining_desktop_if_others_disconnect(self) -> None:
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

    def test_detaches_a_resumable_request(self) -> None:
        for body in (b'{"model":"x:1"}', b'{"messages":"%b","model":"x:1"}' % bytes(500_000)):
            self.wire = self.connect()
            self.ask("POST /api/chat", "Ctllm-Resume: 60", body=body)
            self.wire.disconnect()
            self.settle()
            self.assertEqual(self.one.request_sinks[-1].calls[-1], "end")
            self.answer(self.one, b"hi")
        self.wire = self.connect()
        self.ask("POST /api/chat", "Ctllm-Resume: soon", body=b'{"model":"x:1"}')
        self.assertEqual(self.said()[0], 400)

    def test_routes_each_request_of_a_connection_anew(self) -> None:
        for desk, model in ((self.one, "x:1"), (self.two, "y:1"), (self.one, "X:1")):
            self.ask("POST /api/chat", body=b'{"model":"%b"}' % model.encode())
            self.answer(desk, b"hi")
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (2, 1))


class RequestIdTests(Case):
    """The id of a request: in the response, the tunnel and the log."""

    ID = "0123456789abcdef" * 2

    def ids(self) -> tuple[list[str], list[str]]:
        """Return the ids in responses, and in lines of the log."""
        responses = re.findall(rb"Ctllm-Request-Id: (\w+)", self.wire.take_written())
        logged = [event["request_id"] for event in self.events if "request_id" in event]
        return [id.decode() for id in responses], logged

    def setUp(self) -> None:
        super().setUp()
        self.events = self.enterContext(capturedLogs())

    def test_is_that_of_the_cloud_and_goes_no_further_as_a_header(self) -> None:
        desk = self.desk("up", "m:1")
        self.ask("GET /api/version", f"Ctllm-Request-Id: {self.ID}")
        self.assertEqual(desk.sinks[0].id.hex(), self.ID)
        self.assertNotIn(b"request-id", str(desk.heads[0].headers).lower().encode())
        self.answer(desk, b"{}")
        self.assertEqual(self.ids(), ([self.ID], [self.ID]))

    def test_is_in_a_merged_list_too(self) -> None:
        for _ in range(2):
            self.desk("up", "m:1")
        self.ask("GET /api/tags", f"Ctllm-Request-Id: {self.ID}")
        for desk in self.desks:
            self.answer(desk, b'{"models":[]}')
        self.assertEqual(self.ids(), ([self.ID], [self.ID]))

    def test_an_id_in_use_and_one_that_was_used_are_not_used_again(self) -> None:
        desk = self.desk("up", "m:1")
        for _ in range(2):
            self.ask("GET /api/version", f"Ctllm-Request-Id: {self.ID}")
            self.answer(desk, b"{}")
        self.wire = self.connect()
        self.ask("GET /api/version", f"Ctllm-Request-Id: {'0' * 32}")
        ids = [sink.id.hex() for sink in desk.sinks]
        self.assertEqual(len(set(ids)), 3)
        self.assertEqual(ids[0], self.ID)
        self.assertNotEqual(ids[2], "0" * 32)  # that of frames about the connection

    def test_is_random_without_the_cloud(self) -> None:
        desk = self.desk("up", "m:1")
        for _ in range(2):
            self.ask("GET /api/version")
            self.answer(desk, b"{}")
        responses, logged = self.ids()
        self.assertEqual(len(set(responses)), 2)
        self.assertEqual(responses, logged)


class ListMergingTests(Case):
    """ListMergingTests of models of several desktops."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.desk("up", "x:1")
        self.two = self.desk("up", "y:1")

    def listed(self) -> list[str]:
        status, head, body = self.said()
        self.assertEqual(status, 200)
        self.assertIn(b"Content-Type: application/json; charset=utf-8", head)
        return [model["name"] for model in json.loads(body)["models"]]

    def give(self, desk: FakeDesktop, *names: str) -> None:
        self.answer(desk, json.dumps({"models": [{"name": name} for name in names]}).encode())

    def test_merges_the_lists_of_all_desktops(self) -> None:
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

    def test_merges_lists_in_the_dialect_of_openai(self) -> None:
        self.ask("GET /v1/models")
        self.answer(self.one, b'{"object":"list","data":[{"id":"x:1"}]}')
        self.answer(self.two, b'{"object":"list","data":[{"id":"y:1"}]}')
        _, head, body = self.said()
        self.assertIn(b"Content-Type: application/json\r\n", head)
        self.assertEqual(body, b'{"object":"list","data":[{"id":"y:1"},{"id":"x:1"}]}')

    def test_omits_demo_and_desktops_without_ollama(self) -> None:
        demo, down = self.desk("demo", "demo:echo"), self.desk("down")
        self.ask("GET /api/tags")
        self.assertEqual((demo.heads, down.heads), ([], []))

    def test_omits_a_desktop_that_fails(self) -> None:
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

    def test_omits_and_cancels_a_desktop_after_the_timeout(self) -> None:
        self.ask("GET /api/tags")
        self.one.sinks[0].write_head(JSON)
        self.give(self.two, "y:1")
        self.clock.advance(LIST_TIMEOUT - 0.1)
        self.settle()
        self.assertEqual(self.said()[0], 0)
        self.clock.advance(0.2)
        self.settle()
        self.assertEqual(self.listed(), ["y:1"])
        self.assertNotEqual(self.one.request_sinks[0].calls[-1], "end")
        self.nothing_is_left()

    def test_uses_the_timeout_of_the_client(self) -> None:
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

    def test_omits_and_cancels_a_list_over_the_limit(self) -> None:
        self.ask("GET /api/tags")
        self.give(self.two, "y:1")
        self.one.sinks[0].write_head(JSON)
        for _ in range(MAX_LIST // 65536 + 1):
            self.one.sinks[0].write(b" " * 65536)
            self.settle()
        self.assertEqual(self.listed(), ["y:1"])
        self.assertNotEqual(self.one.request_sinks[0].calls[-1], "end")
        self.nothing_is_left()

    def test_omits_lists_over_the_budget(self) -> None:
        self.room.reserve((1 << 23) - 100)
        self.ask("GET /api/tags")
        self.give(self.two, "y:1")
        self.give(self.one, *("long" * 10 + str(number) for number in range(9)))
        self.assertEqual(self.listed(), ["y:1"])
        self.assertEqual(self.room.reserved, (1 << 23) - 100)

    def test_omits_a_lost_desktop(self) -> None:
        self.ask("GET /api/tags")
        self.one.lose(self.clock.seconds())
        self.give(self.two, "y:1")
        self.clock.advance(LIST_TIMEOUT)
        self.settle()
        self.assertEqual(self.listed(), ["y:1"])

    def test_relays_the_best_desktop_if_all_lists_fail(self) -> None:
        self.ask("GET /api/tags")
        for desk in (self.one, self.two):
            self.answer(desk, b'{"error":"broken"}', ResponseHead(500))
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 2))
        head = ((b"Retry-After", b"7"), (b"Content-Length", b"9"))
        self.answer(self.two, b"no, sorry", ResponseHead(503, b"Busy", head))
        status, said, body = self.said()
        self.assertEqual((status, body), (503, b"no, sorry"))
        self.assertIn(b"Retry-After: 7", said)

    def test_disconnection_cancels_all_list_requests(self) -> None:
        self.ask("GET /api/tags")
        self.give(self.one, "x:1")
        self.wire.disconnect()
        self.settle()
        self.assertNotEqual(self.two.request_sinks[0].calls[-1], "end")
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 1))
        self.nothing_is_left()

    def test_disconnection_before_any_list_starts_no_request(self) -> None:
        self.ask("GET /api/tags")
        self.wire.disconnect()
        self.settle()
        self.assertEqual((len(self.one.heads), len(self.two.heads)), (1, 1))
        self.nothing_is_left()

    def test_omits_a_desktop_at_its_stream_limit(self) -> None:
        for _ in range(8):
            self.wire = self.connect()
            self.ask("GET /", f"Ctllm-Desktop: {self.one.id}")
        self.wire = self.connect()
        self.ask("GET /api/tags")
        self.give(self.two, "y:1")
        self.assertEqual(self.listed(), ["y:1"])
