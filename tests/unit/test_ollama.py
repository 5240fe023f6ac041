"""The Ollama of this machine: up, down, stood in for."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop import ollama_monitor as module
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

EVERY = 5.0


class Server:
    """A pretended Ollama behind a real HTTP server."""

    def __init__(self, clock: Clock) -> None:
        self.served = ServedEndpoint(self.answer, clock)
        self.answers: dict[bytes, Any] = {
            b"/api/version": {"version": "0.5.1"},
            b"/api/tags": {"models": [{"name": "m:1", "size": 1}, {"name": "m:2"}]},
        }
        self.status = 200
        self.hangs = False
        self.asked: list[RequestHead] = []
        self.down()

    async def answer(self, incoming: ServerRequest) -> None:
        self.asked.append(incoming.head)
        if self.hangs:
            await Deferred()
        incoming.respond(self.status, self.answers.get(incoming.head.path, {}))

    def down(self) -> None:
        self.served.refusal = ConnectionRefusedError()
        for pump in self.served.pumps:
            pump.serverIO.loseConnection()
        self.served.flush()

    def up(self) -> None:
        self.served.refusal = None


class Case(SynchronousTestCase):
    """An Ollama service; `real` and `demo` are what its two addresses lead to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.real, self.demo = Server(self.clock), Server(self.clock)
        self.dialled: list[str] = []
        self.patch(module, "client_from_string", self.endpoint)
        self.ollama = OllamaMonitor(self.server("http://127.0.0.1:11434", "up"), self.clock, EVERY)
        self.heard: list[Status] = []
        self.ollama.listeners.append(self.heard.append)
        self.addCleanup(self.stop)

    def endpoint(self, reactor: Any, text: str) -> ServedEndpoint:
        self.dialled.append(text)
        return (self.demo if "9999" in text else self.real).served

    def server(self, url: str, kind: str) -> OllamaServer:
        return OllamaServer(url, kind, self.clock)

    def stop(self) -> None:
        """However a test ends, stopping leaves no timer and no connection."""
        if self.ollama.running:
            self.ollama.stopService()
        self.settle()
        self.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def settle(self) -> None:
        for server in (self.real, self.demo):
            server.served.flush()

    def wait(self, seconds: float = EVERY) -> None:
        """Until the next look has been answered; the servers' own time-outs play no part."""
        self.clock.advance(seconds)
        for _ in range(4):
            self.settle()

    def start(self) -> None:
        self.ollama.startService()
        self.wait(0)

    @property
    def states(self) -> list[str]:
        return [status.ollama for status in self.heard]


