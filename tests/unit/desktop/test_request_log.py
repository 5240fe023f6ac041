"""`ctllm.desktop.request_log`: a line for each stream of the tunnel, however it ends."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.request_log import with_request_log
from ctllm.errors import BadGateway, Forbidden
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.http.request_log import RequestLog
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.tunnel.responder import RequestHandler
from tests.unit.fakes import FakeDesktop, FakeRequestSink, FakeResponseSink
from tests.unit.proxy.registry_case import CHAT, OK

ID = bytes(range(16))


class RequestLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = self.enterContext(capturedLogs())
        self.clock = Clock()
        self.registry = DesktopRegistry(self.clock, 1 << 18, 30, 4, 60)
        self.desk = FakeDesktop(self.registry, 1, "home", "up")
        self.desk.tunnel._request_handler = self.handler(is_enabled=True)
        self.request = FakeRequestSink()
        self.refusal: Forbidden | None = None
        self.responses: list[ResponseSink] = []

    def handler(self, is_enabled: bool) -> RequestHandler:
        return with_request_log(self.start, RequestLog(self.clock, is_enabled))

    def start(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        if self.refusal is not None:
            raise self.refusal
        self.responses.append(sink)
        return self.request

    def open(self) -> FakeResponseSink:
        client = FakeResponseSink()
        self.stream = self.registry.start_request(CHAT, client, id=ID)
        self.desk.settle()
        return client

    def assert_logged(self, end: str) -> None:
        lines = [formatEvent(event) for event in self.events if "request_id" in event]
        self.assertEqual(lines, [f"Request {ID.hex()}: POST /api/chat, {end}"])

    def test_logs_a_complete_response_with_the_id_that_the_cloud_gave(self) -> None:
        client = self.open()
        self.responses[0].write_head(OK)
        self.responses[0].write(b"12345678")
        self.clock.advance(2)
        self.responses[0].finish()
        self.desk.settle()
        self.assertEqual(client.body, b"12345678")
        self.assert_logged("status 200, completed, 2.000 s")

    def test_logs_an_error(self) -> None:
        self.open()
        self.responses[0].fail(BadGateway("x"))
        self.assert_logged("status 502, refused, 0.000 s")

    def test_logs_a_response_that_broke_off(self) -> None:
        self.open()
        self.responses[0].write_head(OK)
        self.responses[0].fail(BadGateway("x"))
        self.assert_logged("status 200, failed, 0.000 s")

    def test_logs_a_refusal_and_passes_it_on(self) -> None:
        self.refusal = Forbidden("no")
        client = self.open()
        self.assertIsInstance(client.error, Forbidden)
        self.assert_logged("status 403, refused, 0.000 s")

    def test_logs_a_request_whose_client_disconnected_once(self) -> None:
        self.open()
        self.stream.cancel(BadGateway("gone"))
        self.desk.settle()
        self.assertIsNotNone(self.request.error)
        self.responses[0].fail(BadGateway("late"))
        self.assert_logged("status none, client_disconnected, 0.000 s")

    def test_adds_nothing_while_it_is_off(self) -> None:
        self.assertEqual(self.handler(is_enabled=False), self.start)
