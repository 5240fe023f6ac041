"""`ctllm.http.server.request`: handlers that read a body or fail, observers, added headers."""

from __future__ import annotations

from ctllm.errors import DesktopLost, DesktopOffline
from ctllm.http.server.request import HeaderAddingSink, Outcome, ServerRequest
from tests.unit.http.server.server_case import CHAT, GET, NDJSON, ServerCase


class HandlerTests(ServerCase):
    def test_reads_a_body_up_to_the_limit(self) -> None:
        async def handler(request: ServerRequest) -> None:
            request.respond(200, {"length": len(await request.read_body(10))})

        self.handler = handler
        for size, status in ((10, b"200"), (11, b"413")):
            self.connect()
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            self.receive(head + b"x" * size)
            self.assertEqual(self.take_written()[9:12], status)

    def test_exception_is_logged_and_its_message_is_not_sent(self) -> None:
        async def handler(request: ServerRequest) -> None:
            raise RuntimeError("secret details")

        self.handler = handler
        self.receive(GET)
        written = self.take_written()
        self.assertIn(b"HTTP/1.1 500", written)
        self.assertNotIn(b"secret", written)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class ObserverTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.outcomes: list[Outcome] = []
        self.receive(CHAT)
        self.request = self.requests[0]
        self.request.add_observer(self.outcomes.append)

    def test_completed(self) -> None:
        self.request.write_head(NDJSON)
        self.request.finish()
        self.assertEqual(self.outcomes, [Outcome.COMPLETED])

    def test_refused(self) -> None:
        self.request.fail(DesktopOffline("no"))
        self.assertEqual(self.outcomes, [Outcome.REFUSED])

    def test_failed(self) -> None:
        self.request.write_head(NDJSON)
        self.request.fail(DesktopLost("gone"))
        self.assertEqual(self.outcomes, [Outcome.FAILED])

    def test_client_disconnected(self) -> None:
        self.transport.disconnect()
        self.assertEqual(self.outcomes, [Outcome.CLIENT_DISCONNECTED])

    def test_upgraded(self) -> None:
        self.request.hijack()
        self.assertEqual(self.outcomes, [Outcome.UPGRADED])

    def test_every_observer_is_called_once_and_a_late_one_at_once(self) -> None:
        others: list[Outcome] = []
        self.request.add_observer(others.append)
        self.request.respond(200, {})
        self.transport.disconnect()
        self.request.add_observer(others.append)
        self.assertEqual(self.outcomes, [Outcome.COMPLETED])
        self.assertEqual(others, [Outcome.COMPLETED] * 2)


class HeaderAddingSinkTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.receive(CHAT)
        self.sink = HeaderAddingSink(self.requests[0])
        self.sink.add_headers(((b"Ctllm-Desktop", b"attic \xc3\xa9"),))

    def test_adds_headers_to_a_response(self) -> None:
        self.sink.write_head(NDJSON)
        self.sink.write(b"{}\n")
        self.sink.finish()
        written = self.take_written()
        self.assertIn(b"\r\nCtllm-Desktop: attic %C3%A9\r\n", written)
        self.assertTrue(written.endswith(b"\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n"))

    def test_adds_headers_to_an_error(self) -> None:
        self.sink.fail(DesktopLost("gone"))
        written = self.take_written()
        self.assertTrue(written.startswith(b"HTTP/1.1 502 "))
        self.assertIn(b"\r\nCtllm-Desktop: attic %C3%A9\r\n", written)
