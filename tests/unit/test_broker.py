"""The broker: who is asked, what is told of it, and what both sides have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.broker.policy_store import PolicyStore
from ctllm.desktop.broker.remote_desktops import RemoteDesktop
from ctllm.desktop.broker.routing_policy import Route, RoutingPolicy
from ctllm.desktop.loopback_endpoint import LoopbackEndpoint
from ctllm.errors import BadConfiguration, DesktopLost, OllamaDown, Unauthorized
from ctllm.http.message.head import ResponseHead
from ctllm.http.request_timeout import get_timeout
from ctllm.http.server.connection import HttpServerFactory
from ctllm.tunnel.frames import Status
from tests.unit.fakes import FakeUpstream, MemoryTransport

OK = ResponseHead(200)
UP = Status("up", "1", ("llama3.2:latest",))
CHAT = b'{"model":"%b"}'


class Ollama(FakeUpstream):
    """This machine's."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Any] = []
        self.looks = 0

    def request_poll(self) -> None:
        self.looks += 1

    def become(self, status: Status) -> None:
        for listener in self.listeners:
            listener(status)


class Others(Service):
    """The cloud's side."""

    def __init__(self) -> None:
        self.cloud = FakeUpstream()
        self.is_up = False
        self.is_logged_in = True
        self.models: set[str] = set()
        self.others: tuple[RemoteDesktop, ...] = ()
        self.cloud_url = "https://cloud.example"
        self.observers: Any = []
        self.looks = 0
        self.refusal: Exception | None = None
        self.waiting: Deferred[None] | None = None

    def add_observer(self, observer: Any) -> None:
        self.observers.append(observer)

    def has_model(self, model: str) -> bool:
        return model in self.models

    def poll_now(self) -> None:
        self.looks += 1

    def become(self, up: bool, *models: str) -> None:
        self.is_up, self.models = up, set(models)
        for each in self.observers:
            each()

    async def upstream(self) -> FakeUpstream:
        if self.waiting is not None:
            await self.waiting
        if self.refusal is not None:
            raise self.refusal
        return self.cloud


class Kept:
    def __init__(self) -> None:
        self.value = RoutingPolicy.AUTO
        self.trouble: Any = None

    def load(self) -> RoutingPolicy:
        return self.value

    def save(self, policy: RoutingPolicy) -> None:
        self.value = policy
        if self.trouble is not None:
            raise self.trouble


class BrokerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ollama, self.others, self.kept = Ollama(), Others(), Kept()
        self.broker = Broker(self.ollama, self.others, self.kept, self.clock, "attic \u263a")  # type: ignore
        self.changes = 0
        self.broker.add_observer(self.changed)
        self.ollama.become(UP)

    def changed(self) -> None:
        self.changes += 1

    def ask(
        self,
        path: str = "/api/chat",
        body: bytes = CHAT % b"llama3.2",
        method: str = "POST",
        headers: str = "",
    ) -> MemoryTransport:
        factory = HttpServerFactory(LoopbackEndpoint(self.broker.handle_request), self.clock)
        protocol, wire = factory.buildProtocol(None), MemoryTransport()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += f"{headers}\r\n"
        protocol.dataReceived(head.encode() + body)
        return wire

    def answer(self, upstream: FakeUpstream, body: bytes = b"{}") -> None:
        upstream.sinks[-1].write_head(OK)
        upstream.sinks[-1].write(body)
        upstream.sinks[-1].finish()

    def test_signed(self) -> None:
        """Who answered is said: side, machine, model. Of the cloud, it says the machine itself."""
        wire = self.ask()
        self.answer(self.ollama)
        said = wire.take_written()
        for line in (
            b"Ctllm-Route: local",
            b"Ctllm-Desktop: attic %E2%98%BA",
            b"Ctllm-Model: llama3.2",
        ):
            self.assertIn(line + b"\r\n", said)
        self.others.become(True, "qwen3")
        wire = self.ask(body=CHAT % b"qwen3")
        self.answer(self.others.cloud)
        said = wire.take_written()
        self.assertIn(b"Ctllm-Route: cloud\r\n", said)
        self.assertNotIn(b"Ctllm-Desktop", said)
        self.assertEqual(
            (self.broker.request_counts["local"], self.broker.request_counts["cloud"]), (1, 1)
        )

    def test_refuses_the_old_name_of_a_renamed_header(self) -> None:
        refused = self.ask(headers="Ctllm-Side: local\r\n").take_written()
        self.assertIn(b"HTTP/1.1 400 ", refused)
        self.assertIn(b"is now called Ctllm-Route", refused)
        self.assertEqual(self.ollama.sinks, [])

    def test_names_of_models(self) -> None:
        """By whichever of its names."""
        self.others.become(True, "llama3.2", "library/llama3.2", "LLAMA3.2:latest")
        for name in (b"llama3.2", b"llama3.2:latest", b"library/llama3.2", b"LLAMA3.2:latest"):
            self.ask(body=CHAT % name)
        self.assertEqual(len(self.ollama.heads), 4)

    def test_a_model_of_a_path(self) -> None:
        self.others.become(True, "qwen3")
        self.ask("/v1/models/qwen3", b"", "GET")
        self.assertEqual(len(self.others.cloud.heads), 1)

    def test_not_signed_in(self) -> None:
        """Nothing is kept to be sent elsewhere."""
        self.others.is_logged_in = False
        wire = self.ask()
        self.assertEqual(self.broker.buffered_bytes, 0)
        self.ollama.sinks[0].fail(OllamaDown("no Ollama"))
        self.assertIn(b" 503 ", wire.take_written())

    def test_failing(self) -> None:
        """A request is moved; the side is looked at, and not preferred for a while."""
        self.others.become(True)
        wire = self.ask()
        self.ollama.sinks[0].fail(OllamaDown("no Ollama"))
        self.answer(self.others.cloud)
        self.assertIn(b"Ctllm-Route: cloud", wire.take_written())
        self.assertEqual((self.ollama.looks, self.broker.current_route), (1, Route.CLOUD))
        self.clock.advance(6)
        self.assertEqual(self.broker.current_route, Route.LOCAL)
        self.assertEqual(self.broker.request_counts["failovers"], 1)

    def test_a_side_that_dies(self) -> None:
        """What waits there for its answer goes to the other one; what is answered stays."""
        self.others.become(True)
        self.ask()
        self.ollama.sinks[0].write_head(OK)
        self.ask()
        self.ollama.become(Status("down"))
        self.assertEqual(len(self.others.cloud.heads), 1)
        self.assertEqual(self.broker.active_requests, 2)

    def test_preferring(self) -> None:
        self.others.become(True)
        self.broker.set_policy(RoutingPolicy.CLOUD)
        self.assertEqual(self.kept.value, RoutingPolicy.CLOUD)
        self.ask()
        self.assertEqual(len(self.others.cloud.heads), 1)
        self.kept.trouble = BadConfiguration("full")
        self.assertRaises(BadConfiguration, self.broker.set_policy, RoutingPolicy.NEVER)
        self.ask()
        self.assertEqual(len(self.ollama.heads), 1)

    def test_what_changes_models(self) -> None:
        """It is this machine's, whatever is preferred, and is never sent twice."""
        self.others.become(True)
        self.broker.set_policy(RoutingPolicy.CLOUD)
        for method, path in (
            ("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/push"),
            ("POST", "/api/create"), ("POST", "/api/blobs/sha256:00"),
        ):  # fmt: skip
            wire = self.ask(path, b'{"model":"m"}', method)
            self.ollama.sinks[-1].fail(OllamaDown("no Ollama"))
            said = wire.take_written()
            self.assertIn(b" 503 ", said)
            self.assertIn(b"Start Ollama here.", said)
        self.assertEqual(self.others.cloud.heads, [])

    def test_where_models_are_changed(self) -> None:
        """Which machine has them, and how to do it from here."""
        self.others.others = (
            RemoteDesktop("1" * 32, "study", "up"),
            RemoteDesktop("2" * 32, "\x1b[31m", "down"),
            RemoteDesktop("3" * 32, "b\u00fcro", "up"),
        )
        wire = self.ask("/api/pull", b'{"model":"m"}')
        self.ollama.sinks[-1].fail(OllamaDown("Connection was refused"))
        said = json.loads(wire.take_written().partition(b"\r\n\r\n")[2])["error"]
        for part in (
            "attic", "study, b\u00fcro", "ctllm keys add NAME --manage", "Ctllm-Desktop: study",
            "https://cloud.example/api/pull",
        ):  # fmt: skip
            self.assertIn(part, said)
        self.assertNotIn("refused", said)

    def test_where_no_ollama_answers(self) -> None:
        """What Ollama never had is refused at once, as Ollama does; a retry would not help."""
        self.others.become(True)
        wire = self.ask("/v1/rerank")
        self.ollama.sinks[-1].fail(OllamaDown("it broke off"))
        self.assertTrue(wire.take_written().startswith(b"HTTP/1.1 503"), "that one is there")
        self.ollama.become(Status("down"))
        for line, status, hint in (
            ("POST /v1/rerank", 404, b""),
            ("POST /v1/moderations", 404, b""),
            ("POST /v1/responses/input_tokens", 404, b""),
            ("POST /chat/completions", 404, b"lacks /v1"),
            ("POST /v1/v1/messages", 404, b"one /v1 too many"),
            ("GET /v1/chat/completions", 405, b""),
        ):
            method, path = line.split()
            wire = self.ask(path, b"{}", method)
            self.ollama.sinks[-1].fail(OllamaDown("no Ollama"))
            said = wire.take_written()
            self.assertTrue(said.startswith(b"HTTP/1.1 %d" % status), said)
            self.assertIn(hint, said)
            self.assertNotIn(b"Retry-After", said)
        self.assertEqual(self.others.cloud.heads, [])

    def test_what_goes_where_there_is_an_ollama(self) -> None:
        """All inference, and its path as Ollama reads it."""
        self.others.become(True)
        self.ollama.become(Status("down"))
        for path, asked in (
            ("//api/chat", "/api/chat"), ("/api/chat/", "/api/chat"),
            ("/v1/chat/completions/", "/v1/chat/completions"),
            ("/v1/audio/transcriptions", "/v1/audio/transcriptions"),
            ("/api/experimental/web_search", "/api/experimental/web_search"),
        ):  # fmt: skip
            self.ask(path)
            self.assertEqual(self.others.cloud.heads[-1].target.decode(), asked)

    def test_is_a_server_there(self) -> None:
        """While others answer for this machine, the endpoint says so itself."""
        self.others.become(True)
        self.ollama.become(Status("down"))
        self.assertIn(b"Ollama is running", self.ask("/", b"", "GET").take_written())
        self.assertTrue(self.ask("/", b"", "HEAD").take_written().startswith(b"HTTP/1.1 200"))
        self.ollama.become(UP)
        self.clock.advance(60)
        self.ask("/", b"", "GET")
        self.assertEqual((len(self.ollama.heads), len(self.others.cloud.heads)), (1, 0))

    def test_the_clouds_own_paths(self) -> None:
        """An app that asks them gets no further than this machine."""
        self.others.become(True)
        self.broker.set_policy(RoutingPolicy.CLOUD)
        for path in ("/ctllm/desktops", "/ctllm/session", "//ctllm/session", "/health", "/ws/x"):
            self.ask(path, b"", "GET")
        self.assertEqual(self.others.cloud.heads, [])

    def test_lists_of_both(self) -> None:
        """Where an app could use both sides."""
        mine = {"models": [{"name": "a:latest", "modified_at": "2026-01-02T00:00:00Z"}]}
        theirs = {"models": [{"name": "b:latest", "modified_at": "2026-01-01T00:00:00Z"}]}
        self.others.become(True)
        wire = self.ask("/api/tags", b"", "GET")
        self.answer(self.ollama, json.dumps(mine).encode())
        self.answer(self.others.cloud, json.dumps(theirs).encode())
        body = json.loads(wire.take_written().partition(b"\r\n\r\n")[2])
        self.assertEqual([each["name"] for each in body["models"]], ["a:latest", "b:latest"])
        for preference in (RoutingPolicy.LOCAL, RoutingPolicy.CLOUD, RoutingPolicy.NEVER):
            self.broker.set_policy(preference)
            before = len(self.ollama.heads) + len(self.others.cloud.heads)
            self.ask("/api/tags", b"", "GET")
            after = len(self.ollama.heads) + len(self.others.cloud.heads)
            self.assertEqual(after - before, 1, preference)

    def test_a_list_that_one_side_lacks(self) -> None:
        """The other one's is given as it is."""
        self.others.become(True)
        self.others.refusal = Unauthorized("signed out")
        wire = self.ask("/api/tags", b"", "GET")
        self.answer(self.ollama, b'{"models":[]}')
        self.assertIn(b"Ctllm-Route: local", wire.take_written())

    def test_the_other_side_has_less_time(self) -> None:
        """Or it would answer when nobody waits any more; so it is when a token comes late."""
        self.others.become(True)
        self.ask("/api/tags", b"", "GET")
        asked = self.others.cloud.heads
        self.assertEqual(get_timeout(asked[-1], 9.0), 2.0)
        self.others.waiting = Deferred()
        self.ask("/api/tags", b"", "GET")
        self.clock.advance(1.5)
        self.others.waiting.callback(None)
        self.assertEqual((len(asked), get_timeout(asked[-1], 9.0)), (2, 1.0))

    def test_a_token_that_does_not_come(self) -> None:
        """Then the list is of this side."""
        self.others.become(True)
        self.others.waiting = Deferred()
        wire = self.ask("/api/tags", b"", "GET")
        self.clock.advance(3)
        self.answer(self.ollama, b'{"models":[]}')
        self.assertIn(b"Ctllm-Route: local", wire.take_written())
        self.assertEqual(self.others.cloud.heads, [])

    def test_a_list_that_comes_from_one_side_alone(self) -> None:
        """It is the answer: who does not answer in time is not asked a second time."""
        self.others.become(True)
        wire = self.ask("/api/tags", b"", "GET")
        self.answer(self.others.cloud, b'{"models":[]}')
        self.clock.advance(3)
        self.assertIn(b'{"models":[]}', wire.take_written())
        self.assertEqual(len(self.ollama.heads), 1)

    def test_in_use(self) -> None:
        """Somebody asked lately, and the cloud may be asked at all."""
        self.assertFalse(self.broker.is_in_use)
        self.ask()
        self.assertTrue(self.broker.is_in_use)
        self.broker.set_policy(RoutingPolicy.NEVER)
        self.assertFalse(self.broker.is_in_use)
        self.broker.set_policy(RoutingPolicy.AUTO)
        self.clock.advance(61)
        self.assertFalse(self.broker.is_in_use)

    def test_dismissed(self) -> None:
        """Who waits and who reads are told; nothing is under way any more."""
        waits, reads = self.ask(), self.ask()
        self.ollama.sinks[1].write_head(
            ResponseHead(200, b"", ((b"Content-Type", b"application/x-ndjson"),))
        )
        self.broker.abort_requests(DesktopLost("stopped"))
        self.assertIn(b" 502 ", waits.take_written())
        self.assertIn(b'{"error":"stopped"}\n', reads.take_written())
        self.assertEqual(self.broker.active_requests, 0)
        self.assertEqual([call.calls[-1].message for call in self.ollama.requests], ["stopped"] * 2)


class KeptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())

    def kept(self, configured: RoutingPolicy = RoutingPolicy.AUTO) -> PolicyStore:
        return PolicyStore(self.state, configured)

    def test_kept(self) -> None:
        self.assertEqual(self.kept().load(), RoutingPolicy.AUTO)
        self.kept().save(RoutingPolicy.NEVER)
        self.assertEqual(self.kept().load(), RoutingPolicy.NEVER)

    def test_a_configuration_that_was_changed_since(self) -> None:
        self.kept().save(RoutingPolicy.NEVER)
        self.assertEqual(self.kept(RoutingPolicy.CLOUD).load(), RoutingPolicy.CLOUD)

    def test_damaged(self) -> None:
        """What was said is not known, so nothing leaves this machine, also after a restart."""
        path = self.state / "desktop" / "preference.json"
        self.kept().save(RoutingPolicy.LOCAL)
        path.write_text('{"preference": "loc')
        said: list[LogEvent] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        for _ in range(2):
            self.assertEqual(self.kept(RoutingPolicy.CLOUD).load(), RoutingPolicy.NEVER)
        (event,) = said
        self.assertIn("ctllm prefer", formatEvent(event))
        (aside,) = path.parent.glob("preference.json.damaged-*")
        self.assertEqual(aside.read_text(), '{"preference": "loc')
        self.kept(RoutingPolicy.CLOUD).save(RoutingPolicy.AUTO)
        self.assertEqual(self.kept(RoutingPolicy.CLOUD).load(), RoutingPolicy.AUTO)

    def test_a_folder_that_cannot_be_written(self) -> None:
        self.state.write_text("")
        self.assertRaises(BadConfiguration, self.kept().save, RoutingPolicy.NEVER)
