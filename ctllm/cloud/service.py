"""The cloud as a Twisted service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.logger import Logger

from ctllm.cloud.application import CloudApplication
from ctllm.cloud.limits.concurrency import UserLimiter, max_requests_per_user
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.spawners.factory import find_low_kernel_limits
from ctllm.config import Cloud, Proxy, resolve_public_url, to_endpoint_string
from ctllm.errors import NotFound
from ctllm.http.client_address import UNIX, TrustedProxies
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.server.burst_limiter import RequestThrottle
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import RESERVED_FILES, ConnectionLimiter, max_connections
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.services import MultiService

#: File descriptors of a relayed request: the client's connection and the one to the proxy.
FILES_PER_REQUEST = 2
#: File descriptors of a proxy that is a child process: its pipes.
FILES_PER_PROXY = 3


class CloudService(MultiService):
    """Listens for requests and metrics scrapes, and runs a CloudApplication.

    The ports are opened before privileges are dropped, the application is created after.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, settings: Cloud, proxy_settings: Proxy, state_dir: Path
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._proxy_settings = proxy_settings
        self._state_dir = state_dir
        self._metrics = Metrics()
        self._metrics.set_configuration(
            settings.max_proxies, proxy_settings.max_memory_bytes, settings.providers
        )
        self._application: CloudApplication | None = None
        reserved_files = RESERVED_FILES + FILES_PER_PROXY * settings.max_proxies
        connection_limiter = ConnectionLimiter(
            max_connections(settings.max_connections, FILES_PER_REQUEST, reserved_files)
        )
        self._request_limiter = UserLimiter(
            max_requests_per_user(
                settings.max_requests_per_user, connection_limiter.max_authenticated
            )
        )
        throttle = RequestThrottle(reactor)
        factory = HttpServerFactory(
            self._handle_request,
            reactor,
            settings.max_request_head_bytes,
            throttle,
            connection_limiter,
            response_headers=self._response_headers,
            client_address_of=TrustedProxies(settings.trusted_proxies).client_address,
        )
        self.listener = EndpointService(
            reactor, to_endpoint_string(settings.listen), factory, "listen"
        )
        throttle.add_observer(self.listener.pause_accepting)
        self.listener.setServiceParent(self)
        if settings.auth_request_listen != "off":
            EndpointService(
                reactor,
                to_endpoint_string(settings.auth_request_listen),
                HttpServerFactory(
                    self._handle_auth_request,
                    reactor,
                    settings.max_request_head_bytes,
                    throttle,
                    client_address_of=TrustedProxies((UNIX,)).client_address,
                ),
                "auth-request-listen",
            ).setServiceParent(self)
        if settings.metrics_listen != "off":
            EndpointService(
                reactor,
                to_endpoint_string(settings.metrics_listen),
                HttpServerFactory(self._handle_scrape, reactor),
                "metrics-listen",
            ).setServiceParent(self)

    @property
    def local_url(self) -> str:
        """The URL of the cloud for programs on this machine."""
        return f"http://{self.listener.authority}"

    @property
    def url(self) -> str:
        """The public URL of the cloud."""
        return self._settings.public_url or resolve_public_url("", self.listener.authority)

    def create_invite(self, name: str) -> str:
        """Return the secret of a new invite for the user `name`. The service must run."""
        assert self._application is not None
        return self._application.invites.create(name)

    def startService(self) -> None:
        """Create the application, and start it and the listeners."""
        self._application = CloudApplication(
            self._reactor,
            self._settings,
            self._proxy_settings,
            self._state_dir,
            self.url,
            self._metrics,
            self._request_limiter,
        )
        self._application.setServiceParent(self)
        self._warn_about_kernel_limits()
        super().startService()

    def _warn_about_kernel_limits(self) -> None:
        for limit in find_low_kernel_limits(self._settings):
            self._log.warn(
                "{count} containers (cloud.max_proxies) need more than this machine allows: as "
                "root, set {name} = {needed} in /etc/sysctl.d/60-ctllm.conf (it is {value}), then "
                "run sysctl --system",
                count=self._settings.max_proxies,
                name=limit.name,
                needed=limit.needed,
                value=limit.value,
            )

    async def _handle_request(self, request: ServerRequest) -> None:
        assert self._application is not None
        await self._application.gateway(request)

    async def _handle_auth_request(self, request: ServerRequest) -> None:
        assert self._application is not None
        await self._application.auth_request(request)

    def _response_headers(self, head: RequestHead) -> Headers:
        return () if self._application is None else self._application.gateway.response_headers(head)

    async def _handle_scrape(self, request: ServerRequest) -> None:
        if request.head.path != b"/metrics":
            raise NotFound("Metrics are at /metrics.")
        if self._application is not None:
            self._metrics.update_usage(await self._application.proxies.resource_usage())
        content_type, body = self._metrics.render_text()
        request.respond(200, body, ((b"Content-Type", content_type),))
