"""A fake provider, and a server with nothing but the two URLs of a sign-in."""

from __future__ import annotations

from dataclasses import replace
from json import loads
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit import AUDIT_FILE, AuditLog
from ctllm.cloud.browser_login.api import CALLBACK_PATH, LOGIN_PATH, BrowserLogin
from ctllm.cloud.browser_login.interfaces import LoginProvider, ProviderLogin
from ctllm.cloud.browser_login.messages import Callback
from ctllm.cloud.browser_login.renewals import ProviderRenewals
from ctllm.cloud.browser_login.transactions import LoginTransaction, LoginTransactions
from ctllm.cloud.identity import MANAGE, USE, AccessGrant, User
from ctllm.cloud.identity.sealed_tokens import TokenSealer
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.errors import CtllmError
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import MemoryTransport

#: Failed attempts of an address in a minute.
MAX_ATTEMPTS = 10
NOW = 1_700_000_000.0
ADA = User("https://idp.example/", "ada", "Ada")
GRANT = AccessGrant(ADA, frozenset((USE, MANAGE)), expires_at=NOW + 86400, auth_time=NOW)
SECRET = bytes(range(32))
NAVIGATION = {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Dest": "document"}


class FakeProvider:
    """A provider whose code is `code`. `error` is raised by every call."""

    def __init__(self) -> None:
        self.login = ProviderLogin(GRANT, "refresh-1")
        self.error: CtllmError | None = None
        self.redeemed: list[LoginTransaction] = []
        self.refreshed: list[str] = []
        self.revoked: list[str] = []
        self.delay: Deferred[None] | None = None

    async def authorization_url(self, transaction: LoginTransaction, fresh: bool) -> str:
        await self._answer()
        return f"https://idp.example/authorize?state={transaction.state}&fresh={fresh}"

    async def redeem(self, transaction: LoginTransaction, callback: Callback) -> ProviderLogin:
        self.redeemed.append(transaction)
        await self._answer()
        return self.login

    async def refresh(self, refresh_token: str) -> ProviderLogin:
        self.refreshed.append(refresh_token)
        await self._answer()
        return replace(self.login, refresh_token=f"refresh-{len(self.refreshed) + 1}")

    async def revoke(self, refresh_token: str) -> None:
        self.revoked.append(refresh_token)
        await self._answer()

    async def _answer(self) -> None:
        if self.delay is not None:
            await self.delay
        if self.error is not None:
            raise self.error


class FakeSessions:
    """Creates sessions. `error` is raised instead."""

    def __init__(self) -> None:
        self.ended: list[User] = []
        self.created: list[tuple[AccessGrant, str]] = []
        self.error: CtllmError | None = None

    def check_user(self, user: User, auth_time: float) -> None:
        """Everybody has access."""

    def end_access(self, user: User) -> None:
        self.ended.append(user)

    def create_browser_session(
        self, head: RequestHead, grant: AccessGrant, sealed_refresh: str, ask_at: float
    ) -> Headers:
        if self.error is not None:
            raise self.error
        self.created.append((grant, sealed_refresh))
        return ((b"Set-Cookie", b"session=1"),)


class LoginCase(SynchronousTestCase):
    """A server at https://cloud.example with the provider `corp`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.provider, self.sessions = FakeProvider(), FakeSessions()
        self.providers: dict[str, LoginProvider] = {"corp": self.provider}
        self.transactions = LoginTransactions(SECRET, self.clock.seconds)
        self.renewals = ProviderRenewals(self.providers, TokenSealer(SECRET), self.clock.seconds)
        self.state_dir = Path(self.mktemp())
        (self.state_dir / AUDIT_FILE).parent.mkdir(parents=True)
        self.compose()

    def audit_lines(self) -> list[dict[str, str]]:
        """Return what was recorded, without the times."""
        lines = [loads(each) for each in (self.state_dir / AUDIT_FILE).read_text().splitlines()]
        return [{key: each[key] for key in each if key != "time"} for each in lines]

    def compose(self, url: str = "https://cloud.example", max_asking: int = 3) -> None:
        login = BrowserLogin(
            self.providers,
            self.transactions,
            self.renewals,
            self.sessions,
            self.sessions,
            AuditLog(self.state_dir, self.clock.seconds, lambda user_id: f"hash-of-{user_id}"),
            AttemptLimiter(MAX_ATTEMPTS, MAX_ATTEMPTS, self.clock.seconds),
            url,
            max_asking,
        )

        async def handle(request: ServerRequest) -> None:
            path = request.head.path.decode()
            await {LOGIN_PATH: login.begin, CALLBACK_PATH: login.finish}[path](request)

        self.factory = HttpServerFactory(handle, self.clock)

    def get(self, target: str, **headers: str) -> str:
        """Send a request; `head` has the response. Return where it redirects to."""
        self.protocol, self.transport = self.factory.buildProtocol(None), MemoryTransport()
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        named = {"Host": "cloud.example", **NAVIGATION, **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        raw = "\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""])
        self.protocol.dataReceived(raw.encode())
        return self.read()

    def read(self) -> str:
        """Read the last response; return where it redirects to, or nothing without one."""
        self.head = self.transport.take_written().decode()
        return self.header("location") or ""

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        return None

    def begin(self, **headers: str) -> tuple[str, str]:
        """Begin a sign-in; return its state and the browser's cookie."""
        location = self.get("/ctllm/login?provider=corp", **headers)
        state = parse_qs(urlsplit(location).query)["state"][0]
        return state, (self.header("set-cookie") or "").partition(";")[0]

    def finish(self, state: str, cookie: str, query: str = "code=code", **headers: str) -> str:
        """Follow the provider's redirect; return where the cloud redirects to."""
        target = f"/ctllm/callback?{query}&state={state}"
        cookies = {"Cookie": cookie} if cookie else {}
        return self.get(target, **{**cookies, "Sec_Fetch_Site": "cross-site", **headers})