class Looking(Case):
    """How it is."""

    def test_up_and_down(self) -> None:
        """Looked at from the start, and noticed within one interval either way."""
        self.start()
        self.assertIs(self.ollama.status, DOWN)
        self.real.up()
        self.wait()
        self.assertEqual(self.ollama.status, Status("up", "0.5.1", ("m:1", "m:2")))
        self.real.down()
        self.wait()
        self.assertEqual(self.states, ["up", "down"])

    def test_only_changes_are_told(self) -> None:
        """A new model is one."""
        self.real.up()
        self.start()
        self.wait()
        self.wait()
        self.assertEqual(self.states, ["up"])
        self.real.answers[b"/api/tags"] = {"models": []}
        self.wait()
        self.assertEqual(self.heard[1:], [Status("up", "0.5.1", ())])

    def test_not_an_ollama(self) -> None:
        """Whatever else listens there cannot be used."""
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
            good = dict(self.real.answers)
            self.real.answers[path] = answer
            self.wait()
            self.assertIs(self.ollama.status, DOWN, answer)
            self.real.answers = good
            self.wait()
            self.assertEqual(self.ollama.status.ollama, "up")
        self.real.status = 500
        self.wait()
        self.assertIs(self.ollama.status, DOWN)

    def test_no_models(self) -> None:
        """Ollama says null where there are none."""
        self.real.answers[b"/api/tags"] = {"models": None}
        self.real.up()
        self.start()
        self.assertEqual(self.ollama.status, Status("up", "0.5.1", ()))

    def test_very_many_models(self) -> None:
        """Not all of them are named to the cloud."""
        names = [{"name": f"m:{number}"} for number in range(MAX_MODELS + 1)]
        self.real.answers[b"/api/tags"] = {"models": names}
        self.real.up()
        self.start()
        self.assertEqual(len(self.ollama.status.models), MAX_MODELS)

    def test_names_that_no_model_has(self) -> None:
        """What is told of an Ollama gone mad fits into a frame, which the proxy would refuse."""
        names = [
            "m",
            "m\n",
            "m\x1b[2J",
            "m" * (MAX_NAME_LENGTH + 1),
            *("m" * MAX_NAME_LENGTH for _ in range(3000)),
        ]
        self.real.answers[b"/api/version"] = {"version": "9" * 10_000}
        self.real.answers[b"/api/tags"] = {"models": [{"name": name} for name in names]}
        self.real.up()
        self.start()
        told = self.ollama.status
        self.assertEqual(len(told.version), MAX_NAME_LENGTH)
        self.assertEqual(
            (told.models[:2], len(told.models)), (("m", "m" * MAX_NAME_LENGTH), MAX_MODELS)
        )
        wide = Status("up", told.version, ("\U0001f999" * MAX_NAME_LENGTH,) * MAX_MODELS)
        self.assertLess(len(encode_json_frame(FrameKind.STATUS, CONNECTION_ID, wide)), MAX_LIST)

    def test_a_version_that_would_steer(self) -> None:
        """It is shown on screens, here and elsewhere."""
        self.real.answers[b"/api/version"] = {"version": "1\x1b[2J\n\u202e"}
        self.real.up()
        self.start()
        self.assertEqual(self.ollama.status.version, "1\ufffd[2J\ufffd\ufffd")

    def test_hanging(self) -> None:
        """One that accepts and says nothing is down after a while, and is asked again."""
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

    def test_stopped_while_looking(self) -> None:
        """The looking is cancelled, in silence; `stop` sees that nothing is left."""
        self.real.hangs = True
        self.real.up()
        self.start()
        self.ollama.stopService()
        self.assertEqual((self.heard, self.flushLoggedErrors()), ([], []))


class InMemory(Case):
    """Which models are loaded."""

    def setUp(self) -> None:
        super().setUp()
        self.real.answers[b"/api/ps"] = {"models": [{"name": "m:1"}]}
        self.changes = 0
        self.ollama.on_loaded = self.changed
        self.real.up()

    def changed(self) -> None:
        self.changes += 1

    def test_only_for_who_watches(self) -> None:
        """Nobody else needs to know, and each question is a line of Ollama's log."""
        self.start()
        self.wait()
        self.assertNotIn(b"/api/ps", [head.path for head in self.real.asked])
        self.ollama.watched = lambda: True
        self.wait()
        self.wait()
        self.assertEqual((self.ollama.loaded_models, self.changes), (("m:1",), 1))

    def test_nobody_watches_any_more(self) -> None:
        self.ollama.watched = lambda: True
        self.start()
        self.wait()
        self.ollama.watched = lambda: False
        self.real.asked.clear()
        self.wait()
        self.assertNotIn(b"/api/ps", [head.path for head in self.real.asked])

    def test_gone_with_it(self) -> None:
        self.ollama.watched = lambda: True
        self.start()
        self.wait()
        self.real.down()
        self.wait()
        self.assertEqual((self.ollama.loaded_models, self.changes), ((), 2))

    def test_an_answer_that_is_none(self) -> None:
        self.ollama.watched = lambda: True
        self.real.answers[b"/api/ps"] = {"models": 7}
        self.start()
        self.wait()
        self.assertEqual((self.ollama.loaded_models, self.ollama.status.ollama), ((), "up"))


class StandingIn(Case):
    """Where none answers and a demo is wanted."""

    def setUp(self) -> None:
        super().setUp()
        self.demo.answers[b"/api/tags"] = {"models": [{"name": "demo:echo"}]}
        self.demo.up()
        self.ollama.use_demo(self.server("http://127.0.0.1:9999", "demo"))

    def test_until_the_real_one_appears(self) -> None:
        """Then never again, though it goes away."""
        self.start()
        self.assertEqual(self.ollama.status, Status("demo", "0.5.1", ("demo:echo",)))
        self.real.up()
        self.wait()
        self.assertEqual(self.states, ["demo", "up"])
        self.real.down()
        self.wait()
        self.assertEqual(self.states, ["demo", "up", "down"])

    def test_where_exchanges_go(self) -> None:
        """To the demo while it stands in, and to the real one after."""
        self.start()
        self.demo.asked.clear()
        for server in (self.demo, self.real):
            heard = FakeResponseSink()
            self.ollama.start_request(RequestHead(b"GET", b"/api/tags"), heard).finish()
            self.settle()
            self.assertEqual((heard.outcome, server.asked[-1].target), ("end", b"/api/tags"))
            self.real.up()
            self.wait()


