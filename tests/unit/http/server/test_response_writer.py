"""`ctllm.http.server.response_writer`: responses of the server itself, and errors."""

from __future__ import annotations

import re
from typing import Any

from ctllm.errors import (
    ClientDisconnected,
    ContentTooLarge,
    CtllmError,
    DesktopLost,
    MethodNotAllowed,
    ServiceUnavailable,
    Unauthorized,
)
from ctllm.http.message.head import ResponseHead
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import FakeRequestSink
from tests.unit.http.server.server_case import CHAT, NDJSON, ServerCase


class ResponseWriterTests(ServerCase):
    def test_encodes_header_values(self) -> None:
        for value, encoded in (
            (b" m", b"%20m"),
            (b"attic \t", b"attic%20%09"),
            (b"a\r\nX: y\0", b"a%0D%0AX: y%00"),
            ("caf\xe9".encode(), b"caf%C3%A9"),
            (b"   ", b"%20%20%20"),
            (b"two words", b"two words"),
            (b"", b""),
        ):
            self.setUp()
            self.receive(CHAT)
            self.response_headers = ((b"Ctllm-Model", value),)
            self.requests[0].respond(200, {}, ((b"X-Mine", value),))
            written = self.take_written()
            self.assertIn(b"\r\nCtllm-Model: " + encoded + b"\r\n", written)
            self.assertIn(b"\r\nX-Mine: " + encoded + b"\r\n", written)
            self.assertEqual(self.transport.closed, "")

    def test_own_responses_have_one_date_and_relayed_ones_that_of_the_upstream(self) -> None:
        """RFC 9110, section 6.6.1."""
        date = rb"\r\nDate: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        for respond in (
            lambda request: request.respond(200, {}),
            lambda request: request.respond(204),
            lambda request: request.fail(Unauthorized("no")),
        ):
            self.setUp()
            self.receive(CHAT)
            respond(self.requests[0])
            written = self.take_written()
            self.assertEqual(len(re.findall(date, written)), 1, written)
        for headers in ((), ((b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT"),)):
            self.setUp()
            self.receive(CHAT)
            self.requests[0].write_head(ResponseHead(200, b"", headers))
            self.assertEqual(len(re.findall(date, self.take_written())), len(headers))

    def test_every_status_has_a_reason_phrase(self) -> None:
        for error_class, line in (
            (Unauthorized, b"HTTP/1.1 401 Unauthorized\r\n"),
            (ContentTooLarge, b"HTTP/1.1 413 Content Too Large\r\n"),
            (ServiceUnavailable, b"HTTP/1.1 503 Service Unavailable\r\n"),
            (ClientDisconnected, b"HTTP/1.1 499 Client Closed Request\r\n"),
        ):
            self.setUp()
            self.receive(CHAT)
            self.requests[0].fail(error_class("no"))
            self.assertTrue(self.take_written().startswith(line))
        self.server.evict()
        self.assertTrue(self.take_written().startswith(b"HTTP/1.1 503 Service Unavailable\r\n"))

    def test_keeps_the_reason_phrase_of_the_upstream(self) -> None:
        for reason, written in ((b"Fine, thanks", b"Fine, thanks"), (b"", b"OK")):
            self.setUp()
            self.receive(CHAT)
            self.requests[0].write_head(ResponseHead(200, reason, NDJSON.headers))
            self.assertTrue(self.take_written().startswith(b"HTTP/1.1 200 %b\r\n" % written))

    def test_marks_permanent_errors_as_not_to_be_retried(self) -> None:
        """Official clients retry some of these otherwise."""
        for error_class in error_classes(CtllmError):
            if error_class is MethodNotAllowed:
                error: CtllmError = MethodNotAllowed("no", allow="GET")
            else:
                error = error_class("no")
            self.setUp()
            self.receive(CHAT)
            self.requests[0].fail(error)
            final = error.status in (
                400,
                401,
                403,
                404,
                405,
                410,
                412,
                413,
                415,
                416,
                426,
                428,
                431,
            )
            self.assertEqual(
                b"\r\nX-Should-Retry: false\r\n" in self.take_written(), final, error_class
            )

    def test_sends_a_fixed_error_when_an_error_cannot_be_written(self) -> None:
        class Odd(CtllmError):
            retry_after: Any = "soon"

        for error, name in ((Odd("no"), b"X-Y"), (DesktopLost("gone"), b"X Y")):
            self.setUp()
            self.receive(CHAT)
            self.response_headers = ((name, b"1"),)
            self.requests[0].fail(error)
            written = self.take_written()
            self.assertTrue(written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n"), written)
            self.assertIn(b"\r\nConnection: close\r\n", written)
            self.assertEqual(self.transport.closed, "close")
            self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_invalid_header_of_a_response_is_an_internal_error(self) -> None:
        async def handler(request: ServerRequest) -> None:
            request.respond(200, {}, ((b"X y", b"1"),))

        self.handler = handler
        self.receive(CHAT)
        written = self.take_written()
        self.assertTrue(written.startswith(b"HTTP/1.1 500 "), written)
        self.assertIn(b'{"error":"An internal error occurred', written)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_exception_of_a_request_sink_is_an_internal_error(self) -> None:
        class Broken(FakeRequestSink):
            def write(self, data: bytes) -> None:
                raise RuntimeError("a bug")

        async def handler(request: ServerRequest) -> None:
            request.relay_to(Broken())

        self.handler = handler
        self.receive(CHAT)
        self.assertTrue(self.take_written().startswith(b"HTTP/1.1 500 "))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


def error_classes(root: type[CtllmError]) -> set[type[CtllmError]]:
    below = (
        error_classes(error_class)
        for error_class in root.__subclasses__()
        if error_class.__module__ == "ctllm.errors"
    )
    return {root}.union(*below)
