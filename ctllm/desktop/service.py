"""The desktop: its services, and what connects them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from ctllm.autostart.installation import local_autostart_files
from ctllm.config import Desktop, Proxy, to_endpoint_string
from ctllm.desktop.api_key_lease import ApiKeyLease
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.broker.policy_store import PolicyStore
from ctllm.desktop.broker.remote_desktops import RemoteDesktops
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.desktop.cloud_client import CloudClient, host_name
from ctllm.desktop.cloud_login import log_in_with_provider
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.connection_state import ConnectionStateMachine
from ctllm.desktop.conversations.key import ConversationKey
from ctllm.desktop.conversations.resource import ConversationsResource
from ctllm.desktop.conversations.service import Conversations
from ctllm.desktop.conversations.store import ConversationStore
from ctllm.desktop.credential_file import Login
from ctllm.desktop.graceful_shutdown import GracefulShutdown
from ctllm.desktop.host_monitor import HostMonitor
from ctllm.desktop.ipc.browser import BrowserOpener, ChatPage, ThreadReactor, has_display
from ctllm.desktop.ipc.commands import CommandHandler
from ctllm.desktop.ipc.instance_lock import InstanceLock
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.logins import Logins
from ctllm.desktop.ipc.provider_login import PendingLogin
from ctllm.desktop.ipc.service import IpcService
from ctllm.desktop.ipc.webview_process import ProcessReactor, WebviewWindow, can_have_window
from ctllm.desktop.key_usage import KeyUsage, KeyUsageFile
from ctllm.desktop.login_maintenance import LoginMaintenance
from ctllm.desktop.login_store import open_login_store
from ctllm.desktop.loopback.api import LoopbackApi
from ctllm.desktop.loopback.endpoint import LoopbackEndpoint
from ctllm.desktop.loopback.key_api import LoopbackKeyApi
from ctllm.desktop.loopback.page_link import page_url
from ctllm.desktop.loopback.sessions import LoopbackSessions
from ctllm.desktop.loopback.setup_api import SetupApi
from ctllm.desktop.oauth.provider import Provider
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.desktop.ollama_monitor import OllamaMonitor, OllamaServer
from ctllm.desktop.profiles import CurrentProfile
from ctllm.desktop.provider_login import LoginPrompt, ProviderLogin
from ctllm.desktop.remote_keys import LeaseResource, RemoteKeys
from ctllm.desktop.request_log import with_request_log
from ctllm.desktop.resources.generations.registry import GenerationLimits, GenerationRegistry
from ctllm.desktop.resources.generations.resource import GenerationsResource
from ctllm.desktop.resources.preference import PATH as PREFERENCE_PATH
from ctllm.desktop.resources.preference import PreferenceResource
from ctllm.desktop.resources.router import PREFIX as RESOURCES_PREFIX
from ctllm.desktop.resources.router import ResourceRouter
from ctllm.desktop.secret_store.factory import make_secret_stores
from ctllm.desktop.status import StatusReporter
from ctllm.desktop.tunnel_authorization import TunnelAuthorization
from ctllm.desktop.tunnel_policy import TunnelPolicy
from ctllm.http.client.url_endpoint import endpoint_for_url
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.http.origins import is_loopback_host, parse_host
from ctllm.http.request_log import RequestLog
from ctllm.http.server.burst_limiter import RequestThrottle
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request import ServerRequest
from ctllm.ipc import messages
from ctllm.ipc.messages import ConnectionState
from ctllm.reactor.interfaces import Endpoint
from ctllm.reactor.services import MultiService
from ctllm.system.launch_commands import window_command
from ctllm.tunnel import frames
from ctllm.tunnel.frames import Status
from ctllm.tunnel.responder import Responder
from ctllm.web_ui.page_files import PageFiles

T = TypeVar("T")


class Reactor(ProcessReactor, ThreadReactor, Protocol):
    """Twisted's reactor, as far as a desktop uses it."""

    def stop(self) -> None:
        """Stop the services, then the program."""

    def getThreadPool(self) -> Any:
        """Return the threads for what blocks (Twisted's ThreadPool)."""