class Exchanges(Case):
    """What it is asked."""

    def test_as_from_this_machine(self) -> None:
        """With its own Host, and without what says who asks."""
        self.real.up()
        secret = ((b"Authorization", b"Bearer x"), (b"Origin", b"https://c.example"))
        heard = FakeResponseSink()
        self.ollama.start_request(
            RequestHead(b"GET", b"/", (*secret, (b"hOsT", b"c.example"))), heard
        ).finish()
        self.settle()
        (head,) = self.real.asked
        self.assertEqual(head.headers, ((b"Host", b"127.0.0.1:11434"),))
        self.ollama.real.close()

    def test_down(self) -> None:
        """The error says which Ollama, and when to try again."""
        heard = FakeResponseSink()
        self.ollama.start_request(RequestHead(b"GET", b"/"), heard).finish()
        assert isinstance(heard.outcome, OllamaDown)
        self.assertIn("http://127.0.0.1:11434", heard.outcome.message)
        self.assertEqual(heard.outcome.retry_after, 5)

    def test_addresses(self) -> None:
        """Any that a URL may have."""
        self.dialled.clear()
        for url in ("http://[::1]:11434", "https://o.example", "http://o.example:80/"):
            self.server(url, "up")
        wanted = [r"tcp:\:\:1:11434", "tls:o.example:443", "tcp:o.example:80"]
        self.assertEqual(self.dialled, wanted)


class News(Case):
    """What exchanges do to the models is seen at once."""

    def setUp(self) -> None:
        super().setUp()
        self.real.up()
        self.start()
        self.real.answers[b"/api/tags"] = {"models": [{"name": "new"}]}

    def exchange(self, line: bytes) -> FakeResponseSink:
        """One that is answered whole."""
        method, path = line.split(b" ")
        heard = FakeResponseSink()
        self.ollama.start_request(RequestHead(method, path), heard).finish()
        self.settle()
        return heard

    def test_what_changes_models(self) -> None:
        """The list is told anew without waiting for the next look; the answer is not held back."""
        for line in (
            b"POST /api/pull",
            b"POST /api/create",
            b"POST /api/copy",
            b"DELETE /api/delete",
        ):
            self.real.answers[b"/api/tags"] = {"models": [{"name": line.decode()}]}
            self.assertEqual(self.exchange(line).outcome, "end")
            self.settle()
            self.assertEqual(self.ollama.status.models, (line.decode(),))

    def test_what_does_not(self) -> None:
        """Everything else waits for the next look."""
        for line in (b"POST /api/chat", b"POST /api/push", b"GET /api/pull"):
            self.assertEqual(self.exchange(line).outcome, "end")
        self.assertEqual(self.ollama.status.models, ("m:1", "m:2"))

    def test_many_at_once(self) -> None:
        """They are looked at together, and once more for what came while looking."""
        self.real.hangs = True
        self.real.asked.clear()
        for _ in range(50):
            self.ollama.request_poll()
            self.settle()
        self.assertEqual(len(self.real.asked), 1)
        self.real.hangs = False
        self.wait(HEALTH_TIMEOUT)
        paths = [head.path for head in self.real.asked]
        self.assertEqual(paths, [b"/api/version", b"/api/version", b"/api/tags"])
        self.assertEqual(self.ollama.status.models, ("new",))

    def test_down(self) -> None:
        """Also seen out of turn, again and again."""
        self.real.down()
        for _ in range(2):
            self.ollama.request_poll()
            self.settle()
        self.assertIs(self.ollama.status, DOWN)
        self.real.up()
        self.ollama.request_poll()
        self.settle()
        self.assertEqual(self.ollama.status.models, ("new",))

    def test_stopped(self) -> None:
        """A look under way is given up; none begins afterwards."""
        self.real.hangs = True
        self.ollama.request_poll()
        self.settle()
        self.ollama.stopService()
        self.real.asked.clear()
        self.ollama.request_poll()
        self.settle()
        self.assertEqual((self.real.asked, self.flushLoggedErrors()), ([], []))
