"""`ctllm.desktop.resources.json_exchange`: a small body, and a complete response."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.resources.json_exchange import (
    PIECE,
    JsonExchange,
    Response,
    json_response,
)
from ctllm.errors import ClientDisconnected, NotFound
from tests.unit.fakes import FakeResponseSink


class JsonExchangeTests(SynchronousTestCase):
    """Exchanges whose handler is `self.handle`."""

    def setUp(self) -> None:
        self.sink: Any = FakeResponseSink()
        self.bodies: list[bytes] = []
        self.response: Response | Deferred[Response] | Exception = json_response(200, {"a": 1})
        self.exchange = JsonExchange(self.sink, 10, self.handle)

    async def handle(self, body: bytes) -> Response:
        self.bodies.append(body)
        if isinstance(self.response, Exception):
            raise self.response
        if isinstance(self.response, Deferred):
            return await self.response
        return self.response

    def head(self) -> tuple[int, dict[bytes, bytes]]:
        return self.sink.head.status, dict(self.sink.head.headers)

    def test_writes_what_the_handler_returns_for_the_whole_body(self) -> None:
        for data in (b"abc", b"def"):
            self.exchange.write(data)
        self.assertEqual(self.bodies, [])
        self.exchange.finish()
        self.assertEqual(self.bodies, [b"abcdef"])
        status, headers = self.head()
        self.assertEqual((status, headers[b"Content-Length"]), (200, b"7"))
        self.assertEqual((self.sink.data, self.sink.is_finished), (b'{"a":1}', True))

    def test_an_empty_response_has_no_length(self) -> None:
        self.response = Response(204)
        self.exchange.finish()
        self.assertEqual(self.head(), (204, {}))
        self.assertTrue(self.sink.is_finished)

    def test_an_error_is_a_complete_response(self) -> None:
        self.response = NotFound("No such thing.")
        self.exchange.finish()
        self.assertEqual(self.head()[0], 404)
        self.assertIn(b'"code":"not_found","message":"No such thing."', self.sink.data)
        self.assertTrue(self.sink.is_finished)

    def test_a_defect_is_logged_and_not_shown(self) -> None:
        self.response = ValueError("secret")
        self.exchange.finish()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.head()[0], 500)
        self.assertNotIn(b"secret", self.sink.data)

    def test_refuses_a_body_beyond_the_limit_once(self) -> None:
        self.exchange.write(b"x" * 11)
        self.exchange.write(b"x")
        self.exchange.finish()
        self.assertEqual((self.head()[0], self.bodies), (413, []))
        self.assertTrue(self.sink.is_finished)

    def test_a_paused_response_waits(self) -> None:
        body = bytes(3 * PIECE)
        self.response = Response(200, body)
        self.exchange.pause_response()
        self.exchange.finish()
        self.assertEqual(self.sink.data, b"")
        self.assertFalse(self.sink.is_finished)
        self.exchange.resume_response()
        self.assertEqual(self.sink.data, body)
        self.assertTrue(self.sink.is_finished)

    def test_a_cancelled_request_cancels_its_handler(self) -> None:
        cancelled: list[object] = []
        self.response = Deferred(cancelled.append)
        self.exchange.finish()
        self.exchange.cancel(ClientDisconnected("gone"))
        self.assertEqual(len(cancelled), 1)
        self.assertIsNone(self.sink.head)
        self.assertFalse(self.sink.is_finished)
