"""The services of a streaming proxy: limits, listener, expiry and shutdown."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from typing import Protocol as TypingProtocol

from twisted.internet import stdio
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.common.memory_budget import BufferBudget, MemoryBudget
from ctllm.config import Proxy
from ctllm.http.request_log import RequestLog
from ctllm.http.server.burst_limiter import RequestThrottle
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.memory_limiter import MemoryLimiter
from ctllm.proxy.app import ProxyApp
from ctllm.proxy.assignment import Assignment
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.direct_requests import DirectRequests
from ctllm.proxy.exit_on_memory_error import ExitOnMemoryError
from ctllm.proxy.process_confinement import (
    enter_sandbox,
    memory_budget,
    set_resource_limits,
    switch_user,
)
from ctllm.proxy.request_router import RequestRouter
from ctllm.proxy.tunnel_authorizer import TunnelAuthorizer
from ctllm.reactor.interfaces import Clock, ServerEndpoint
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService, Service
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory

#: The budget divided by this may be used to buffer requests while their desktop is selected.
BUFFER_DIVISOR = 4
#: Seconds between removals of expired streams and disconnected desktops.
EXPIRY_INTERVAL = 1.0
#: The maximum of open files divided by this is reserved for tunnels and the process itself.
RESERVED_FILES_DIVISOR = 8


class ProxyReactor(Clock, TypingProtocol):
    """The reactor as far as a proxy's services use it."""

    def callWhenRunning(self, callable: Callable[..., object], /, *args: object) -> object:
        """Call `callable` once the reactor runs."""

    def stop(self) -> None:
        """Stop the reactor."""


def create_proxy_service(
    reactor: ProxyReactor,
    settings: Proxy,
    *,
    endpoint: str | ServerEndpoint,
    id: str,
    cloud_key: str,
    is_waiting: bool = False,
    uid: int | None = None,
) -> MultiService:
    """Return a proxy that listens at `endpoint`.

    It accepts session assertions for the proxy `id` that `cloud_key` (base64url) verifies. With
    `is_waiting`, it accepts none before the cloud has assigned it to a user. With a `uid`, it
    switches to that user once it listens.
    """
    budget = MemoryBudget(memory_budget(settings.max_memory_bytes))
    assignment = Assignment(cloud_key, id, time.time, is_waiting)
    authorizer = TunnelAuthorizer(assignment, reactor, time.time)
    direct_requests = DirectRequests(time.time)
    registry = DesktopRegistry(
        reactor,
        settings.stream_window_bytes,
        settings.reconnect_grace_seconds,
        settings.max_streams,
        settings.max_resume_seconds,
        budget,
        authorizer.verify,
        direct_requests.add_tunnel,
    )
    websocket_factory = ProxyWebSocketFactory(
        reactor,
        registry.hello_received,
        settings.ping_interval_seconds,
        settings.ping_timeout_seconds,
        budget,
    )
    router = RequestRouter(
        registry,
        reactor,
        BufferBudget(budget.size // BUFFER_DIVISOR, budget),
        RequestLog(reactor, settings.log_requests == "on"),
    )
    app = ProxyApp(
        registry,
        router,
        assignment,
        websocket_factory,
        budget,
        authorizer,
        direct_requests,
    )
    service = MultiService()
    ExitOnMemoryError().setServiceParent(service)
    RlimitService(settings, uid).setServiceParent(service)
    throttle = RequestThrottle(reactor)
    connection_limiter = ConnectionLimiter(
        settings.max_open_files - settings.max_open_files // RESERVED_FILES_DIVISOR
    )
    memory_limiter = MemoryLimiter(budget, reactor)
    factory = HttpServerFactory(
        app,
        reactor,
        throttle=throttle,
        connection_limiter=connection_limiter,
        memory_limiter=memory_limiter,
        is_internal=True,
    )
    listener = EndpointService(reactor, endpoint, factory, "socket")
    throttle.add_observer(listener.pause_accepting)
    listener.setServiceParent(service)
    PeriodicService(
        EXPIRY_INTERVAL, registry.remove_expired, reactor, "removing expired streams"
    ).setServiceParent(service)
    ShutdownNotifier(registry).setServiceParent(service)
    ParentWatcher(reactor).setServiceParent(service)
    return service


class RlimitService(Service):
    """Drops the privileges of the process once it listens, before it accepts a connection."""

    def __init__(self, settings: Proxy, uid: int | None) -> None:
        self._settings, self._uid = settings, uid

    def startService(self) -> None:
        """Set the limits, enter the sandbox and switch the user."""
        super().startService()
        set_resource_limits(self._settings.max_memory_bytes, self._settings.max_open_files)
        enter_sandbox()
        if self._uid is not None:
            switch_user(self._uid)  # last: the modules imported above may be readable only for root


class ShutdownNotifier(Service):
    """Closes the tunnels in order when the proxy stops, so that desktops reconnect at once."""

    def __init__(self, registry: DesktopRegistry) -> None:
        self._registry = registry

    def stopService(self) -> None:
        """Close all tunnels."""
        super().stopService()
        self._registry.close()


#: Seconds after the exit of the cloud's process until the proxy exits.
ORPHAN_DELAY = 1.0


class _ParentPipe(Protocol):
    """Standard input, a pipe from the parent; the end of it means that the parent exited."""

    def __init__(self, reactor: ProxyReactor) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # A cloud that stops in order also sends SIGTERM, and twistd accepts only one stop.
        self._reactor.callLater(ORPHAN_DELAY, self._reactor.stop)


class ParentWatcher(Service):
    """Stops the process when its parent exits, even by SIGKILL."""

    def __init__(self, reactor: ProxyReactor) -> None:
        self._reactor = reactor
        self._pipe: object = None

    def startService(self) -> None:
        """Watch standard input, unless it is no pipe."""
        super().startService()
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return  # started by hand or as a daemon
        # Ctrl-C reaches the whole process group, but the cloud stops its proxies in its own order.
        self._reactor.callWhenRunning(signal.signal, signal.SIGINT, signal.SIG_IGN)
        protocol = _ParentPipe(self._reactor)
        self._pipe = stdio.StandardIO(protocol, reactor=self._reactor)  # type: ignore[no-untyped-call]
