"""`ctllm.desktop.broker.remote_desktops`: the list of other desktops, and the upstream to them."""

from __future__ import annotations

import json
from typing import Any, cast

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


class FakeSession:
    """A session of this desktop; `error` is raised instead of returning a token."""

    def __init__(self) -> None:
        self.stored_login = Login("http://cloud.example", "u", "ann", "r")
        self.error: Exception | None = None
        self.has_login = True
        self.discarded = 0

    @property
    def credentials(self) -> Credentials:
        return Credentials("d" * 32, self.stored_login if self.has_login else None)

    @property
    def login(self) -> Login:
        if not self.has_login:
            raise Unauthorized("Logged out.")
        return self.stored_login

    async def access_token(self, scope: str = "") -> str:
        if self.error is not None:
            raise self.error
        return f"token-{scope}" if scope else "token"

    def discard_tokens(self) -> None:
        self.discarded += 1


class RemoteDesktopsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = ServedEndpoint(self.cloud, self.clock)
        self.session = FakeSession()
        self.is_watched = True
        self.heads: list[Any] = []
        self.status, self.body = 200, self.desktop_list(("d", "up", "mine"), ("e", "up", "qwen3"))
        self.remote_desktops = RemoteDesktops(
            cast(Any, self.session), self.clock, lambda: self.is_watched, lambda url: self.endpoint
        )
        self.changes = 0
        self.remote_desktops.add_observer(self.changed)

    def changed(self) -> None:
        self.changes += 1

    def desktop_list(self, *desktops: tuple[str, str, str]) -> Any:
        return {
            "desktops": [
                {"id": id * 32, "name": id, "ollama": state, "models": [model], "since": 1.5}
                for id, state, model in desktops
            ]
        }

    async def cloud(self, request: ServerRequest) -> None:
        self.heads.append(request.head)
        request.respond(self.status, self.body)

    def start(self) -> None:
        self.remote_desktops.startService()
        self.addCleanup(self.remote_desktops.stopService)
        self.endpoint.flush()

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.endpoint.flush()

    def test_lists_the_other_desktops_and_their_models(self) -> None:
        self.start()
        self.assertTrue(self.remote_desktops.is_up)
        self.assertEqual([each.name for each in self.remote_desktops.others], ["e"])
        self.assertTrue(self.remote_desktops.has_model("qwen3:latest"))
        self.assertFalse(self.remote_desktops.has_model("mine"), "that is this machine's own")
        head = self.heads[0]
        self.assertEqual(head.target, b"/ctllm/desktops")
        self.assertEqual(get_header(head.headers, b"authorization"), b"Bearer token")
        self.assertEqual(get_header(head.headers, b"ctllm-exclude-desktop"), b"d" * 32)

    def test_upstream_for_apps_takes_requests_of_ollamas_api_only(self) -> None:
        way = self.successResultOf(Deferred.fromCoroutine(self.remote_desktops.upstream()))
        for line in (
            "GET /ctllm/desktops", "GET /ctllm/session", "POST /ctllm/session/token", "GET /health",
            "GET /ws/tunnel", "GET /", "DELETE /api/delete", "POST /api/future", "POST /api/me",
        ):  # fmt: skip
            method, target = line.encode().split(b" ")
            self.assertRaises(
                Forbidden, way.start_request, RequestHead(method, target), FakeResponseSink()
            )
        self.assertEqual(self.heads, [])
        way.start_request(RequestHead(b"GET", b"/api/tags"), FakeResponseSink()).finish()
        self.endpoint.flush()
        (head,) = self.heads
        self.assertEqual(get_header(head.headers, b"authorization"), b"Bearer token-use")

    def test_desktops_without_ollama_are_not_up(self) -> None:
        for others in ((), (("e", "down", "x"),), (("e", "demo", "x"),)):
            self.body = self.desktop_list(("d", "up", "mine"), *others)
            self.start()
            self.assertFalse(self.remote_desktops.is_up)
            self.assertFalse(self.remote_desktops.has_model("x"))
            self.remote_desktops.stopService()
            self.setUp()

    def test_observers_are_called_once_for_each_change(self) -> None:
        self.start()
        self.wait(10)
        self.assertEqual(self.changes, 1)
        self.body = self.desktop_list(("d", "up", "mine"))
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual((self.changes, self.remote_desktops.is_up), (2, False))

    def test_polls_seldom_unless_watched(self) -> None:
        self.is_watched = False
        self.start()
        self.wait(int(IDLE_INTERVAL) * 2)
        self.assertEqual(len(self.heads), 3)
        self.is_watched = True
        self.wait(int(WATCHED_INTERVAL) * 5)
        self.assertEqual(len(self.heads), 8)
        self.assertLess(len(self.endpoint.pumps), 4)
        self.is_watched = False
        self.remote_desktops.poll_now()
        self.endpoint.flush()
        self.assertEqual(len(self.heads), 9)

    def test_failed_poll_leaves_an_error_until_one_succeeds(self) -> None:
        cases: list[tuple[int, Any, str]] = [
            (401, {}, "login"), (503, {}, "status 503"), (200, {"x": 1}, "not a ctllm cloud"),
        ]  # fmt: skip
        self.start()
        for status, body, text in cases:
            self.status, self.body = status, body
            self.wait(int(WATCHED_INTERVAL))
            self.assertIn(text, self.remote_desktops.error)
            self.assertFalse(self.remote_desktops.is_up)
        self.assertEqual(self.session.discarded, 1)
        self.status, self.body = 200, self.desktop_list(("e", "up", "x"))
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual((self.remote_desktops.error, self.remote_desktops.is_up), ("", True))

    def test_logged_out_desktop_has_no_others(self) -> None:
        self.start()
        self.session.has_login = False
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual(
            (self.remote_desktops.is_up, self.remote_desktops.error), (False, "Logged out.")
        )
        self.assertFalse(self.remote_desktops.is_logged_in)

    def test_another_login_uses_another_connection(self) -> None:
        self.start()
        self.session.stored_login = msgspec.structs.replace(
            self.session.stored_login, cloud_url="http://b.example"
        )
        self.wait(int(WATCHED_INTERVAL))
        self.assertEqual(get_header(self.heads[-1].headers, b"host"), b"b.example")
        self.assertEqual(len(self.endpoint.pumps), 2)

    def test_stopped_service_does_not_poll(self) -> None:
        self.start()
        self.remote_desktops.stopService()
        for pump in self.endpoint.pumps:
            pump.flush()
        self.clock.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_exception_in_a_poll_is_logged_and_polling_continues(self) -> None:
        self.session.error = ZeroDivisionError()
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.session.error = None
        self.wait(int(WATCHED_INTERVAL))
        self.assertTrue(self.remote_desktops.is_up)

    def test_names_are_sanitized(self) -> None:
        names = ("good", "ba\x1bd", "ba\nd", "\u202ebad", "x" * 5000)
        desktops = [
            {"id": f"d{n}\x9b", "name": name, "ollama": name, "models": list(names)}
            for n, name in enumerate(names)
        ]
        self.body = json.dumps({"desktops": desktops}).encode()
        self.start()
        self.assertEqual(len(self.remote_desktops.desktops), len(names))
        for desktop in self.remote_desktops.desktops:
            self.assertTrue((desktop.id + desktop.name).isprintable())
            self.assertLessEqual(len(desktop.name), 256)
            self.assertEqual((desktop.ollama, desktop.models), ("down", ("good",)))
