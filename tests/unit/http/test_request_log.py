"""`ctllm.http.request_log`: what a line of the log has of a request, and what not."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.head import RequestHead
from ctllm.http.request_log import RequestLog, describe_route

ID = bytes(range(16))
SECRET = b"hunter2"


def post(target: bytes, method: bytes = b"POST") -> RequestHead:
    return RequestHead(method, target, ((b"Authorization", b"Bearer " + SECRET),))


class RouteTests(SynchronousTestCase):
    def test_a_route_has_nothing_that_a_client_chose(self) -> None:
        for path, route in (
            (b"/", "/"),
            (b"/api/chat", "/api/chat"),
            (b"/api/chat?secret=hunter2", "/api/chat"),
            (b"/api/blobs/sha256:" + b"a" * 64, "/api/blobs"),
            (b"/v1/models/hunter2", "/v1/models"),
            (b"/v1/chat/completions", "/v1/chat"),
            (b"/ctllm/exchanges/" + b"a" * 32, "/ctllm/exchanges"),
            (b"/ctllm/desktop/conversations/x", "/ctllm/desktop"),
            (b"/api/hunter", "other"),
            (b"/api/hunter2", "other"),
            (b"/hunter2", "other"),
            (b"/v1/hunter", "other"),
            (b"/ctllm/hunter2", "other"),
        ):
            self.assertEqual(describe_route(post(path)), route, path)


class RequestLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = self.enterContext(capturedLogs())
        self.clock = Clock()

    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events if "request_id" in event]

    def test_a_line_has_id_method_route_status_outcome_and_duration(self) -> None:
        log = RequestLog(self.clock, is_enabled=True)
        started_at = log.now()
        self.clock.advance(1.2345)
        log.write(ID, post(b"/v1/models/hunter2"), 200, "completed", started_at)
        self.assertEqual(self.lines(), [
            "Request 000102030405060708090a0b0c0d0e0f: POST /v1/models, status 200, completed, "
            "1.234 s"
        ])  # fmt: skip
        self.assertEqual(self.events[-1]["request_id"], ID.hex())
        self.assertNotIn("hunter2", str(self.events))

    def test_a_method_that_nobody_knows_is_not_logged(self) -> None:
        log = RequestLog(self.clock, is_enabled=True)
        log.write(ID, post(b"/api/chat", b"HUNTER2"), 0, "refused", 0)
        self.assertIn(": other /api/chat, status none, refused,", self.lines()[0])

    def test_observes_nothing_while_it_is_off(self) -> None:
        class Unobservable:
            status = 200

            def add_observer(self, observer: object, /) -> None:
                raise AssertionError("It is observed.")

        RequestLog(self.clock, is_enabled=False).observe(Unobservable(), post(b"/"), ID)
        self.assertRaises(
            AssertionError,
            RequestLog(self.clock, is_enabled=True).observe, Unobservable(), post(b"/"), ID,
        )  # fmt: skip
