"""A gateway with in-memory connections and a fake proxy, for tests of the cloud's HTTP API."""

from __future__ import annotations

import math
from functools import partial
from json import dumps, loads
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import KeyRecord, generate_key, record_key
from ctllm.auth.session_assertions import ISSUER
from ctllm.cloud.access_enforcer import AccessEnforcer, AccessRules, MachineConfirmation
from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.audit import AUDIT_FILE, AuditLog
from ctllm.cloud.auth_request import AuthRequestHandler
from ctllm.cloud.browser_login.api import BrowserLogin
from ctllm.cloud.browser_login.renewals import ProviderRenewals
from ctllm.cloud.browser_login.transactions import LoginTransactions
from ctllm.cloud.connected_desktops import ConnectedDesktops
from ctllm.cloud.direct_requests import DirectRequests, GrantSealer
from ctllm.cloud.gateway import Gateway
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessGrant,
    AccessTokenIssuer,
    ApiKeyLeases,
    AssertionSigner,
    CompositeTokenVerifier,
    DisabledUsers,
    Invites,
    KnownUsers,
    LoginCodes,
    MachineRequests,
    Machines,
    PrivateDirectory,
    Revocations,
    Session,
    Sessions,
    UnconfirmedRevocations,
    User,
    proxy_id,
    user_hash,
)
from ctllm.cloud.identity.sealed_tokens import TokenSealer
from ctllm.cloud.key_api import KeyApi
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.limits.concurrency import UserLimiter
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.limits.sessions import SessionLimits
from ctllm.cloud.limits.users import Tiers, UserLimits
from ctllm.cloud.machines import MachineApi, MachineVerifier
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.origin_policy import OriginPolicy
from ctllm.cloud.proxies.manager import ProxyStatus
from ctllm.cloud.proxy_access import ProxyAccess
from ctllm.cloud.refusals import Refusals
from ctllm.cloud.request_authenticator import RequestAuthenticator
from ctllm.cloud.session_api import SessionApi
from ctllm.cloud.session_renewer import RenewedConsent, SessionRenewer
from ctllm.errors import CtllmError, ProxyUnavailable, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.message.head import RequestHead
from ctllm.http.request_log import RequestLog
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.web_ui.page_files import PageFiles
from tests.unit.fakes import FakeEndpoint, FakeUpstream, MemoryTransport

ANN = User(ISSUER, "ann", "ann")
FRIEND_ORIGIN = "https://friend.example"
ALL_SCOPES = frozenset({USE, MANAGE, SERVE})
ORIGINS = (FRIEND_ORIGIN, "http://dev.example:*", "obsidian://*")
CLOUD_URL = "https://cloud.example"
INSTANCE_SECRET = bytes(32)
#: Requests of one user.
MAX_REQUESTS = 30
BOB = User(ANN.issuer, "bob", "bob")
WEBSOCKET_HANDSHAKE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


class FakeProxy(FakeUpstream):
    """A user's streaming proxy. `pool` connects to it for upgrades."""

    unreachable_error = ProxyUnavailable

    def __init__(self) -> None:
        super().__init__()
        self.endpoint = FakeEndpoint()
        self.clock = Clock()
        self.pool = ConnectionPool(
            self.endpoint, self.clock, "your streaming proxy", ProxyUnavailable
        )

    def upgrade(self, head: RequestHead, caller: Any, switched: Any) -> Any:
        return self.pool.upgrade(head, caller, switched)


