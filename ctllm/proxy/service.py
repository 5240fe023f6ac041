"""A streaming proxy as a service: limits, listener, sweeps, and an end with its parent."""

from __future__ import annotations

import os
import signal
import stat
import time
from typing import Any

from twisted.internet import stdio
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.auth.session_assertions import AssertionVerifier
from ctllm.common.memory_budget import BufferBudget, MemoryBudget
from ctllm.config import Proxy
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.memory_limiter import MemoryLimiter
from ctllm.http.server.request_throttle import RequestThrottle
from ctllm.proxy.app import ProxyApp
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.exit_on_memory_error import ExitOnMemoryError
from ctllm.proxy.process_limits import (
    enter_sandbox,
    memory_budget,
    set_resource_limits,
    switch_user,
)
from ctllm.proxy.request_router import RequestRouter
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService, Service
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory

#: Which part of its budget a proxy takes to hold requests while it chooses their desktop.
BUFFER_FRACTION = 4
#: Seconds between sweeps of exchanges and desktops that are over.
EXPIRY_INTERVAL = 1.0
#: Which part of its files is not for connections of clients, but for tunnels and itself.
RESERVED_FILES_FRACTION = 8


def create_proxy_service(
    reactor: Any,
    settings: Proxy,
    *,
    endpoint: str,
    id: str,
    cloud_key: str,
    uid: int | None = None,
) -> MultiService:
    """A proxy that listens at `endpoint` and believes what `cloud_key` (base64url) signed.

    It becomes the user `uid`, if there is one, once it listens.
    """
    budget = MemoryBudget(memory_budget(settings.max_memory_bytes))
    registry = DesktopRegistry(
        reactor,
        settings.stream_window_bytes,
        settings.reconnect_grace_seconds,
        settings.max_streams,
        settings.max_resume_seconds,
        budget,
    )
    websocket_factory = ProxyWebSocketFactory(
        reactor,
        registry.hello_received,
        settings.ping_interval_seconds,
        settings.ping_timeout_seconds,
        budget,
    )
    router = RequestRouter(registry, reactor, BufferBudget(budget.size // BUFFER_FRACTION, budget))
    app = ProxyApp(
        registry, router, AssertionVerifier(cloud_key, id, time.time), websocket_factory, budget
    )
    service = MultiService()
    ExitOnMemoryError().setServiceParent(service)
    RlimitService(settings, uid).setServiceParent(service)
    throttle = RequestThrottle(reactor)
    connection_limiter = ConnectionLimiter(
        settings.max_open_files - settings.max_open_files // RESERVED_FILES_FRACTION
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
        EXPIRY_INTERVAL, registry.remove_expired, reactor, "forgetting what is over"
    ).setServiceParent(service)
    ShutdownNotifier(registry).setServiceParent(service)
    ParentWatcher(reactor).setServiceParent(service)
    return service


class RlimitService(Service):
    """Takes away what the process does not need, once it listens and before it serves anyone."""

    def __init__(self, settings: Proxy, uid: int | None) -> None:
        self._settings, self._uid = settings, uid

    def startService(self) -> None:
        """Set the limits."""
        super().startService()
        set_resource_limits(self._settings.max_memory_bytes, self._settings.max_open_files)
        enter_sandbox()
        if self._uid is not None:
            switch_user(self._uid)  # last: what the others import may be only root's to read


class ShutdownNotifier(Service):
    """Tells the bridges when the proxy ends, so that they look for the next one at once."""

    def __init__(self, registry: DesktopRegistry) -> None:
        self._registry = registry

    def stopService(self) -> None:
        """Say so."""
        super().stopService()
        self._registry.close()


#: Seconds after which a proxy whose cloud is gone ends by itself.
ORPHAN_DELAY = 1.0


class _ParentPipe(Protocol):
    """Nothing is ever said on standard input; that it closes means that the parent is gone."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # A cloud that stops in order sends SIGTERM as well, and twistd takes only one stop.
        self._reactor.callLater(ORPHAN_DELAY, self._reactor.stop)


class ParentWatcher(Service):
    """Ends the process when the one that started it dies, even by SIGKILL."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pipe: Any = None

    def startService(self) -> None:
        """Watch standard input."""
        super().startService()
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return  # started by hand or as a daemon: nobody holds the other end
        # Ctrl-C reaches the whole group; the cloud decides when its proxies end, in its order.
        self._reactor.callWhenRunning(signal.signal, signal.SIGINT, signal.SIG_IGN)
        self._pipe = stdio.StandardIO(_ParentPipe(self._reactor), reactor=self._reactor)  # type: ignore[no-untyped-call]
