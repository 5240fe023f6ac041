"""The monitor of this machine's Ollama: health, models, requests, and the demo."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ollama_monitor import (
    DOWN,
    HEALTH_TIMEOUT,
    MAX_NAME_LENGTH,
    OllamaMonitor,
    OllamaServer,
)
from ctllm.errors import OllamaDown
from ctllm.http.message.head import RequestHead
from ctllm.http.server.request import ServerRequest
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    MAX_LIST,
    MAX_MODELS,
    FrameKind,
    Status,
    encode_json_frame,
)
from tests.unit.fakes import FakeResponseSink, ServedEndpoint

INTERVAL = 5.0


class FakeOllama:
    """An Ollama on the product's HTTP server."""

    def __init__(self, clock: Clock) -> None:
        self.served = ServedEndpoint(self.handle_request, clock)
        self.responses: dict[bytes, Any] = {
            b"/api/version": {"version": "0.5.1"},
            b"/api/tags": {"models": [{"name": "m:1", "size": 1}, {"name": "m:2"}]},
        }
        self.status = 200
        self.hangs = False
        self.requests: list[RequestHead] = []
        self.down()

    async def handle_request(self, request: ServerRequest) -> None:
        self.requests.append(request.head)
        if self.hangs:
            await Deferred()
        request.respond(self.status, self.responses.get(request.head.path, {}))

    def down(self) -> None:
        self.served.refusal = ConnectionRefusedError()
        for pump in self.served.pumps:
            pump.serverIO.loseConnection()
        self.served.flush()

    def up(self) -> None:
        self.served.refusal = None


class PlainEndpoint:
    """An endpoint of a server without TLS, which has not responded yet."""

    protocol: Any

    def connect(self, factory: Any) -> Deferred[Any]:
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(StringTransport())
        return succeed(self.protocol)


class OllamaMonitorCase(SynchronousTestCase):
    """A monitor of `real`; `demo` is the demo's server."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.real, self.demo = FakeOllama(self.clock), FakeOllama(self.clock)
        self.endpoints: list[str] = []
        self.is_watched = False
        self.monitor = OllamaMonitor(
            self.server("http://127.0.0.1:11434", "up"),
            self.clock,
            INTERVAL,
            lambda: self.is_watched,
        )
        self.statuses: list[Status] = []
        self.monitor.add_observer(self.statuses.append)
        self.addCleanup(self.stop)

    def endpoint(self, reactor: Any, text: str) -> ServedEndpoint:
        self.endpoints.append(text)
        return (self.demo if "9999" in text else self.real).served

    def server(self, url: str, kind: str) -> OllamaServer:
        return OllamaServer(url, kind, self.clock, endpoint_from_string=self.endpoint)

    def stop(self) -> None:
        """However a test ends, stopping leaves no timer and no connection."""
        if self.monitor.running:
            self.monitor.stopService()
        self.settle()
        self.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def settle(self) -> None:
        for server in (self.real, self.demo):
            server.served.flush()

    def wait(self, seconds: float = INTERVAL) -> None:
        """Until the next look has been answered; the servers' own time-outs play no part."""
        self.clock.advance(seconds)
        for _ in range(4):
            self.settle()

    def start(self) -> None:
        self.monitor.startService()
        self.wait(0)

    @property
    def states(self) -> list[str]:
        return [status.ollama for status in self.statuses]