class FakeProxyManager:
    """A ProxyManager that has one FakeProxy for every id."""

    active_count = 1
    draining = False
    problem = ""

    def __init__(self) -> None:
        self.proxy = FakeProxy()
        self.new_request_flags: list[bool] = []
        self.timeouts: list[float] = []
        self.ensured: list[str] = []
        self.spawners: list[str] = []
        self.removed: list[str] = []
        self.revoked: list[str] = []
        self.state: Any = "absent"
        self.error: CtllmError | None = None
        self.start_delay: Deferred[None] | None = None
        self.address = "unix:/sockets/ann/proxy.sock"
        self.direct: dict[str, Any] = {}

    def direct_address(self, id: str) -> str:
        return self.address

    def direct_proxies(self) -> dict[str, Any]:
        return self.direct

    def direct_connections(self, id: str) -> Any:
        return self.direct.get(id)

    async def ensure_running(
        self,
        id: str,
        is_new_request: bool = True,
        spawner: str = "",
        timeout: float = math.inf,
    ) -> Any:
        self.ensured.append(id)
        self.timeouts.append(timeout)
        self.spawners.append(spawner)
        self.new_request_flags.append(is_new_request)
        if self.start_delay is not None:
            await self.start_delay
        if self.error is not None:
            raise self.error
        return self.proxy

    async def remove(self, id: str, reason: str) -> None:
        self.removed.append(id)

    def revoke(self, id: str) -> None:
        self.revoked.append(id)

    async def memory_bytes(self, id: str) -> int | None:
        return 1 << 20

    def status(self, id: str) -> ProxyStatus:
        if self.state != "running":
            return ProxyStatus(self.state)
        return ProxyStatus(self.state, since=5.0, spawner="process")

    async def health(self, id: str) -> None:
        return None


class LateAccess:
    """An AccessControl that does not see what other processes have changed since."""

    def __init__(self, enforcer: AccessEnforcer) -> None:
        self.check_user = enforcer.check_user
        self.end_access = enforcer.end_access

    def apply_new(self) -> None:
        pass


class FakeProvider:
    """A ProviderTokenVerifier that knows the tokens in `answers`; `delay` delays what it says."""

    def __init__(self) -> None:
        self.answers: dict[str, AccessGrant | CtllmError] = {}
        self.delay: Deferred[None] | None = None

    def matches(self, token: str) -> bool:
        return token.startswith("provider-")

    async def verify(self, token: str) -> AccessGrant:
        if self.delay is not None:
            await self.delay
        answer = self.answers.get(token) or Unauthorized("The provider did not issue this token.")
        if isinstance(answer, CtllmError):
            raise answer
        return answer


class FakeProviderRenewal:
    """A ProviderRenewal that gives `answers` in turn; an answer may be a Deferred of one."""

    def __init__(self) -> None:
        self.answers: list[RenewedConsent | CtllmError | Deferred[RenewedConsent]] = []
        self.asked: list[Session] = []
        self.revoked: list[Session] = []
        self.revoke_error: CtllmError | None = None

    async def revoke(self, session: Session) -> None:
        self.revoked.append(session)
        if self.revoke_error is not None:
            raise self.revoke_error

    async def renew(self, session: Session) -> RenewedConsent:
        self.asked.append(session)
        answer = self.answers.pop(0)
        if isinstance(answer, CtllmError):
            raise answer
        return await answer if isinstance(answer, Deferred) else answer


#: The page, in place of the one that is built.
PAGE = b"<!doctype html><title>page</title>"


