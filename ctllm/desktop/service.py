"""The desktop's services: Ollama, bridge, keys, loopback endpoint, and the demo's stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.application.service import MultiService

from ctllm.config import Desktop, Proxy, endpoint_string, ollama_url
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.cloud import CloudClient, agent, host_name
from ctllm.desktop.credentials import CredentialFile
from ctllm.desktop.endpoint import EndpointApp
from ctllm.desktop.keys import KeyLease
from ctllm.desktop.ollama import Ollama, OllamaServer
from ctllm.desktop.session import Session
from ctllm.http.factory import HttpServerFactory
from ctllm.http.listener import Listener
from ctllm.http.turnstile import Turnstile
from ctllm.standin import Standin
from ctllm.wire import frames
from ctllm.wire.answerer import Answerer


class DesktopService(MultiService):
    """A desktop. Its parts are attributes, for those who show their state."""

    def __init__(
        self, reactor: Any, settings: Desktop, limits: Proxy, state: Path, environ: Any
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._name = settings.desktop_name or host_name()
        self._limits = limits
        self.file = CredentialFile(state)
        url = ollama_url(settings.ollama, environ)
        self.ollama = Ollama(
            OllamaServer(url, "up", reactor), reactor, settings.ollama_check_seconds
        )
        agent_ = agent(reactor)
        self.client_for = lambda url: CloudClient(url, agent_, reactor)
        self.session = Session(self.file, self.client_for, reactor, settings.cloud_url.rstrip("/"))
        self.keys = KeyLease(self.session, reactor)
        self.bridge: Bridge | None = None
        self.endpoint: Listener | None = None
        self._demo: Listener | None = None
        if settings.endpoint != "off":
            factory = HttpServerFactory(
                EndpointApp(self.ollama), reactor, turnstile=Turnstile(reactor)
            )
            where = endpoint_string(settings.endpoint)
            self.endpoint = Listener(reactor, where, factory, "endpoint")
            self.endpoint.setServiceParent(self)
        if settings.demo == "on":
            self.add_demo()

    @property
    def ready(self) -> bool:
        """Whether a request that comes now through the cloud can be answered."""
        if self.bridge is None or self.bridge.state != "connected":
            return False
        return self.keys.told and self.ollama.status.ollama != "down"

    def add_demo(self) -> None:
        """Let a stand-in answer until Ollama appears."""
        site = Standin.demo(self._reactor).site
        self._demo = Listener(self._reactor, "tcp:0:interface=127.0.0.1", site, "demo")
        self._demo.setServiceParent(self)

    def startService(self) -> None:
        """Make the parts that need the state folder, now that privileges are dropped; start all."""
        self.bridge = self._bridge()
        self.ollama.setServiceParent(self)
        self.keys.setServiceParent(self)
        self.bridge.setServiceParent(self)
        super().startService()

    def _bridge(self) -> Bridge:
        if self._demo is not None:
            port = self._demo.port.getHost().port
            demo = OllamaServer(f"http://127.0.0.1:{port}", "demo", self._reactor)
            self.ollama.stand_in(demo)
        limits = self._limits
        desktop = frames.Desktop(self.file.load().desktop_id, self._name)
        tunnel = Answerer(
            limits.window, limits.grace_seconds, limits.max_exchanges,
            keep=limits.keep, desktop=desktop,
        )  # fmt: skip
        tunnel.accept = lambda caller, head: self.ollama.open(head, caller)
        self.ollama.listeners.append(tunnel.tell)
        tunnel.tell(self.ollama.status)
        bridge = Bridge(
            tunnel, self.session, self._reactor, (limits.ping_seconds, limits.ping_timeout_seconds)
        )
        bridge.on_state = self.keys.again
        return bridge