class HealthTests(OllamaMonitorCase):
    def test_notifies_observers_of_up_and_down(self) -> None:
        self.start()
        self.assertIs(self.monitor.status, DOWN)
        self.real.up()
        self.wait()
        self.assertEqual(self.monitor.status, Status("up", "0.5.1", ("m:1", "m:2")))
        self.real.down()
        self.wait()
        self.assertEqual(self.states, ["up", "down"])

    def test_notifies_observers_of_changes_only(self) -> None:
        self.real.up()
        self.start()
        self.wait()
        self.wait()
        self.assertEqual(self.states, ["up"])
        self.real.responses[b"/api/tags"] = {"models": []}
        self.wait()
        self.assertEqual(self.statuses[1:], [Status("up", "0.5.1", ())])

    def test_a_server_with_other_responses_is_down(self) -> None:
        self.real.up()
        self.start()
        for path, answer in (
            (b"/api/version", b"<html>"),
            (b"/api/version", {"version": 5}),
            (b"/api/version", b'{"version": "\xff"}'),
            (b"/api/tags", {"models": "none"}),
            (b"/api/tags", {"models": [{}]}),
            (b"/api/tags", b'{"models": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            (b"/api/version", b'{"version": "1", "x": ' + b"[" * 100_000),
        ):
            good = dict(self.real.responses)
            self.real.responses[path] = answer
            self.wait()
            self.assertIs(self.monitor.status, DOWN, answer)
            self.real.responses = good
            self.wait()
            self.assertEqual(self.monitor.status.ollama, "up")
        self.real.status = 500
        self.wait()
        self.assertIs(self.monitor.status, DOWN)

    def test_null_models_are_none(self) -> None:
        self.real.responses[b"/api/tags"] = {"models": None}
        self.real.up()
        self.start()
        self.assertEqual(self.monitor.status, Status("up", "0.5.1", ()))

    def test_truncates_the_list_of_models(self) -> None:
        names = [{"name": f"m:{number}"} for number in range(MAX_MODELS + 1)]
        self.real.responses[b"/api/tags"] = {"models": names}
        self.real.up()
        self.start()
        self.assertEqual(len(self.monitor.status.models), MAX_MODELS)

    def test_omits_names_that_are_too_long_or_unprintable(self) -> None:
        names = [
            "m",
            "m\n",
            "m\x1b[2J",
            "m" * (MAX_NAME_LENGTH + 1),
            *("m" * MAX_NAME_LENGTH for _ in range(3000)),
        ]
        self.real.responses[b"/api/version"] = {"version": "9" * 10_000}
        self.real.responses[b"/api/tags"] = {"models": [{"name": name} for name in names]}
        self.real.up()
        self.start()
        told = self.monitor.status
        self.assertEqual(len(told.version), MAX_NAME_LENGTH)
        self.assertEqual(
            (told.models[:2], len(told.models)), (("m", "m" * MAX_NAME_LENGTH), MAX_MODELS)
        )
        wide = Status("up", told.version, ("\U0001f999" * MAX_NAME_LENGTH,) * MAX_MODELS)
        self.assertLess(len(encode_json_frame(FrameKind.STATUS, CONNECTION_ID, wide)), MAX_LIST)

    def test_sanitizes_the_version(self) -> None:
        self.real.responses[b"/api/version"] = {"version": "1\x1b[2J\n\u202e"}
        self.real.up()
        self.start()
        self.assertEqual(self.monitor.status.version, "1\ufffd[2J\ufffd\ufffd")

    def test_a_server_that_does_not_respond_is_down_after_the_timeout(self) -> None:
        self.real.up()
        self.start()
        self.real.hangs = True
        self.wait()
        self.assertEqual(self.states, ["up"])
        self.wait(HEALTH_TIMEOUT)
        self.assertEqual(self.states, ["up", "down"])
        self.real.hangs = False
        self.wait()
        self.assertEqual(self.states, ["up", "down", "up"])

    def test_stop_cancels_a_poll_silently(self) -> None:
        self.real.hangs = True
        self.real.up()
        self.start()
        self.monitor.stopService()
        self.assertEqual((self.statuses, self.flushLoggedErrors()), ([], []))


class LoadedModelsTests(OllamaMonitorCase):
    def setUp(self) -> None:
        super().setUp()
        self.real.responses[b"/api/ps"] = {"models": [{"name": "m:1"}]}
        self.changes = 0
        self.monitor.add_loaded_models_observer(self.changed)
        self.real.up()

    def changed(self) -> None:
        self.changes += 1

    def test_polls_loaded_models_only_while_watched(self) -> None:
        self.start()
        self.wait()
        self.assertNotIn(b"/api/ps", [head.path for head in self.real.requests])
        self.is_watched = True
        self.wait()
        self.wait()
        self.assertEqual((self.monitor.loaded_models, self.changes), (("m:1",), 1))

    def test_stops_polling_loaded_models_when_no_longer_watched(self) -> None:
        self.is_watched = True
        self.start()
        self.wait()
        self.is_watched = False
        self.real.requests.clear()
        self.wait()
        self.assertNotIn(b"/api/ps", [head.path for head in self.real.requests])

    def test_no_models_are_loaded_once_down(self) -> None:
        self.is_watched = True
        self.start()
        self.wait()
        self.real.down()
        self.wait()
        self.assertEqual((self.monitor.loaded_models, self.changes), ((), 2))

    def test_ignores_a_malformed_list_of_loaded_models(self) -> None:
        self.is_watched = True
        self.real.responses[b"/api/ps"] = {"models": 7}
        self.start()
        self.wait()
        self.assertEqual((self.monitor.loaded_models, self.monitor.status.ollama), ((), "up"))


class DemoTests(OllamaMonitorCase):
    def setUp(self) -> None:
        super().setUp()
        self.demo.responses[b"/api/tags"] = {"models": [{"name": "demo:echo"}]}
        self.demo.up()
        self.monitor.use_demo(self.server("http://127.0.0.1:9999", "demo"))

    def test_demo_is_used_until_ollama_responds_for_the_first_time(self) -> None:
        self.start()
        self.assertEqual(self.monitor.status, Status("demo", "0.5.1", ("demo:echo",)))
        self.real.up()
        self.wait()
        self.assertEqual(self.states, ["demo", "up"])
        self.real.down()
        self.wait()
        self.assertEqual(self.states, ["demo", "up", "down"])

    def test_requests_go_to_the_demo_then_to_ollama(self) -> None:
        self.start()
        self.demo.requests.clear()
        for server in (self.demo, self.real):
            heard = FakeResponseSink()
            self.monitor.start_request(RequestHead(b"GET", b"/api/tags"), heard).finish()
            self.settle()
            self.assertEqual((heard.outcome, server.requests[-1].target), ("end", b"/api/tags"))
            self.real.up()
            self.wait()


class RequestTests(OllamaMonitorCase):
    def test_replaces_host_and_removes_credentials(self) -> None:
        self.real.up()
        secret = ((b"Authorization", b"Bearer x"), (b"Origin", b"https://c.example"))
        heard = FakeResponseSink()
        self.monitor.start_request(
            RequestHead(b"GET", b"/", (*secret, (b"hOsT", b"c.example"))), heard
        ).finish()
        self.settle()
        (head,) = self.real.requests
        self.assertEqual(head.headers, ((b"Host", b"127.0.0.1:11434"),))
        self.monitor.server.close()

    def test_the_path_of_the_url_precedes_those_of_requests(self) -> None:
        """As for Ollama's clients, whose OLLAMA_HOST may lead to a reverse proxy."""
        self.real.up()
        for path in (b"version", b"tags"):
            self.real.responses[b"/proxied/ollama/api/" + path] = self.real.responses[
                b"/api/" + path
            ]
        server = self.server("http://o.example:80/proxied/ollama", "up")
        status = Deferred.fromCoroutine(server.fetch_status())
        self.settle()
        self.assertEqual(self.successResultOf(status).ollama, "up")
        heard = FakeResponseSink()
        server.start_request(RequestHead(b"GET", b"/api/ps?x"), heard).finish()
        self.settle()
        self.assertEqual(self.real.requests[-1].target, b"/proxied/ollama/api/ps?x")
        server.close()

    def test_error_names_the_server_and_when_to_retry(self) -> None:
        heard = FakeResponseSink()
        self.monitor.start_request(RequestHead(b"GET", b"/"), heard).finish()
        assert isinstance(heard.outcome, OllamaDown)
        self.assertIn("http://127.0.0.1:11434", heard.outcome.message)
        self.assertEqual(heard.outcome.retry_after, 5)

    def test_a_failed_tls_handshake_is_explained(self) -> None:
        endpoint = PlainEndpoint()
        server = OllamaServer(
            "https://o.example", "up", self.clock, endpoint_from_string=lambda *_: endpoint
        )
        heard = FakeResponseSink()
        server.start_request(RequestHead(b"GET", b"/"), heard).finish()
        endpoint.protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        endpoint.protocol.connectionLost(connectionDone)
        assert isinstance(heard.outcome, OllamaDown)
        self.assertIn("The TLS handshake with o.example failed", heard.outcome.message)

    def test_endpoints_for_ipv6_https_and_default_ports(self) -> None:
        self.endpoints.clear()
        for url in ("http://[::1]:11434", "https://o.example", "http://o.example:80/"):
            self.server(url, "up")
        wanted = [r"tcp:\:\:1:11434", "tcp:o.example:443", "tcp:o.example:80"]
        self.assertEqual(self.endpoints, wanted)


class RequestPollTests(OllamaMonitorCase):
    """Polls between the periodic ones."""

    def setUp(self) -> None:
        super().setUp()
        self.real.up()
        self.start()
        self.real.responses[b"/api/tags"] = {"models": [{"name": "new"}]}

    def exchange(self, line: bytes) -> FakeResponseSink:
        """One that is answered whole."""
        method, path = line.split(b" ")
        heard = FakeResponseSink()
        self.monitor.start_request(RequestHead(method, path), heard).finish()
        self.settle()
        return heard

    def test_polls_after_requests_that_change_models(self) -> None:
        for line in (
            b"POST /api/pull",
            b"POST /api/create",
            b"POST /api/copy",
            b"DELETE /api/delete",
        ):
            self.real.responses[b"/api/tags"] = {"models": [{"name": line.decode()}]}
            self.assertEqual(self.exchange(line).outcome, "end")
            self.settle()
            self.assertEqual(self.monitor.status.models, (line.decode(),))

    def test_does_not_poll_after_other_requests(self) -> None:
        for line in (b"POST /api/chat", b"POST /api/push", b"GET /api/pull"):
            self.assertEqual(self.exchange(line).outcome, "end")
        self.assertEqual(self.monitor.status.models, ("m:1", "m:2"))

    def test_concurrent_requests_for_polls_are_coalesced(self) -> None:
        self.real.hangs = True
        self.real.requests.clear()
        for _ in range(50):
            self.monitor.request_poll()
            self.settle()
        self.assertEqual(len(self.real.requests), 1)
        self.real.hangs = False
        self.wait(HEALTH_TIMEOUT)
        paths = [head.path for head in self.real.requests]
        self.assertEqual(paths, [b"/api/version", b"/api/version", b"/api/tags"])
        self.assertEqual(self.monitor.status.models, ("new",))

    def test_extra_polls_detect_down_and_up(self) -> None:
        self.real.down()
        for _ in range(2):
            self.monitor.request_poll()
            self.settle()
        self.assertIs(self.monitor.status, DOWN)
        self.real.up()
        self.monitor.request_poll()
        self.settle()
        self.assertEqual(self.monitor.status.models, ("new",))

    def test_no_extra_poll_after_stop(self) -> None:
        self.real.hangs = True
        self.monitor.request_poll()
        self.settle()
        self.monitor.stopService()
        self.real.requests.clear()
        self.monitor.request_poll()
        self.settle()
        self.assertEqual((self.real.requests, self.flushLoggedErrors()), ([], []))