class DesktopService(MultiService):
    """A desktop. Its parts are attributes, for the first page and benchmarks to read."""

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        settings: Desktop,
        limits: Proxy,
        state: Path,
        environ: Mapping[str, str],
        ollama_url: str,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._name = settings.desktop_name or host_name()
        self._limits = limits
        self._state = state
        self._environ = environ
        self._instance_lock = InstanceLock(state)
        stores = make_secret_stores(
            state, reactor, settings.credential_store, settings.passphrase_file, environ
        )
        self._secret_stores = stores
        self.logins = open_login_store(state, reactor, stores=stores)
        self._login_maintenance = LoginMaintenance(self.logins, reactor)
        self.file = self.logins.file
        self.ollama = OllamaMonitor(
            OllamaServer(ollama_url, "up", reactor, settings.remote_models == "refuse"),
            reactor,
            settings.ollama_check_interval_seconds,
            self._is_watched,
        )
        self.client_factory: Callable[[str], CloudClient] = lambda url: CloudClient(
            url, reactor, self._cloud_endpoint
        )
        self.oauth = OAuthClient(reactor, self._cloud_endpoint)
        self.session = CloudSession(
            self.logins,
            self.client_factory,
            reactor,
            settings.cloud_url.rstrip("/"),
            oauth=self.oauth,
        )
        self._key_usage = KeyUsage(KeyUsageFile(state))
        self.keys = ApiKeyLease(
            self.session,
            reactor,
            self._key_usage,
            remote_keys=RemoteKeys(self.file, settings.remote_keys == "on", time.time),
        )
        self.connection = ConnectionStateMachine()
        self.broker: Broker | None = None
        self.generations: GenerationRegistry | None = None
        self.resources: ResourceRouter | None = None
        self.bridge: Bridge | None = None
        self.ipc: IpcService | None = None
        self._host_monitor: HostMonitor | None = None
        self.endpoint: EndpointService | None = None
        self._demo: EndpointService | None = None
        self._loopback_sessions = LoopbackSessions(reactor.seconds)
        self._profile = CurrentProfile(state, lambda: self.session.credentials.login)
        self._profile.add_observer(self._loopback_sessions.close_all)
        self._conversations: dict[str, Conversations] = {}  # by the suffix of a profile
        self._loopback_api: LoopbackApi | None = None
        if settings.listen != "off":
            self._add_endpoint(to_endpoint_string(settings.listen))
        if settings.demo == "on":
            self.add_demo()

    @property
    def is_ready(self) -> bool:
        """Whether a request that arrives at the cloud now would be answered."""
        if self.bridge is None or self.bridge.state is not ConnectionState.CONNECTED:
            return False
        return self.keys.is_current and self.ollama.status.ollama != "down"

    def add_demo(self) -> None:
        """Serve the demo model until Ollama responds."""
        from ctllm.demo import DemoServer  # few desktops have it, and twisted.web takes 2 MB

        site = DemoServer(self._reactor).site
        self._demo = EndpointService(self._reactor, "tcp:0:interface=127.0.0.1", site, "demo")
        self._demo.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Listen; raises BadConfiguration, also where another daemon uses the state folder."""
        self._instance_lock.check()
        super().privilegedStartService()

    def startService(self) -> None:
        """Make the parts that need the state folder, with privileges dropped, and start all."""
        self.broker = self._make_broker()
        self.bridge = self._make_bridge()
        self._host_monitor = self._make_host_monitor(self.bridge)
        self.ipc = self._make_ipc(self.broker, self.bridge)
        # The IPC takes the instance lock, so it starts first and stops last.
        for part in (
            self.ipc, self._login_maintenance, self.session.renewal, self.ollama, self.broker,
            self.keys,
            self._host_monitor, self.bridge, self._tunnel_authorization,
        ):  # fmt: skip
            part.setServiceParent(self)
        super().startService()

    def stopService(self) -> Deferred[Any] | None:
        """Stop the generations, then all services."""
        if self.generations is not None:
            self.generations.close()
        return super().stopService()

    async def _handle_request(self, head: RequestHead, request: ServerRequest) -> None:
        assert self.broker is not None
        await self.broker.handle_request(head, request)

    async def _handle_own_request(self, request: ServerRequest) -> None:
        assert self._loopback_api is not None
        await self._loopback_api.handle(request)

    def _cloud_endpoint(self, url: str) -> Endpoint:
        return endpoint_for_url(url, self._reactor, self._environ)

    def _is_watched(self) -> bool:
        return self.ipc is not None and self.ipc.is_watched

    # -- parts

    def _add_endpoint(self, endpoint: str) -> None:
        app = LoopbackEndpoint(
            self._handle_request, self._is_on_loopback, self._handle_own_request, PageFiles()
        )
        factory = HttpServerFactory(
            app,
            self._reactor,
            throttle=RequestThrottle(self._reactor),
            response_headers=app.response_headers,
        )
        self.endpoint = EndpointService(self._reactor, endpoint, factory, "desktop-listen")
        self.endpoint.setServiceParent(self)

    def _make_broker(self) -> Broker:
        def is_wanted() -> bool:
            return self._is_watched() or (self.broker is not None and self.broker.is_in_use)

        remote_desktops = RemoteDesktops(
            self.session, self._reactor, is_wanted, self._cloud_endpoint
        )
        store = PolicyStore(self._state, RoutingPolicy(self._settings.routing_policy))
        return Broker(self.ollama, remote_desktops, store, self._reactor, self._name)

    def _make_bridge(self) -> Bridge:
        if self._demo is not None:
            port = self._demo.port.getHost().port
            demo = OllamaServer(f"http://127.0.0.1:{port}", "demo", self._reactor)
            self.ollama.use_demo(demo)
        assert self.broker is not None
        limits = self._limits
        desktop = frames.Desktop(self.file.load().desktop_id, self._name)
        policy = TunnelPolicy(
            self.ollama.start_request,
            self._settings.allowed_requests,
            self._settings.allowed_registries,
        )
        self._make_generations(policy)
        self._profile.add_observer(lambda: self._make_generations(policy))
        stores_conversations = self._settings.conversations == "on"
        self.resources = ResourceRouter(
            {
                b"generations": GenerationsResource(self._get_generations),
                b"preference": PreferenceResource(self.broker),
                b"conversations": ConversationsResource(
                    self._get_conversations if stores_conversations else None
                ),
                b"lease": LeaseResource(self.keys.renew_now),
            },
            policy,
        )
        tunnel = Responder(
            limits.stream_window_bytes, limits.reconnect_grace_seconds, limits.max_streams,
            request_handler=with_request_log(
                self._start_tunnel_request,
                RequestLog(self._reactor, limits.log_requests == "on"),
            ),
            resume_buffer_bytes=limits.resume_buffer_bytes, desktop=desktop,
            capabilities=("resume", frames.ALLOWED_MODELS_CAPABILITY, frames.RESOURCES_CAPABILITY),
        )  # fmt: skip
        self.ollama.add_observer(tunnel.send_status)
        tunnel.send_status(self.ollama.status)
        bridge = Bridge(
            tunnel,
            self.session,
            self._reactor,
            (limits.ping_interval_seconds, limits.ping_timeout_seconds),
            self._cloud_endpoint,
        )
        bridge.add_observer(self._on_bridge_state)
        self._tunnel_authorization = TunnelAuthorization(tunnel, self.session, self._reactor)
        return bridge

    def _make_generations(self, policy: TunnelPolicy) -> None:
        """Begin without generations; those that there were may be another user's."""
        if self.generations is not None:
            self.generations.close()
        self.generations = GenerationRegistry(
            policy.start_request, self._reactor, time.time,
            GenerationLimits(self._settings.generation_grace_seconds),
        )  # fmt: skip

    def _get_generations(self) -> GenerationRegistry:
        assert self.generations is not None
        return self.generations

    def _start_tunnel_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request of the cloud; what is stored is for the user who is logged in now."""
        assert self.resources is not None and self.bridge is not None
        if head.path.startswith(RESOURCES_PREFIX):
            self.bridge.check_login()
            self._profile.get()
        return self.resources.start_request(head, sink)

    def _get_conversations(self) -> Conversations:
        """Return the conversations of the present user."""
        suffix = self._profile.get().suffix
        known = self._conversations.get(suffix)
        if known is None:
            directory = self._state / f"conversations{suffix}"
            known = self._conversations[suffix] = Conversations(
                ConversationKey(directory, self._secret_stores),
                partial(ConversationStore, directory),
                self._run_in_thread,
            )
        return known

    def _run_in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(cast(IReactorFromThreads, self._reactor), pool, function)

    def _on_bridge_state(self, state: ConnectionState, reason: str) -> None:
        assert self.broker is not None and self._host_monitor is not None
        self.keys.renew_now()
        self.connection.set_bridge_state(state, reason)
        if state is not ConnectionState.CONNECTING:
            self.broker.remote_desktops.poll_now()
        if state is ConnectionState.CONNECTED:
            self._host_monitor.update_address()

    def _make_host_monitor(self, bridge: Bridge) -> HostMonitor:
        def on_change(what: str) -> None:
            self.session.discard_tokens()  # they may have expired while the machine slept
            bridge.reconnect_now(what)

        return HostMonitor(self._reactor, on_change, lambda: bridge.peer_host)

    def _make_ipc(self, broker: Broker, bridge: Bridge) -> IpcService:
        reactor, log = self._reactor, LogBuffer()
        reporter = StatusReporter(
            self._name, self.session, self.connection, self.ollama, broker, bridge,
            self._count_generations, self._endpoint_address, time.time(),
        )  # fmt: skip
        window = WebviewWindow(reactor, self._window_command(), self._environ)
        browser = BrowserOpener(
            reactor, self._state, lambda: has_display(self._environ, sys.platform)
        )
        page = ChatPage(
            self.session,
            browser,
            window,
            reactor,
            self._local_link,
            lambda: bridge.state is ConnectionState.ERROR,
        )
        shutdown = GracefulShutdown(reactor, broker, self._count_requests, reactor.stop)
        pending_login = PendingLogin(self._log_in_with_provider, browser)
        logins = Logins(self.session, self.client_factory, self.oauth, pending_login)
        self._loopback_api = self._make_loopback_api(reporter, logins, broker)
        commands = CommandHandler(
            self._fresh_status(reporter),
            shutdown.begin,
            page,
            window,
            broker,
            self.session,
            logins,
            self.keys,
            log,
        )
        ipc = IpcService(
            reactor,
            self._state,
            self._settings.ipc_port,
            self._instance_lock,
            commands,
            reporter.status,
            log,
        )
        for part in (window, browser, pending_login, shutdown):
            part.setServiceParent(ipc)
        self.ollama.add_observer(self._on_ollama_status)
        self.ollama.add_loaded_models_observer(ipc.status_changed)
        self.connection.add_observer(ipc.status_changed)
        broker.add_observer(ipc.status_changed)
        return ipc

    def _make_loopback_api(
        self, reporter: StatusReporter, logins: Logins, broker: Broker
    ) -> LoopbackApi:
        options = (f"--state-dir={self._state.absolute()}",)
        setup = SetupApi(
            reporter.status, logins, lambda: local_autostart_files(options), self._reactor
        )
        keys = LoopbackKeyApi(self.file, self._key_usage.known, time.time, self._reactor)
        return LoopbackApi(
            self._loopback_sessions,
            reporter.describe_desktop,
            lambda: f"local{self._profile.get().suffix}",
            self._reactor,
            self.resources,
            (*setup.routes, *keys.routes),
            {PREFERENCE_PATH: PreferenceResource(broker, is_local=True)},
        )

    def _local_link(self) -> str:
        """Return a link to the page of this machine that logs in once, or an empty string."""
        self._profile.get()  # which forgets the codes of another user
        url = page_url("" if self.endpoint is None else self.endpoint.authority)
        return f"{url}/#invite={self._loopback_sessions.create_code()}" if url else ""

    async def _log_in_with_provider(
        self, cloud_url: str, provider: Provider, prompt: LoginPrompt
    ) -> Login:
        grant = await ProviderLogin(self._reactor, self.oauth, prompt).run(provider)
        return await log_in_with_provider(
            self.logins, self.client_factory, self.oauth, cloud_url, grant,
            lambda message: self._log.warn("{message}", message=message),
        )  # fmt: skip

    def _window_command(self) -> list[str] | None:
        wanted = self._settings.page_window == "auto"
        return window_command() if wanted and can_have_window(self._environ, sys.platform) else None

    def _fresh_status(self, reporter: StatusReporter) -> Callable[[], Awaitable[messages.Status]]:
        async def status() -> messages.Status:
            await self.ollama.poll_loaded_models()
            return reporter.status()

        return status

    def _count_requests(self) -> int:
        """Return how many requests of apps and clients are in progress, and how many generations.

        A generation with readers counts more than once, which only matters to people who wait.
        """
        assert self.broker is not None and self.bridge is not None
        return self.broker.active_requests + self.bridge.traffic[0] + self._count_generations()

    def _count_generations(self) -> int:
        return self._get_generations().running

    def _on_ollama_status(self, status: Status) -> None:
        assert self.ipc is not None
        self.connection.set_ollama_up(status.ollama != "down")
        self.ipc.status_changed()

    def _is_on_loopback(self) -> bool:
        """Return whether only this machine can reach the endpoint; a UNIX socket counts."""
        authority = "" if self.endpoint is None else self.endpoint.authority
        return not authority or is_loopback_host(parse_host(authority))

    def _endpoint_address(self) -> str:
        """Return the endpoint's URL, or the path of its UNIX socket, or an empty string."""
        if self.endpoint is None or self.endpoint.port is None:
            return ""
        if authority := self.endpoint.authority:
            return f"http://{authority}"
        return os.fsdecode(self.endpoint.port.getHost().name or b"")
