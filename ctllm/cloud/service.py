"""The cloud's services: front door, proxies, metrics, and the sweeping of what is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService

from ctllm.cloud.admin.api import operator_listener
from ctllm.cloud.api import Api
from ctllm.cloud.audit import Audit
from ctllm.cloud.gateway import Gateway
from ctllm.cloud.identity import (
    POLL,
    PROXY_PREFIX,
    ApiKeys,
    Assertions,
    Grant,
    Identities,
    Invites,
    Issuer,
    Keys,
    Passes,
    PrivateDirectory,
    Remembered,
    Revocations,
    Sessions,
    load_keys,
    proxy_id,
)
from ctllm.cloud.in_flight import InFlight
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.revoker import Revoker
from ctllm.cloud.sign_in import SignIn
from ctllm.cloud.spawners.factory import runtime_for
from ctllm.cloud.user_limits import Shares, share_of
from ctllm.config import Cloud, Proxy, endpoint_string, public_url
from ctllm.errors import NotFound
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import RESERVED_FILES, ConnectionLimiter, max_connections
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.request_throttle import RequestThrottle
from ctllm.reactor.periodic import PeriodicService

#: Seconds between sweeps of invitations and sign-ins that are over: each reads every file.
SWEEP = 3600.0
#: A request that is served has two: the client's and one to its proxy.
SOCKETS = 2
#: A proxy that is a process has as many pipes to it.
PIPES = 3


class CloudService(MultiService):
    """A cloud. Listens before privileges are dropped; makes keys and folders after."""

    def __init__(self, reactor: Any, settings: Cloud, limits: Proxy, state: Path) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._limits = limits
        self._state = state
        self._metrics = Metrics()
        self._front: Gateway | None = None
        self._proxies: ProxyManager | None = None
        self.invites: Invites | None = None
        turnstile = RequestThrottle(reactor)
        spare = RESERVED_FILES + PIPES * settings.max_proxies
        crowd = ConnectionLimiter(max_connections(settings.max_connections, SOCKETS, spare))
        self._share = share_of(settings.max_user_requests, crowd.max_authenticated)
        factory = HttpServerFactory(
            self._answer,
            reactor,
            settings.max_request_head,
            turnstile,
            crowd,
            response_headers=self._response_headers,
        )
        self.listener = EndpointService(
            reactor, endpoint_string(settings.listen), factory, "listen"
        )
        turnstile.add_observer(self.listener.pause_accepting)
        self.listener.setServiceParent(self)
        if settings.metrics != "off":
            where = endpoint_string(settings.metrics)
            metrics = HttpServerFactory(self._scraped, reactor)
            EndpointService(reactor, where, metrics, "metrics").setServiceParent(self)

    @property
    def local_url(self) -> str:
        """The address that programs on this machine reach it by."""
        return f"http://{self.listener.authority}"

    @property
    def url(self) -> str:
        """The address that people reach this cloud by."""
        return self._settings.url or public_url("", self.listener.authority)

    def invite(self, name: str) -> str:
        """The secret of an invitation for `name`."""
        assert self.invites is not None
        return self.invites.create(name)

    def startService(self) -> None:
        """Put the parts together, then start them."""
        folder = PrivateDirectory(self._state / "cloud")
        keys = load_keys(folder)
        invites = Invites(folder.subdirectory("invites"), time.time, self._settings.invite_minutes)
        sessions = Sessions(folder.subdirectory("sessions"), time.time, self._settings.session_days)
        self.invites = invites
        self._front = self._compose(folder, keys, invites, sessions)
        folder.replace("url", self.url.encode())
        for sweep, what in ((invites.sweep, "invitations"), (sessions.sweep, "sign-ins")):
            PeriodicService(
                SWEEP, sweep, self._reactor, f"removing {what} that are over"
            ).setServiceParent(self)
        super().startService()

    def _compose(
        self, folder: PrivateDirectory, keys: Keys, invites: Invites, sessions: Sessions
    ) -> Gateway:
        revocations = Revocations(folder.subdirectory("revocations"), keys.instance)
        revocations.refresh()

        def proxy_of(grant: Grant) -> str:
            return proxy_id(keys.instance, grant.user.key)

        def check(grant: Grant) -> None:
            revocations.check(grant.user, grant.auth_time)
            sessions.check(grant.sessions)

        runtime = runtime_for(self._reactor, self._settings, self._limits, self._state, keys)
        proxies = ProxyManager(
            runtime, self._reactor, self._settings, Audit(self._state), self._metrics,
            not_before=lambda proxy: revocations.not_before(proxy.removeprefix(PROXY_PREFIX)),
        )  # fmt: skip
        proxies.setServiceParent(self)
        self._proxies = proxies
        operator = operator_listener(self._reactor, self._state, proxies)
        if operator is not None:
            operator.setServiceParent(self)
        api_keys = ApiKeys(time.time)
        assertions = Assertions(keys.signing, time.time)
        issuer = Issuer(keys.signing, time.time, self._settings.token_seconds)
        identity = Identities([api_keys, Remembered(issuer, time.time)], check)
        passes, in_flight = Passes(time.time), InFlight()
        revoker = Revoker(revocations, check, in_flight, passes, api_keys, proxies)
        PeriodicService(
            POLL, revoker.apply, self._reactor, "applying revocations"
        ).setServiceParent(self)
        sign_in = SignIn(
            issuer, invites, passes, sessions, revocations, revoker.apply, time.time,
            self._settings.session_days,
        )  # fmt: skip
        sign_in.secure = self.url.startswith("https:")
        api = Api(sign_in, api_keys, assertions, proxy_of, proxies, self._reactor)
        origins = self._settings.origins
        return Gateway(
            identity, assertions, proxy_of, proxies, api, self._metrics, origins, self._reactor,
            Shares(self._share), in_flight,
        )  # fmt: skip

    async def _answer(self, incoming: ServerRequest) -> None:
        assert self._front is not None
        await self._front(incoming)

    def _response_headers(self, head: RequestHead) -> Headers:
        return () if self._front is None else self._front.response_headers(head)

    async def _scraped(self, incoming: ServerRequest) -> None:
        if incoming.head.path != b"/metrics":
            raise NotFound("metrics are at /metrics")
        if self._proxies is not None:
            self._metrics.use(await self._proxies.usage())
        kind, body = self._metrics.render()
        incoming.respond(200, body, ((b"Content-Type", kind),))
