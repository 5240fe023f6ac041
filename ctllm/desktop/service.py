"""The desktop's services, put together: Ollama, bridge, broker, keys, endpoint, IPC, demo."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ctllm.config import Desktop, Proxy, resolve_ollama_url, to_endpoint_string
from ctllm.demo import DemoServer
from ctllm.desktop.api_key_lease import ApiKeyLease
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.broker.policy_store import PolicyStore
from ctllm.desktop.broker.remote_desktops import RemoteDesktops
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.desktop.cloud_client import CloudClient, host_name
from ctllm.desktop.cloud_endpoint import endpoint_for_url
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.connection_state import ConnectionStateMachine
from ctllm.desktop.credential_file import CredentialFile
from ctllm.desktop.graceful_shutdown import GracefulShutdown
from ctllm.desktop.host_monitor import HostMonitor
from ctllm.desktop.ipc.browser import ChatPage, has_display
from ctllm.desktop.ipc.commands import CommandHandler
from ctllm.desktop.ipc.instance_lock import InstanceLock
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.service import IpcService
from ctllm.desktop.ipc.webview_process import WebviewWindow, can_have_window
from ctllm.desktop.loopback_endpoint import LoopbackEndpoint
from ctllm.desktop.ollama_monitor import OllamaMonitor, OllamaServer
from ctllm.desktop.status import StatusReporter
from ctllm.desktop.tunnel_policy import TunnelPolicy
from ctllm.http.origins import is_loopback_host, parse_host
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request_throttle import RequestThrottle
from ctllm.ipc import messages
from ctllm.reactor.services import MultiService
from ctllm.system.launch_commands import window_command
from ctllm.tunnel import frames
from ctllm.tunnel.frames import Status
from ctllm.tunnel.responder import Responder

#: What the bridge calls how it is, as news for `Standing`.
_NEWS = {
    "signed out": "signed_out",
    "connecting": "dialling",
    "connected": "greeted",
    "error": "lost",
}


class DesktopService(MultiService):
    """A desktop. Its parts are attributes, for those who show their state."""

    def __init__(
        self, reactor: Any, settings: Desktop, limits: Proxy, state: Path, environ: Any
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._name = settings.desktop_name or host_name()
        self._limits = limits
        self._state = state
        self._environ = environ
        self._instance_lock = InstanceLock(state)
        self.file = CredentialFile(state)
        url = resolve_ollama_url(settings.ollama_host, environ)
        self.ollama = OllamaMonitor(
            OllamaServer(url, "up", reactor, settings.remote_models == "refuse"),
            reactor,
            settings.ollama_check_interval_seconds,
        )
        self.client_factory: Callable[[str], CloudClient] = lambda url: CloudClient(url, reactor)
        self.session = CloudSession(
            self.file, self.client_factory, reactor, settings.cloud_url.rstrip("/")
        )
        self.keys = ApiKeyLease(self.session, reactor)
        self.connection = ConnectionStateMachine()
        self.broker: Broker | None = None
        self.bridge: Bridge | None = None
        self.ipc: IpcService | None = None
        self._host_monitor: HostMonitor | None = None
        self.endpoint: EndpointService | None = None
        self._demo: EndpointService | None = None
        if settings.listen != "off":
            app = LoopbackEndpoint(self._handle_request, self._is_on_loopback)
            factory = HttpServerFactory(
                app,
                reactor,
                throttle=RequestThrottle(reactor),
                response_headers=app.response_headers,
            )
            where = to_endpoint_string(settings.listen)
            self.endpoint = EndpointService(reactor, where, factory, "endpoint")
            self.endpoint.setServiceParent(self)
        if settings.demo == "on":
            self.add_demo()

    @property
    def is_ready(self) -> bool:
        """Whether a request that comes now through the cloud can be answered."""
        if self.bridge is None or self.bridge.state != "connected":
            return False
        return self.keys.is_current and self.ollama.status.ollama != "down"

    def add_demo(self) -> None:
        """Let a stand-in answer until Ollama appears."""
        site = DemoServer(self._reactor).site
        self._demo = EndpointService(self._reactor, "tcp:0:interface=127.0.0.1", site, "demo")
        self._demo.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Listen; raises BadConfiguration, first of all where another daemon runs already."""
        self._instance_lock.check()
        super().privilegedStartService()

    def startService(self) -> None:
        """Make the parts that need the state folder, now that privileges are dropped; start all."""
        self.broker = self._make_broker()
        self.bridge = self._make_bridge()
        self.ipc = self._make_ipc(self.broker, self.bridge)
        surroundings = self._host_monitor = self._make_host_monitor(self.bridge)
        # The IPC is the first: it sees to it that there is no second daemon. And the last to end.
        for part in (self.ipc, self.ollama, self.broker, self.keys, surroundings, self.bridge):
            part.setServiceParent(self)
        super().startService()

    async def _handle_request(self, head: Any, incoming: Any) -> None:
        assert self.broker is not None
        await self.broker.handle_request(head, incoming)

    # -- the parts

    def _make_broker(self) -> Broker:
        def wanted() -> bool:
            watched = self.ipc is not None and self.ipc.is_watched
            return watched or (self.broker is not None and self.broker.is_in_use)

        elsewhere = RemoteDesktops(
            self.session, self._reactor, wanted, lambda url: endpoint_for_url(url, self._reactor)
        )
        kept = PolicyStore(self._state, RoutingPolicy(self._settings.routing_policy))
        return Broker(self.ollama, elsewhere, kept, self._reactor, self._name)

    def _make_bridge(self) -> Bridge:
        if self._demo is not None:
            port = self._demo.port.getHost().port
            demo = OllamaServer(f"http://127.0.0.1:{port}", "demo", self._reactor)
            self.ollama.use_demo(demo)
        limits = self._limits
        desktop = frames.Desktop(self.file.load().desktop_id, self._name)
        policy = TunnelPolicy(
            self.ollama.start_request,
            self._settings.allowed_requests,
            self._settings.allowed_registries,
        )
        tunnel = Responder(
            limits.stream_window_bytes, limits.reconnect_grace_seconds, limits.max_streams,
            request_handler=policy.start_request,
            resume_buffer_bytes=limits.resume_buffer_bytes, desktop=desktop,
        )  # fmt: skip
        self.ollama.listeners.append(tunnel.send_status)
        tunnel.send_status(self.ollama.status)
        bridge = Bridge(
            tunnel,
            self.session,
            self._reactor,
            (limits.ping_interval_seconds, limits.ping_timeout_seconds),
        )
        bridge.on_state = self._on_bridge_state
        return bridge

    def _on_bridge_state(self) -> None:
        assert self.bridge is not None and self.broker is not None
        self.keys.renew_now()
        self.connection.link(_NEWS[self.bridge.state], self.bridge.reason)
        if self.bridge.state != "connecting":
            self.broker.remote_desktops.poll_now()
        if self.bridge.state == "connected" and self._host_monitor is not None:
            self._host_monitor.update_address()

    def _make_ipc(self, broker: Broker, bridge: Bridge) -> IpcService:
        reactor, log = self._reactor, LogBuffer()
        report = StatusReporter(
            self._name, self.session, self.connection, self.ollama, broker, bridge, self._endpoint_address,
            time.time(),
        )  # fmt: skip
        window = WebviewWindow(reactor, self._window_program(), self._environ)
        page = ChatPage(
            self.session, reactor, self._state,
            lambda: has_display(self._environ, sys.platform), window,
        )  # fmt: skip
        leaving = GracefulShutdown(
            reactor, broker, lambda: broker.active_requests + bridge.traffic[0], reactor.stop
        )
        commands = CommandHandler(
            self._fresh_status(report),
            leaving.begin,
            page,
            window,
            broker,
            self.session,
            self.client_factory,
            log,
        )
        ipc = IpcService(
            reactor,
            self._state,
            self._settings.ipc_port,
            self._instance_lock,
            commands,
            report.status,
            log,
        )
        window.setServiceParent(ipc)
        page.setServiceParent(ipc)
        leaving.setServiceParent(ipc)
        self.ollama.listeners.append(self._on_ollama_status)
        self.ollama.watched = lambda: ipc.is_watched
        self.ollama.on_loaded = self.connection.on_change = ipc.status_changed
        broker.add_observer(ipc.status_changed)
        return ipc

    def _window_program(self) -> list[str] | None:
        wanted = self._settings.page_window == "auto"
        return window_command() if wanted and can_have_window(self._environ, sys.platform) else None

    def _fresh_status(self, report: StatusReporter) -> Callable[[], Awaitable[messages.Status]]:
        async def status() -> messages.Status:
            await self.ollama.poll_loaded_models()
            return report.status()

        return status

    def _on_ollama_status(self, status: Status) -> None:
        assert self.ipc is not None
        self.connection.ollama(status.ollama != "down")
        self.ipc.status_changed()

    def _make_host_monitor(self, bridge: Bridge) -> HostMonitor:
        surroundings = HostMonitor(self._reactor, time.time, time.monotonic)
        surroundings.peer = lambda: bridge.peer

        def changed(why: str) -> None:
            self.session.discard_tokens()  # a token may have run out while the machine slept
            bridge.reconnect_now(why)

        surroundings.on_change = changed
        return surroundings

    def _is_on_loopback(self) -> bool:
        """Whether only this machine reaches the endpoint; so it does by a UNIX socket."""
        authority = "" if self.endpoint is None else self.endpoint.authority
        return not authority or is_loopback_host(parse_host(authority))

    def _endpoint_address(self) -> str:
        """Where apps find their models: a URL, or the path of a UNIX socket; nothing if nowhere."""
        if self.endpoint is None or self.endpoint.port is None:
            return ""
        if authority := self.endpoint.authority:
            return f"http://{authority}"
        return os.fsdecode(self.endpoint.port.getHost().name or b"")
