"""`ctllm.desktop.loopback.setup_api`: what the page's first run shows and does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import segno
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.autostart.files import AutostartFile
from ctllm.desktop.loopback.api import LoopbackApi
from ctllm.desktop.loopback.sessions import LoopbackSessions
from ctllm.desktop.loopback.setup_api import SetupApi
from ctllm.errors import BadGateway, CtllmError
from ctllm.http.server.connection import HttpServerFactory
from ctllm.ipc.messages import ConnectionState, LoginBegun, LoginEnded, ProviderChoice
from tests.unit.fakes import MemoryTransport, make_status

CLOUD = "https://cloud.example"
CODE = LoginBegun("code", code="ABCD", link="https://login.example", expires_in=600)


class FakeLogin:
    user_name = "ada"


class FakeLogins:
    """Logins that begin with `begun`, or fail with `error`."""

    def __init__(self) -> None:
        self.begun = CODE
        self.error: CtllmError | None = None
        self.waiting: Deferred[None] | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.end: Callable[[LoginEnded], None] = lambda ended: None

    async def log_in_with_invite(self, link: str) -> FakeLogin:
        self.calls.append((link,))
        if self.waiting is not None:
            await self.waiting
        if self.error is not None:
            raise self.error
        return FakeLogin()

    async def begin(
        self, cloud: str, provider: str, on_ended: Any, *, opens_browser: bool
    ) -> LoginBegun:
        self.calls.append((cloud, provider, opens_browser))
        if self.error is not None:
            raise self.error
        self.end = on_ended
        return self.begun

    def cancel(self) -> None:
        self.calls.append(())


class SetupApiTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.logins = FakeLogins()
        logins: Any = self.logins
        self.status = make_status(ConnectionState.LOGGED_OUT, reason="not logged in")
        clock = Clock()
        self.setup_api = SetupApi(lambda: self.status, logins, self.files, clock)
        sessions = LoopbackSessions(clock.seconds)
        api = LoopbackApi(sessions, dict, str, clock, None, self.setup_api.routes)
        self.token = sessions.redeem(sessions.create_code())
        self.factory = HttpServerFactory(api.handle, clock)

    def files(self) -> list[AutostartFile]:
        return [
            AutostartFile(self.folder / "unit", b"1", "", self.folder / "wants" / "unit"),
            AutostartFile(self.folder / "tray", b"2", ""),
        ]

    def send(self, line: str, body: Any = None) -> int:
        protocol = self.factory.buildProtocol(None)
        self.wire = MemoryTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 40000))
        protocol.makeConnection(self.wire)
        self.wire.protocol = protocol
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        protocol.dataReceived(head.encode() + content)
        return self.read()

    def read(self) -> int:
        """Read a response; return its status, or 0 if there is none. Set `json`."""
        head, _, text = self.wire.take_written().partition(b"\r\n\r\n")
        self.json: Any = json.loads(text) if text else None
        return int(head.split()[1]) if head else 0

    def login(self) -> Any:
        self.assertEqual(self.send("GET /ctllm/desktop/setup"), 200)
        return self.json["login"]

    def log_in(self, cloud: str = CLOUD, **more: str) -> int:
        return self.send("POST /ctllm/desktop/setup/login", {"cloud": cloud, **more})

    def test_shows_ollama_cloud_and_tray(self) -> None:
        self.assertEqual(self.send("GET /ctllm/desktop/setup"), 200)
        self.assertEqual(
            sorted(self.json), ["cloud", "login", "ollama", "system", "tray"], self.json
        )
        self.assertEqual(sorted(self.json["ollama"]), ["state", "url", "version"])
        self.assertEqual(self.json["cloud"]["state"], "signed_out")
        self.assertEqual(self.json["cloud"]["message"], "not logged in")
        self.assertIs(self.json["tray"]["autostart"], False)
        self.assertIn(self.json["system"], ("linux", "darwin", "windows"))
        self.assertIsNone(self.json["login"])

    def test_a_login_with_a_provider_shows_its_code_and_its_end(self) -> None:
        """The page shows the link: the daemon does not open another tab."""
        self.assertEqual(self.log_in(), 202)
        self.assertEqual(self.json["state"], "code")
        self.assertEqual((self.json["url"], self.json["user_code"]), (CODE.link, "ABCD"))
        self.assertEqual(self.logins.calls[-1], (CLOUD, "", False))
        self.assertEqual(self.login()["state"], "code")
        self.logins.end(LoginEnded(CLOUD, "ada"))
        self.assertEqual(self.login()["state"], "complete")
        self.assertIn("ada", self.login()["message"])

    def test_a_link_that_any_device_may_open_has_a_qr_code(self) -> None:
        """Not one that this machine has to open, nor one that is too long for a camera."""
        self.log_in()
        rows = segno.make_qr(CODE.link, error="l", boost_error=False).matrix_iter(border=4)
        expected = ["".join(str(int(bool(each))) for each in row) for row in rows]
        self.assertEqual(self.json["qr_code"], expected)
        self.assertEqual(self.login()["qr_code"], expected)
        for state, link in (("browser", CODE.link), ("code", f"{CODE.link}/{'x' * 500}")):
            self.logins.begun = LoginBegun(state, code="A", link=link)  # type: ignore[arg-type]
            self.log_in()
            self.assertEqual((self.json["url"], self.json["qr_code"]), (link, []))

    def test_a_login_that_fails_later_says_why(self) -> None:
        self.log_in()
        self.logins.end(LoginEnded(CLOUD, error="denied"))
        self.assertEqual((self.login()["state"], self.login()["message"]), ("failed", "denied"))

    def test_a_cloud_with_several_providers_lets_choose(self) -> None:
        self.logins.begun = LoginBegun("choose", (ProviderChoice("acme", "Acme"),))
        self.assertEqual(self.log_in(), 202)
        self.assertEqual(self.json["state"], "choose")
        self.assertEqual(self.json["providers"], [{"name": "acme", "title": "Acme"}])
        self.log_in(provider="acme")
        self.assertEqual(self.logins.calls[-1][1], "acme")

    def test_an_invite_link_logs_in_at_once(self) -> None:
        self.assertEqual(self.log_in(f"{CLOUD}/#invite=x"), 202)
        self.assertEqual((self.json["state"], self.login()["state"]), ("complete", "complete"))

    def test_a_login_that_cannot_begin_is_an_error(self) -> None:
        self.logins.error = BadGateway("no route")
        for cloud in (CLOUD, f"{CLOUD}/#invite=x"):
            self.assertEqual(self.log_in(cloud), 502)
            self.assertEqual(self.login()["message"], "no route")

    def test_a_link_that_is_no_web_page_is_not_shown(self) -> None:
        self.logins.begun = LoginBegun("code", code="A", link="javascript:alert(1)")
        self.assertEqual(self.log_in(), 502)
        self.assertEqual(self.login()["url"], "")

    def test_the_end_of_an_earlier_login_says_nothing(self) -> None:
        self.logins.waiting = Deferred()
        self.assertEqual(self.log_in(f"{CLOUD}/#invite=x"), 0)
        self.assertEqual(self.login()["state"], "running")
        self.log_in()
        end_first = self.logins.end
        self.log_in()
        end_first(LoginEnded(CLOUD, error="The login was cancelled."))
        self.assertEqual(self.login()["state"], "code")
        self.logins.waiting.callback(None)
        self.assertEqual(self.login()["state"], "code")

    def test_a_login_is_cancelled(self) -> None:
        self.log_in()
        self.assertEqual(self.send("DELETE /ctllm/desktop/setup/login"), 204)
        self.assertEqual(self.logins.calls[-1], ())
        self.logins.end(LoginEnded(CLOUD, error="The login was cancelled."))
        self.assertIsNone(self.login())

    def test_autostart_writes_and_removes_the_files(self) -> None:
        path = "POST /ctllm/desktop/setup/autostart"
        for _ in range(2):
            self.assertEqual(self.send(path, {"enabled": True}), 200)
            self.assertIs(self.json["autostart"], True)
        self.assertEqual((self.folder / "wants" / "unit").read_bytes(), b"1")
        for _ in range(2):
            self.assertEqual(self.send(path, {"enabled": False}), 200)
            self.assertIs(self.json["autostart"], False)
        self.assertEqual([each for each in self.folder.rglob("*") if not each.is_dir()], [])
        for body in ({"enabled": 1}, {}, {"enabled": True, "x": 1}):
            self.assertEqual(self.send(path, body), 400)
