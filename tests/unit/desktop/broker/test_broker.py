"""`ctllm.desktop.broker.broker`: the route of each request, response headers and merged lists."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.broker.remote_desktops import RemoteDesktop
from ctllm.desktop.broker.routing_policy import Route, RoutingPolicy
from ctllm.desktop.loopback.endpoint import LoopbackEndpoint
from ctllm.errors import BadConfiguration, DesktopLost, OllamaDown, Unauthorized
from ctllm.http.message.head import ResponseHead
from ctllm.http.request_timeout import get_timeout
from ctllm.http.server.connection import HttpServerFactory
from ctllm.tunnel.frames import Status
from tests.unit.fakes import FakeUpstream, MemoryTransport

OK = ResponseHead(200)
UP = Status("up", "1", ("llama3.2:latest",))
CHAT = b'{"model":"%b"}'


class FakeOllama(FakeUpstream):
    """This desktop's Ollama."""

    def __init__(self) -> None:
        super().__init__()
        self.observers: list[Any] = []
        self.polls = 0

    def add_observer(self, observer: Any) -> None:
        self.observers.append(observer)

    def request_poll(self) -> None:
        self.polls += 1

    def set_status(self, status: Status) -> None:
        for observer in self.observers:
            observer(status)


class FakeRemoteDesktops(Service):
    """The other desktops, behind the upstream `cloud`."""

    def __init__(self) -> None:
        self.cloud = FakeUpstream()
        self.is_up = False
        self.is_logged_in = True
        self.models: set[str] = set()
        self.others: tuple[RemoteDesktop, ...] = ()
        self.cloud_url = "https://cloud.example"
        self.own_id = "d" * 32
        self.observers: Any = []
        self.polls = 0
        self.error: Exception | None = None
        self.waiting: Deferred[None] | None = None

    def add_observer(self, observer: Any) -> None:
        self.observers.append(observer)

    def has_model(self, model: str) -> bool:
        return model in self.models

    def poll_now(self) -> None:
        self.polls += 1

    def set_status(self, up: bool, *models: str) -> None:
        self.is_up, self.models = up, set(models)
        for each in self.observers:
            each()

    async def upstream(self) -> FakeUpstream:
        if self.waiting is not None:
            await self.waiting
        if self.error is not None:
            raise self.error
        return self.cloud


class FakePolicyStore:
    def __init__(self) -> None:
        self.value = RoutingPolicy.AUTO
        self.error: Any = None

    def load(self) -> RoutingPolicy:
        return self.value

    def save(self, policy: RoutingPolicy) -> None:
        self.value = policy
        if self.error is not None:
            raise self.error


class BrokerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ollama, self.remote_desktops, self.policy_store = (
            FakeOllama(),
            FakeRemoteDesktops(),
            FakePolicyStore(),
        )
        self.broker = Broker(
            cast(Any, self.ollama),
            cast(Any, self.remote_desktops),
            cast(Any, self.policy_store),
            self.clock,
            "attic \u263a",
        )
        self.changes = 0
        self.broker.add_observer(self.changed)
        self.ollama.set_status(UP)

    def changed(self) -> None:
        self.changes += 1

    def send(
        self,
        path: str = "/api/chat",
        body: bytes = CHAT % b"llama3.2",
        method: str = "POST",
        headers: str = "",
    ) -> MemoryTransport:
        factory = HttpServerFactory(LoopbackEndpoint(self.broker.handle_request), self.clock)
        protocol, transport = factory.buildProtocol(None), MemoryTransport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += f"{headers}\r\n"
        protocol.dataReceived(head.encode() + body)
        return transport

    def respond(self, upstream: FakeUpstream, body: bytes = b"{}") -> None:
        upstream.sinks[-1].write_head(OK)
        upstream.sinks[-1].write(body)
        upstream.sinks[-1].finish()

    def test_a_request_that_names_this_desktop_stays_here(self) -> None:
        """The page's: also for models and lists of others, and where another is preferred."""
        self.remote_desktops.set_status(True, "mistral")
        names = ("d" * 32, "attic %E2%98%BA")
        for name, policy in [(name, policy) for name in names for policy in ("cloud", "auto")]:
            self.broker.set_policy(RoutingPolicy(policy))
            before = len(self.ollama.heads)
            header = f"Ctllm-Desktop: {name}\r\n"
            self.send(body=CHAT % b"mistral", headers=header)
            self.send("/api/tags", b"", "GET", header)
            self.assertEqual(len(self.ollama.heads), before + 2, name)
        self.assertEqual(self.remote_desktops.cloud.heads, [])
        self.broker.set_policy(RoutingPolicy.CLOUD)
        transport = self.send(body=CHAT % b"mistral", headers=f"Ctllm-Desktop: {'d' * 32}\r\n")
        self.ollama.sinks[-1].fail(OllamaDown("down"))
        self.assertIn(b" 503 ", transport.take_written())
        self.assertEqual(self.remote_desktops.cloud.heads, [])
        self.send(body=CHAT % b"mistral", headers=f"Ctllm-Desktop: {'e' * 32}\r\n")
        self.assertEqual(len(self.remote_desktops.cloud.heads), 1)

    def test_response_headers_name_route_desktop_and_model(self) -> None:
        transport = self.send()
        self.respond(self.ollama)
        response = transport.take_written()
        for line in (
            b"Ctllm-Route: local",
            b"Ctllm-Desktop: attic %E2%98%BA",
            b"Ctllm-Model: llama3.2",
        ):
            self.assertIn(line + b"\r\n", response)
        self.remote_desktops.set_status(True, "qwen3")
        transport = self.send(body=CHAT % b"qwen3")
        self.respond(self.remote_desktops.cloud)
        response = transport.take_written()
        self.assertIn(b"Ctllm-Route: cloud\r\n", response)
        self.assertNotIn(b"Ctllm-Desktop", response)
        self.assertEqual(
            (self.broker.request_counts["local"], self.broker.request_counts["cloud"]), (1, 1)
        )

    def test_refuses_the_old_name_of_a_renamed_header(self) -> None:
        refused = self.send(headers="Ctllm-Side: local\r\n").take_written()
        self.assertIn(b"HTTP/1.1 400 ", refused)
        self.assertIn(b"is now called Ctllm-Route", refused)
        self.assertEqual(self.ollama.sinks, [])

    def test_every_name_of_a_local_model_is_routed_locally(self) -> None:
        self.remote_desktops.set_status(True, "llama3.2", "library/llama3.2", "LLAMA3.2:latest")
        for name in (b"llama3.2", b"llama3.2:latest", b"library/llama3.2", b"LLAMA3.2:latest"):
            self.send(body=CHAT % name)
        self.assertEqual(len(self.ollama.heads), 4)

    def test_model_in_the_path_is_routed_by_model(self) -> None:
        self.remote_desktops.set_status(True, "qwen3")
        self.send("/v1/models/qwen3", b"", "GET")
        self.assertEqual(len(self.remote_desktops.cloud.heads), 1)

    def test_body_is_not_retained_while_logged_out(self) -> None:
        self.remote_desktops.is_logged_in = False
        transport = self.send()
        self.assertEqual(self.broker.buffered_bytes, 0)
        self.ollama.sinks[0].fail(OllamaDown("no Ollama"))
        self.assertIn(b" 503 ", transport.take_written())

    def test_failed_route_is_polled_and_not_preferred_for_a_while(self) -> None:
        self.remote_desktops.set_status(True)
        transport = self.send()
        self.ollama.sinks[0].fail(OllamaDown("no Ollama"))
        self.respond(self.remote_desktops.cloud)
        self.assertIn(b"Ctllm-Route: cloud", transport.take_written())
        self.assertEqual((self.ollama.polls, self.broker.current_route), (1, Route.CLOUD))
        self.clock.advance(6)
        self.assertEqual(self.broker.current_route, Route.LOCAL)
        self.assertEqual(self.broker.request_counts["failovers"], 1)

    def test_requests_without_a_response_leave_a_route_that_goes_down(self) -> None:
        self.remote_desktops.set_status(True)
        self.send()
        self.ollama.sinks[0].write_head(OK)
        self.send()
        self.ollama.set_status(Status("down"))
        self.assertEqual(len(self.remote_desktops.cloud.heads), 1)
        self.assertEqual(self.broker.active_requests, 2)

    def test_policy_takes_effect_though_it_cannot_be_stored(self) -> None:
        self.remote_desktops.set_status(True)
        self.broker.set_policy(RoutingPolicy.CLOUD)
        self.assertEqual(self.policy_store.value, RoutingPolicy.CLOUD)
        self.send()
        self.assertEqual(len(self.remote_desktops.cloud.heads), 1)
        self.policy_store.error = BadConfiguration("full")
        self.assertRaises(BadConfiguration, self.broker.set_policy, RoutingPolicy.NEVER)
        self.send()
        self.assertEqual(len(self.ollama.heads), 1)

    def test_model_management_is_never_sent_to_the_cloud(self) -> None:
        self.remote_desktops.set_status(True)
        self.broker.set_policy(RoutingPolicy.CLOUD)
        for method, path in (
            ("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/push"),
            ("POST", "/api/create"), ("POST", "/api/blobs/sha256:00"),
        ):  # fmt: skip
            transport = self.send(path, b'{"model":"m"}', method)
            self.ollama.sinks[-1].fail(OllamaDown("no Ollama"))
            response = transport.take_written()
            self.assertIn(b" 503 ", response)
            self.assertIn(b"Start Ollama here.", response)
        self.assertEqual(self.remote_desktops.cloud.heads, [])

    def test_error_of_model_management_names_desktops_with_ollama(self) -> None:
        self.remote_desktops.others = (
            RemoteDesktop("1" * 32, "study", "up"),
            RemoteDesktop("2" * 32, "\x1b[31m", "down"),
            RemoteDesktop("3" * 32, "b\u00fcro", "up"),
        )
        transport = self.send("/api/pull", b'{"model":"m"}')
        self.ollama.sinks[-1].fail(OllamaDown("Connection was refused"))
        response = json.loads(transport.take_written().partition(b"\r\n\r\n")[2])["error"]
        for part in (
            "attic", "study, b\u00fcro", "ctllm keys add NAME --scope manage",
            "Ctllm-Desktop: study", "https://cloud.example/api/pull",
        ):  # fmt: skip
            self.assertIn(part, response)
        self.assertNotIn("refused", response)

    def test_unknown_endpoints_are_not_found_without_ollama(self) -> None:
        self.remote_desktops.set_status(True)
        transport = self.send("/v1/rerank")
        self.ollama.sinks[-1].fail(OllamaDown("it broke off"))
        self.assertTrue(transport.take_written().startswith(b"HTTP/1.1 503"), "that one is there")
        self.ollama.set_status(Status("down"))
        for line, status, hint in (
            ("POST /v1/rerank", 404, b""),
            ("POST /v1/moderations", 404, b""),
            ("POST /v1/responses/input_tokens", 404, b""),
            ("POST /chat/completions", 404, b"lacks /v1"),
            ("POST /v1/v1/messages", 404, b"one /v1 too many"),
            ("GET /v1/chat/completions", 405, b""),
        ):
            method, path = line.split()
            transport = self.send(path, b"{}", method)
            self.ollama.sinks[-1].fail(OllamaDown("no Ollama"))
            response = transport.take_written()
            self.assertTrue(response.startswith(b"HTTP/1.1 %d" % status), response)
            self.assertIn(hint, response)
            self.assertNotIn(b"Retry-After", response)
        self.assertEqual(self.remote_desktops.cloud.heads, [])

    def test_canonical_paths_are_sent_to_the_cloud(self) -> None:
        self.remote_desktops.set_status(True)
        self.ollama.set_status(Status("down"))
        for path, asked in (
            ("//api/chat", "/api/chat"), ("/api/chat/", "/api/chat"),
            ("/v1/chat/completions/", "/v1/chat/completions"),
            ("/v1/audio/transcriptions", "/v1/audio/transcriptions"),
            ("/api/experimental/web_search", "/api/experimental/web_search"),
        ):  # fmt: skip
            self.send(path)
            self.assertEqual(self.remote_desktops.cloud.heads[-1].target.decode(), asked)

    def test_root_responds_while_only_the_cloud_is_up(self) -> None:
        self.remote_desktops.set_status(True)
        self.ollama.set_status(Status("down"))
        self.assertIn(b"Ollama is running", self.send("/", b"", "GET").take_written())
        self.assertTrue(self.send("/", b"", "HEAD").take_written().startswith(b"HTTP/1.1 200"))
        self.ollama.set_status(UP)
        self.clock.advance(60)
        self.send("/", b"", "GET")
        self.assertEqual((len(self.ollama.heads), len(self.remote_desktops.cloud.heads)), (1, 0))

    def test_apps_do_not_reach_the_clouds_api(self) -> None:
        self.remote_desktops.set_status(True)
        self.broker.set_policy(RoutingPolicy.CLOUD)
        for path in ("/ctllm/desktops", "/ctllm/session", "//ctllm/session", "/health", "/ws/x"):
            self.send(path, b"", "GET")
        self.assertEqual(self.remote_desktops.cloud.heads, [])

    def test_model_lists_of_both_routes_are_merged(self) -> None:
        mine = {"models": [{"name": "a:latest", "modified_at": "2026-01-02T00:00:00Z"}]}
        theirs = {"models": [{"name": "b:latest", "modified_at": "2026-01-01T00:00:00Z"}]}
        self.remote_desktops.set_status(True)
        transport = self.send("/api/tags", b"", "GET")
        self.respond(self.ollama, json.dumps(mine).encode())
        self.respond(self.remote_desktops.cloud, json.dumps(theirs).encode())
        body = json.loads(transport.take_written().partition(b"\r\n\r\n")[2])
        self.assertEqual([each["name"] for each in body["models"]], ["a:latest", "b:latest"])
        for preference in (RoutingPolicy.LOCAL, RoutingPolicy.CLOUD, RoutingPolicy.NEVER):
            self.broker.set_policy(preference)
            before = len(self.ollama.heads) + len(self.remote_desktops.cloud.heads)
            self.send("/api/tags", b"", "GET")
            after = len(self.ollama.heads) + len(self.remote_desktops.cloud.heads)
            self.assertEqual(after - before, 1, preference)

    def test_list_of_one_route_is_passed_on_when_the_other_fails(self) -> None:
        self.remote_desktops.set_status(True)
        self.remote_desktops.error = Unauthorized("signed out")
        transport = self.send("/api/tags", b"", "GET")
        self.respond(self.ollama, b'{"models":[]}')
        self.assertIn(b"Ctllm-Route: local", transport.take_written())

    def test_cloud_gets_a_shorter_timeout(self) -> None:
        self.remote_desktops.set_status(True)
        self.send("/api/tags", b"", "GET")
        asked = self.remote_desktops.cloud.heads
        self.assertEqual(get_timeout(asked[-1], 9.0), 2.0)
        self.remote_desktops.waiting = Deferred()
        self.send("/api/tags", b"", "GET")
        self.clock.advance(1.5)
        self.remote_desktops.waiting.callback(None)
        self.assertEqual((len(asked), get_timeout(asked[-1], 9.0)), (2, 1.0))

    def test_list_is_local_when_the_token_is_late(self) -> None:
        self.remote_desktops.set_status(True)
        self.remote_desktops.waiting = Deferred()
        transport = self.send("/api/tags", b"", "GET")
        self.clock.advance(3)
        self.respond(self.ollama, b'{"models":[]}')
        self.assertIn(b"Ctllm-Route: local", transport.take_written())
        self.assertEqual(self.remote_desktops.cloud.heads, [])

    def test_late_list_is_left_out_of_the_merged_one(self) -> None:
        self.remote_desktops.set_status(True)
        transport = self.send("/api/tags", b"", "GET")
        self.respond(self.remote_desktops.cloud, b'{"models":[]}')
        self.clock.advance(3)
        self.assertIn(b'{"models":[]}', transport.take_written())
        self.assertEqual(len(self.ollama.heads), 1)

    def test_is_in_use_after_a_request_that_may_use_the_cloud(self) -> None:
        self.assertFalse(self.broker.is_in_use)
        self.send()
        self.assertTrue(self.broker.is_in_use)
        self.broker.set_policy(RoutingPolicy.NEVER)
        self.assertFalse(self.broker.is_in_use)
        self.broker.set_policy(RoutingPolicy.AUTO)
        self.clock.advance(61)
        self.assertFalse(self.broker.is_in_use)

    def test_abort_ends_every_request_with_the_error(self) -> None:
        waits, reads = self.send(), self.send()
        self.ollama.sinks[1].write_head(
            ResponseHead(200, b"", ((b"Content-Type", b"application/x-ndjson"),))
        )
        self.broker.abort_requests(DesktopLost("stopped"))
        self.assertIn(b" 502 ", waits.take_written())
        self.assertIn(b'{"error":"stopped"}\n', reads.take_written())
        self.assertEqual(self.broker.active_requests, 0)
        self.assertEqual([call.calls[-1].message for call in self.ollama.requests], ["stopped"] * 2)