class GatewayCase(SynchronousTestCase):
    """A gateway. `send` sends one request on a new connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        now = self.clock.seconds
        directory = PrivateDirectory(Path(self.mktemp()))
        self.key = Ed25519PrivateKey.generate()
        self.invites = Invites(directory.subdirectory("invites"), now)
        self.sessions_dir = directory.subdirectory("sessions")
        self.sessions = Sessions(self.sessions_dir, now)
        self.issuer = AccessTokenIssuer(self.key, now)
        self.revocations_dir = directory.subdirectory("revocations")
        self.revocations = Revocations(self.revocations_dir, INSTANCE_SECRET, now)
        self.users_dir = directory.subdirectory("users")
        self.known_users = KnownUsers(self.users_dir, INSTANCE_SECRET, now)
        self.disabled_dir = directory.subdirectory("disabled-users")
        self.disabled_users = DisabledUsers(self.disabled_dir, INSTANCE_SECRET, now)
        self.key_revocations_dir = directory.subdirectory("key-revocations")
        self.api_key_leases = ApiKeyLeases(
            UnconfirmedRevocations(self.key_revocations_dir, INSTANCE_SECRET, now), now
        )
        self.proxies = FakeProxyManager()
        self.metrics = Metrics()
        self.login_codes = LoginCodes(now)
        self.tiers = Tiers({}, requests_per_minute=0)
        self.attempts = AttemptLimiter(0, 0, now)
        self.audit_dir = Path(self.mktemp())
        (self.audit_dir / AUDIT_FILE).parent.mkdir(parents=True)
        self.audit = AuditLog(self.audit_dir, now, lambda id: user_hash(INSTANCE_SECRET, id))
        self.active_requests = ActiveRequests()
        self.provider = FakeProvider()
        self.provider_renewal = FakeProviderRenewal()
        self.machines_dir = directory.subdirectory("machines")
        self.machines = Machines(self.machines_dir, now)
        self.machine_requests = MachineRequests(now)
        self.client_address = "192.0.2.7"
        self.is_recovering = False
        self.page_dir = Path(self.mktemp())
        self.page_dir.mkdir()
        (self.page_dir / "index.html").write_bytes(PAGE)
        self.compose()

    def compose(
        self,
        is_https: bool = False,
        max_requests: int = MAX_REQUESTS,
        applies_revocations: bool = True,
    ) -> None:
        """Create the gateway, for a cloud with an http or https URL.

        `max_requests` limits the requests of one user. A login applies pending revocations first
        unless `applies_revocations` is False.
        """
        now = self.clock.seconds
        proxies: Any = self.proxies
        assertion_signer = AssertionSigner(self.key, now)
        self.rules = AccessRules(
            self.revocations,
            self.disabled_users,
            self.sessions,
            (
                self.machines.check_active,
                self.api_key_leases.check_active,
                MachineConfirmation(self.known_users, now, 30 * 86400).check,
            ),
        )

        def proxy_id_of(grant: AccessGrant) -> str:
            return proxy_id(INSTANCE_SECRET, grant.user.id)

        connected_desktops = ConnectedDesktops(proxies, assertion_signer, proxy_id_of, self.clock)
        guard = CredentialGuard(self.attempts, self.audit, self.metrics, now)
        self.grant_sealer = GrantSealer(TokenSealer(INSTANCE_SECRET), now)
        self.direct_requests = DirectRequests(
            self.active_requests,
            proxies,
            assertion_signer,
            self.grant_sealer,
            self.rules.check_active,
            connected_desktops.hasten_leases,
            guard.record_refused_by_proxy,
            self.clock,
        )
        self.enforcer = AccessEnforcer(
            self.rules,
            self.active_requests,
            self.login_codes,
            self.api_key_leases,
            self.direct_requests.revoke,
            INSTANCE_SECRET,
            now,
            self.issuer.lifetime,
        )
        user_limits = UserLimits(self.tiers, UserLimiter(max_requests), now)
        session_limits = SessionLimits(guard, user_limits, partial(proxy_id, INSTANCE_SECRET))
        self.session_api = SessionApi(
            self.issuer,
            self.invites,
            self.login_codes,
            self.sessions,
            SessionRenewer(
                self.sessions,
                self.enforcer,
                self.provider,
                self.provider_renewal,
                now,
                self.known_users.confirm,
            ),
            self.enforcer if applies_revocations else LateAccess(self.enforcer),
            self.known_users,
            self.audit,
            session_limits,
            now,
            session_days=30,
            url="https://cloud.example" if is_https else "http://cloud.example",
        )

        def end_inactive(grant: AccessGrant) -> object:
            return self.active_requests.abort_of_proxy(proxy_id_of(grant), self.rules.check_active)

        self.api_key_leases.add_observer(end_inactive)
        browser_login = BrowserLogin(
            {},
            LoginTransactions(INSTANCE_SECRET, now),
            ProviderRenewals({}, TokenSealer(INSTANCE_SECRET), now),
            self.session_api,
            self.enforcer,
            AuditLog(),
            self.attempts,
            "https://cloud.example" if is_https else "http://cloud.example",
        )
        machine_api = MachineApi(
            self.machines,
            self.machine_requests,
            self.audit,
            self.rules.check_active,
            end_inactive,
            now,
            self.clock,
        )
        key_api = KeyApi(
            self.api_key_leases,
            connected_desktops,
            self.audit,
            self.rules.check_active,
            session_limits.admit_credential,
            now,
            self.clock,
        )
        api = ManagementApi(
            self.session_api,
            browser_login,
            self.api_key_leases,
            assertion_signer,
            proxy_id_of,
            proxies,
            machine_api,
            key_api,
            connected_desktops,
            self.tiers,
            self.clock,
        )
        authenticator = RequestAuthenticator(
            CompositeTokenVerifier(
                [self.api_key_leases, self.issuer, self.provider],
                self.rules.check_active,
                self.known_users.record,
            ),
            MachineVerifier(
                self.machines,
                self.machine_requests,
                self.rules.check_active,
                self.audit,
                CLOUD_URL,
                now,
            ),
            self.api_key_leases,
            guard,
            self.clock,
            lambda: self.is_recovering,
        )
        proxy_access = ProxyAccess(
            proxies, assertion_signer, proxy_id_of, user_limits, self.rules.check_active
        )
        origin_policy, page_files = OriginPolicy(ORIGINS), PageFiles(self.page_dir)
        refusals = Refusals(now)
        request_log = RequestLog(self.clock, is_enabled=True)
        gateway = Gateway(
            authenticator,
            proxy_access,
            api,
            self.metrics,
            origin_policy,
            self.clock,
            user_limits,
            guard,
            self.active_requests,
            self.direct_requests,
            page_files,
            refusals,
            request_log,
        )
        auth_request = AuthRequestHandler(
            authenticator,
            proxy_access,
            origin_policy,
            user_limits,
            self.direct_requests,
            refusals,
            page_files,
            request_log,
            self.clock,
        )
        self.auth_request_factory = HttpServerFactory(
            auth_request,
            self.clock,
            client_address_of=lambda peer, head: self.client_address,
        )
        self.connection_limiter = ConnectionLimiter(400)
        self.factory = HttpServerFactory(
            gateway,
            self.clock,
            connection_limiter=self.connection_limiter,
            response_headers=gateway.response_headers,
            client_address_of=lambda peer, head: self.client_address,
        )
        self.transport = self.connect()

    def connect(self) -> MemoryTransport:
        protocol, transport = self.factory.buildProtocol(None), MemoryTransport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def token(self, scopes: frozenset[str] = ALL_SCOPES) -> str:
        return self.issuer.issue(ANN, scopes)

    def send(self, line: str, body: Any = None, **headers: str) -> int:
        """Send a request on a new connection and return the status of the response, or 0.

        `head`, `body` and `json` have the response. Underscores in `headers` become hyphens.
        """
        self.transport = self.connect()
        named = {"Host": "cloud.example", **headers}
        raw = b""
        if body is not None:
            raw = body if isinstance(body, bytes) else dumps(body).encode()
            named = {"Content_Type": "application/json", **named, "Content_Length": str(len(raw))}
        lines = [f"{line} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        self.transport.protocol.dataReceived("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
        return self.read_status()

    def read_status(self) -> int:
        """Read the response on the last connection; return its status, or 0 if there is none."""
        self.head, _, self.body = self.transport.take_written().partition(b"\r\n\r\n")
        return int(self.head.split(b" ")[1]) if self.head else 0

    def header(self, name: str) -> str | None:
        for line in self.head.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        return None

    @property
    def json(self) -> Any:
        return loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def relayed_heads(self) -> list[Any]:
        return self.proxies.proxy.heads

    def lease_key(self, token: str = "", desktop: str = "a" * 32, **options: Any) -> str:
        """Lease a new API key of ANN as a desktop does; return the key."""
        key = generate_key(ANN.id)
        self.assertEqual(self.lease_records([record_key(key, **options)], token, desktop), 200)
        return key

    def lease_records(
        self, records: list[KeyRecord], token: str = "", desktop: str = "a" * 32
    ) -> int:
        """Lease these records; return the status."""
        body = msgspec.json.encode({"keys": records, "seconds": 60})
        bearer = f"Bearer {token or self.token()}"
        return self.send(f"PUT /ctllm/desktops/{desktop}/keys", body, Authorization=bearer)

    def user_hash_of(self, user: User) -> str:
        return user_hash(INSTANCE_SECRET, user.id)

    def bearer(self, scopes: frozenset[str] = ALL_SCOPES) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(scopes)}"}
