"""What a desktop knows of the user's others: who is there, and what is wrong if nobody is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.remote_desktops import IDLE_INTERVAL, WATCHED_INTERVAL, RemoteDesktops
from ctllm.desktop.credential_file import Credentials, Login
from ctllm.errors import Forbidden, Unauthorized
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import FakeResponseSink, ServedEndpoint


class Session:
    """A sign-in; `refusal` is what comes of asking for a token."""

    def __init__(self) -> None:
        self.kept = Login("http://cloud.example", "u", "ann", "r")
        self.refusal: Exception | None = None
        self.signed_in = True
        self.distrusted = 0

    @property
    def credentials(self) -> Credentials:
        return Credentials("d" * 32, self.kept if self.signed_in else None)

    @property
    def login(self) -> Login:
        if not self.signed_in:
            raise Unauthorized("signed out")
        return self.kept

    async def access_token(self, scope: str = "") -> str:
        if self.refusal is not None:
            raise self.refusal
        return f"token-{scope}" if scope else "token"

    def discard_tokens(self) -> None:
        self.distrusted += 1


class ElsewhereTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.served = ServedEndpoint(self.cloud, self.clock)
        self.session = Session()
        self.wanted = True
        self.asked: list[Any] = []
        self.status, self.body = 200, self.listed(("d", "up", "mine"), ("e", "up", "qwen3"))
        self.elsewhere = RemoteDesktops(
            self.session, self.clock, lambda: self.wanted, lambda url: self.served
        )  # type: ignore
        self.changes = 0
        self.elsewhere.add_observer(self.changed)

    def changed(self) -> None:
        self.changes += 1

    def listed(self, *desktops: tuple[str, str, str]) -> Any:
        return {
            "desktops": [
                {"id": id * 32, "name": id, "ollama": state, "models": [model], "since": 1.5}
                for id, state, model in desktops
            ]
        }

    async def cloud(self, incoming: ServerRequest) -> None:
        self.asked.append(incoming.head)
        incoming.respond(self.status, self.body)

    def start(self) -> None:
        self.elsewhere.startService()
        self.addCleanup(self.elsewhere.stopService)
        self.served.flush()

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.served.flush()

    def test_who_is_there(self) -> None:
        self.start()
        self.assertTrue(self.elsewhere.is_up)
        self.assertEqual([each.name for each in self.elsewhere.others], ["e"])
        self.assertTrue(self.elsewhere.has_model("qwen3:latest"))
        self.assertFalse(self.elsewhere.has_model("mine"), "that is this machine's own")
        head = self.asked[0]
        self.assertEqual(head.target, b"/ctllm/desktops")
        self.assertEqual(get_header(head.headers, b"authorization"), b"Bearer token")
        self.assertEqual(get_header(head.headers, b"ctllm-exclude-desktop"), b"d" * 32)

    def test_what_apps_ask(self) -> None:
        """Ollama's API and nothing else, with a token that is for that alone."""
        way = self.successResultOf(Deferred.fromCoroutine(self.elsewhere.upstream()))
        for line in (
            "GET /ctllm/desktops", "GET /ctllm/session", "POST /ctllm/session/token", "GET /health",
            "GET /ws/tunnel", "GET /", "DELETE /api/delete", "POST /api/future", "POST /api/me",
        ):  # fmt: skip
            method, target = line.encode().split(b" ")
            self.assertRaises(
                Forbidden, way.start_request, RequestHead(method, target), FakeResponseSink()
            )
        self.assertEqual(self.asked, [])
        way.start_request(RequestHead(b"GET", b"/api/tags"), FakeResponseSink()).finish()
        self.served.flush()
        (head,) = self.asked
        self.assertEqual(get_header(head.headers, b"authorization"), b"Bearer token-use")

    def test_only_what_can_answer(self) -> None:
        for others in ((), (("e", "down", "x"),), (("e", "demo", "x"),)):
            self.body = self.listed(("d", "up", "mine"), *others)
            self.start()
            self.assertFalse(self.elsewhere.is_up)
            self.assertFalse(self.elsewhere.has_model("x"))
            self.elsewhere.stopService()
            self.setUp()

    def test_news(self) -> None:
        """Each change once, however often it is looked."""
        self.start()
        self.wait(10)
        self.assertEqual(self.changes, 1)
        self.body = self.listed(("d", "up", "mine"))
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual((self.changes, self.elsewhere.is_up), (2, False))

    def test_how_often(self) -> None:
        """Less where nobody would notice; connections are used again."""
        self.wanted = False
        self.start()
        self.wait(int(IDLE_INTERVAL) * 2)
        self.assertEqual(len(self.asked), 3)
        self.wanted = True
        self.wait(int(WATCHED_INTERVAL) * 5)
        self.assertEqual(len(self.asked), 8)
        self.assertLess(len(self.served.pumps), 4)
        self.wanted = False
        self.elsewhere.poll_now()
        self.served.flush()
        self.assertEqual(len(self.asked), 9)

    def test_trouble(self) -> None:
        """Whatever is the matter is said, nobody is there, and it heals."""
        cases: list[tuple[int, Any, str]] = [
            (401, {}, "login"), (503, {}, "status 503"), (200, {"x": 1}, "not a ctllm cloud"),
        ]  # fmt: skip
        self.start()
        for status, body, said in cases:
            self.status, self.body = status, body
            self.wait(int(WATCHED_INTERVAL))
            self.assertIn(said, self.elsewhere.error)
            self.assertFalse(self.elsewhere.is_up)
        self.assertEqual(self.session.distrusted, 1)
        self.status, self.body = 200, self.listed(("e", "up", "x"))
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual((self.elsewhere.error, self.elsewhere.is_up), ("", True))

    def test_signed_out(self) -> None:
        self.start()
        self.session.signed_in = False
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual((self.elsewhere.is_up, self.elsewhere.error), (False, "signed out"))
        self.assertFalse(self.elsewhere.is_logged_in)

    def test_another_cloud(self) -> None:
        """Nothing is asked of the one before."""
        self.start()
        self.session.kept = msgspec.structs.replace(self.session.kept, cloud_url="http://b.example")
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual(get_header(self.asked[-1].headers, b"host"), b"b.example")
        self.assertEqual(len(self.served.pumps), 2)

    def test_stopped(self) -> None:
        self.start()
        self.elsewhere.stopService()
        for pump in self.served.pumps:
            pump.flush()
        self.clock.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_bug_is_logged(self) -> None:
        """And it is looked again."""
        self.session.refusal = ZeroDivisionError()
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.session.refusal = None
        self.wait(int(WATCHED_INTERVAL))
        self.assertTrue(self.elsewhere.is_up)

    def test_names_that_would_steer(self) -> None:
        """What a cloud calls desktops and models ends up on screens."""
        names = ("good", "ba\x1bd", "ba\nd", "\u202ebad", "x" * 5000)
        listed = [
            {"id": f"d{n}\x9b", "name": name, "ollama": name, "models": list(names)}
            for n, name in enumerate(names)
        ]
        self.body = json.dumps({"desktops": listed}).encode()
        self.start()
        self.assertEqual(len(self.elsewhere.desktops), len(names))
        for desktop in self.elsewhere.desktops:
            self.assertTrue((desktop.id + desktop.name).isprintable())
            self.assertLessEqual(len(desktop.name), 256)
            self.assertEqual((desktop.ollama, desktop.models), ("down", ("good",)))
