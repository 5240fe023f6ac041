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

from ctllm.auth.session_assertions import Verifier
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
from ctllm.proxy.process_limits import become, confine, memory_budget, sandbox
from ctllm.proxy.request_router import RequestRouter
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService, Service
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory

#: Which part of its budget a proxy takes to hold requests while it chooses their desktop.
HELD = 4
#: Seconds between sweeps of exchanges and desktops that are over.
SWEEP = 1.0
#: Which part of its files is not for connections of clients, but for tunnels and itself.
FILES = 8


def proxy_service(
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
    rendezvous = DesktopRegistry(
        reactor,
        settings.stream_window_bytes,
        settings.reconnect_grace_seconds,
        settings.max_streams,
        settings.max_resume_seconds,
        budget,
    )
    sockets = ProxyWebSocketFactory(
        reactor,
        rendezvous.greeted,
        settings.ping_interval_seconds,
        settings.ping_timeout_seconds,
        budget,
    )
    relay = RequestRouter(rendezvous, reactor, BufferBudget(budget.size // HELD, budget))
    app = ProxyApp(rendezvous, relay, Verifier(cloud_key, id, time.time), sockets, budget)
    whole = MultiService()
    ExitOnMemoryError().setServiceParent(whole)
    Confined(settings, uid).setServiceParent(whole)
    turnstile = RequestThrottle(reactor)
    crowd = ConnectionLimiter(settings.max_open_files - settings.max_open_files // FILES)
    limiter = MemoryLimiter(budget, reactor)
    factory = HttpServerFactory(
        app,
        reactor,
        throttle=turnstile,
        connection_limiter=crowd,
        memory_limiter=limiter,
        is_internal=True,
    )
    listener = EndpointService(reactor, endpoint, factory, "socket")
    turnstile.add_observer(listener.pause_accepting)
    listener.setServiceParent(whole)
    PeriodicService(SWEEP, rendezvous.sweep, reactor, "forgetting what is over").setServiceParent(
        whole
    )
    Farewell(rendezvous).setServiceParent(whole)
    Orphanage(reactor).setServiceParent(whole)
    return whole


class Confined(Service):
    """Takes away what the process does not need, once it listens and before it serves anyone."""

    def __init__(self, settings: Proxy, uid: int | None) -> None:
        self._settings, self._uid = settings, uid

    def startService(self) -> None:
        """Set the limits."""
        super().startService()
        confine(self._settings.max_memory_bytes, self._settings.max_open_files)
        sandbox()
        if self._uid is not None:
            become(self._uid)  # last: what the others import may be only root's to read


class Farewell(Service):
    """Tells the bridges when the proxy ends, so that they look for the next one at once."""

    def __init__(self, rendezvous: DesktopRegistry) -> None:
        self._rendezvous = rendezvous

    def stopService(self) -> None:
        """Say so."""
        super().stopService()
        self._rendezvous.close()


#: Seconds after which a proxy whose cloud is gone ends by itself.
ORPHAN = 1.0


class _Parent(Protocol):
    """Nothing is ever said on standard input; that it closes means that the parent is gone."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # A cloud that stops in order sends SIGTERM as well, and twistd takes only one stop.
        self._reactor.callLater(ORPHAN, self._reactor.stop)


class Orphanage(Service):
    """Ends the process when the one that started it dies, even by SIGKILL."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._watch: Any = None

    def startService(self) -> None:
        """Watch standard input."""
        super().startService()
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return  # started by hand or as a daemon: nobody holds the other end
        # Ctrl-C reaches the whole group; the cloud decides when its proxies end, in its order.
        self._reactor.callWhenRunning(signal.signal, signal.SIGINT, signal.SIG_IGN)
        self._watch = stdio.StandardIO(_Parent(self._reactor), reactor=self._reactor)  # type: ignore[no-untyped-call]
