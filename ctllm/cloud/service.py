"""The cloud's services: front door, proxies, metrics, and the sweeping of what is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.admin.api import admin_service
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.gateway import Gateway
from ctllm.cloud.identity import (
    POLL_INTERVAL,
    PROXY_PREFIX,
    AccessGrant,
    AccessTokenIssuer,
    ApiKeyLeases,
    AssertionSigner,
    CachingTokenVerifier,
    CompositeTokenVerifier,
    Invites,
    LoginCodes,
    PrivateDirectory,
    Revocations,
    Sessions,
    SigningKeys,
    load_signing_keys,
    proxy_id,
)
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.revocation_enforcer import RevocationEnforcer
from ctllm.cloud.session_api import SessionApi
from ctllm.cloud.spawners.factory import create_spawner
from ctllm.cloud.user_limits import UserLimiter, max_requests_per_user
from ctllm.config import Cloud, Proxy, resolve_public_url, to_endpoint_string
from ctllm.errors import NotFound
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import RESERVED_FILES, ConnectionLimiter, max_connections
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.request_throttle import RequestThrottle
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService

#: Seconds between sweeps of invitations and sign-ins that are over: each reads every file.
CLEANUP_INTERVAL = 3600.0
#: A request that is served has two: the client's and one to its proxy.
FILES_PER_REQUEST = 2
#: A proxy that is a process has as many pipes to it.
FILES_PER_PROXY = 3


class CloudService(MultiService):
    """A cloud. Listens before privileges are dropped; makes keys and folders after."""

    def __init__(self, reactor: Any, settings: Cloud, limits: Proxy, state: Path) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._limits = limits
        self._state = state
        self._metrics = Metrics()
        self._gateway: Gateway | None = None
        self._proxies: ProxyManager | None = None
        self.invites: Invites | None = None
        turnstile = RequestThrottle(reactor)
        spare = RESERVED_FILES + FILES_PER_PROXY * settings.max_proxies
        crowd = ConnectionLimiter(
            max_connections(settings.max_connections, FILES_PER_REQUEST, spare)
        )
        self._max_requests_per_user = max_requests_per_user(
            settings.max_requests_per_user, crowd.max_authenticated
        )
        factory = HttpServerFactory(
            self._handle_request,
            reactor,
            settings.max_request_head_bytes,
            turnstile,
            crowd,
            response_headers=self._response_headers,
        )
        self.listener = EndpointService(
            reactor, to_endpoint_string(settings.listen), factory, "listen"
        )
        turnstile.add_observer(self.listener.pause_accepting)
        self.listener.setServiceParent(self)
        if settings.metrics_listen != "off":
            where = to_endpoint_string(settings.metrics_listen)
            metrics = HttpServerFactory(self._handle_scrape, reactor)
            EndpointService(reactor, where, metrics, "metrics").setServiceParent(self)

    @property
    def local_url(self) -> str:
        """The address that programs on this machine reach it by."""
        return f"http://{self.listener.authority}"

    @property
    def url(self) -> str:
        """The address that people reach this cloud by."""
        return self._settings.public_url or resolve_public_url("", self.listener.authority)

    def create_invite(self, name: str) -> str:
        """The secret of an invitation for `name`."""
        assert self.invites is not None
        return self.invites.create(name)

    def startService(self) -> None:
        """Put the parts together, then start them."""
        folder = PrivateDirectory(self._state / "cloud")
        keys = load_signing_keys(folder)
        invites = Invites(
            folder.subdirectory("invites"), time.time, self._settings.invite_ttl_minutes
        )
        sessions = Sessions(
            folder.subdirectory("sessions"), time.time, self._settings.session_ttl_days
        )
        self.invites = invites
        self._gateway = self._compose(folder, keys, invites, sessions)
        folder.replace("url", self.url.encode())
        for sweep, what in (
            (invites.remove_expired, "invitations"),
            (sessions.remove_expired, "sign-ins"),
        ):
            PeriodicService(
                CLEANUP_INTERVAL, sweep, self._reactor, f"removing {what} that are over"
            ).setServiceParent(self)
        super().startService()

    def _compose(
        self, folder: PrivateDirectory, keys: SigningKeys, invites: Invites, sessions: Sessions
    ) -> Gateway:
        revocations = Revocations(folder.subdirectory("revocations"), keys.instance_secret)
        revocations.read_changes()

        def proxy_of(grant: AccessGrant) -> str:
            return proxy_id(keys.instance_secret, grant.user.id)

        def check(grant: AccessGrant) -> None:
            revocations.check(grant.user, grant.auth_time)
            sessions.check_active(grant.session_ids)

        runtime = create_spawner(self._reactor, self._settings, self._limits, self._state, keys)
        proxies = ProxyManager(
            runtime, self._reactor, self._settings, AuditLog(self._state), self._metrics,
            revocation_time=lambda proxy: revocations.not_before(proxy.removeprefix(PROXY_PREFIX)),
        )  # fmt: skip
        proxies.setServiceParent(self)
        self._proxies = proxies
        operator = admin_service(self._reactor, self._state, proxies)
        if operator is not None:
            operator.setServiceParent(self)
        api_keys = ApiKeyLeases(time.time)
        assertions = AssertionSigner(keys.signing_key, time.time)
        issuer = AccessTokenIssuer(
            keys.signing_key, time.time, self._settings.access_token_ttl_seconds
        )
        identity = CompositeTokenVerifier(
            [api_keys, CachingTokenVerifier(issuer, time.time)], check
        )
        passes, in_flight = LoginCodes(time.time), ActiveRequests()
        revoker = RevocationEnforcer(revocations, check, in_flight, passes, api_keys, proxies)
        PeriodicService(
            POLL_INTERVAL, revoker.apply_new, self._reactor, "applying revocations"
        ).setServiceParent(self)
        sign_in = SessionApi(
            issuer, invites, passes, sessions, revocations, revoker.apply_new, time.time,
            self._settings.session_ttl_days,
        )  # fmt: skip
        sign_in.secure = self.url.startswith("https:")
        api = ManagementApi(sign_in, api_keys, assertions, proxy_of, proxies, self._reactor)
        origins = self._settings.cors_origins
        return Gateway(
            identity, assertions, proxy_of, proxies, api, self._metrics, origins, self._reactor,
            UserLimiter(self._max_requests_per_user), in_flight,
        )  # fmt: skip

    async def _handle_request(self, incoming: ServerRequest) -> None:
        assert self._gateway is not None
        await self._gateway(incoming)

    def _response_headers(self, head: RequestHead) -> Headers:
        return () if self._gateway is None else self._gateway.response_headers(head)

    async def _handle_scrape(self, incoming: ServerRequest) -> None:
        if incoming.head.path != b"/metrics":
            raise NotFound("metrics are at /metrics")
        if self._proxies is not None:
            self._metrics.update_usage(await self._proxies.resource_usage())
        kind, body = self._metrics.render_text()
        incoming.respond(200, body, ((b"Content-Type", kind),))
