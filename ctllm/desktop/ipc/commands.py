"""The commands of the IPC."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import twisted
from ctllm import __version__
from ctllm.desktop.api_key_lease import ApiKeyLease
from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.broker.routing_policy import RoutingPolicy
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.ipc.browser import ChatPage
from ctllm.desktop.ipc.connection import IpcConnection
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.logins import Logins
from ctllm.desktop.ipc.webview_process import WebviewWindow
from ctllm.errors import BadConfiguration
from ctllm.ipc import protocol
from ctllm.ipc.messages import AboutInfo, LoginBegun, OpenResult, Status

HOMEPAGE = "https://github.com/ctllm/ctllm"
#: Seconds in which the cloud usually knows new API keys.
LEASE_TIMEOUT = 5.0


class CommandHandler:
    """Runs the commands.

    `quit` stops the daemon when no request is active, or after the given seconds; it returns the
    number of active requests.
    """

    def __init__(
        self,
        get_status: Callable[[], Awaitable[Status]],
        quit: Callable[[float], int],
        page: ChatPage,
        window: WebviewWindow,
        broker: Broker,
        session: CloudSession,
        logins: Logins,
        keys: ApiKeyLease,
        log_buffer: LogBuffer,
    ) -> None:
        self._get_status = get_status
        self._quit = quit
        self._page = page
        self._window = window
        self._broker = broker
        self._session = session
        self._logins = logins
        self._keys = keys
        self._log_buffer = log_buffer
        self._handlers: Mapping[type[Any], Callable[[Any, IpcConnection], Awaitable[object]]] = {
            protocol.StatusRequest: self._handle_status,
            protocol.Subscribe: self._handle_subscribe,
            protocol.Show: self._handle_show,
            protocol.Hide: self._handle_hide,
            protocol.Settings: self._handle_settings,
            protocol.Quit: self._handle_quit,
            protocol.Prefer: self._handle_prefer,
            protocol.Login: self._handle_login,
            protocol.BeginLogin: self._handle_begin_login,
            protocol.CancelLogin: self._handle_cancel_login,
            protocol.Logout: self._handle_logout,
            protocol.LeaseKeys: self._handle_lease_keys,
            protocol.Logs: self._handle_logs,
            protocol.About: self._handle_about,
        }

    async def run(self, request: protocol.Request, connection: IpcConnection) -> object:
        """Run a command and return the data of its response; raises CtllmError."""
        return await self._handlers[type(request)](request, connection)

    async def _handle_status(self, _: protocol.StatusRequest, connection: IpcConnection) -> Status:
        return await self._get_status()

    async def _handle_subscribe(self, _: protocol.Subscribe, connection: IpcConnection) -> Status:
        connection.is_subscribed = True
        return await self._get_status()

    async def _handle_show(self, request: protocol.Show, connection: IpcConnection) -> OpenResult:
        return await self._page.open(is_local=request.is_local)

    async def _handle_settings(self, _: protocol.Settings, connection: IpcConnection) -> OpenResult:
        return await self._page.open("settings")

    async def _handle_hide(self, _: protocol.Hide, connection: IpcConnection) -> object:
        self._window.hide()
        return None

    async def _handle_quit(self, request: protocol.Quit, connection: IpcConnection) -> object:
        return {"under_way": self._quit(request.seconds)}

    async def _handle_prefer(self, request: protocol.Prefer, connection: IpcConnection) -> object:
        try:
            self._broker.set_policy(RoutingPolicy(request.policy))
        except BadConfiguration as error:
            raise BadConfiguration(
                f"The policy is in effect, but is lost at a restart: {error.message}"
            ) from error
        return {"preference": request.policy}

    async def _handle_login(self, request: protocol.Login, connection: IpcConnection) -> object:
        login = await self._logins.log_in_with_invite(request.link)
        return {"cloud_url": login.cloud_url, "user": login.user_name}

    async def _handle_begin_login(
        self, request: protocol.BeginLogin, connection: IpcConnection
    ) -> LoginBegun:
        return await self._logins.begin(
            request.cloud_url,
            request.provider,
            lambda ended: connection.send_event("login", ended),
        )

    async def _handle_cancel_login(
        self, _: protocol.CancelLogin, connection: IpcConnection
    ) -> object:
        self._logins.cancel()
        return None

    async def _handle_logout(self, _: protocol.Logout, connection: IpcConnection) -> object:
        login = await self._logins.log_out()
        return {"cloud_url": login.cloud_url}

    async def _handle_lease_keys(self, _: protocol.LeaseKeys, connection: IpcConnection) -> object:
        return {"current": await self._keys.wait_until_current(LEASE_TIMEOUT)}

    async def _handle_logs(self, request: protocol.Logs, connection: IpcConnection) -> object:
        connection.follows_log = request.follow
        return {"lines": self._log_buffer.last(request.lines)}

    async def _handle_about(self, _: protocol.About, connection: IpcConnection) -> AboutInfo:
        return AboutInfo(
            name="ctllm (CloudToLocalLLM)",
            version=__version__,
            protocol=protocol.PROTOCOL_VERSION,
            homepage=HOMEPAGE,
            license="MIT",
            python=platform.python_version(),
            twisted=twisted.__version__,
            platform=platform.platform(terse=True),
            state_folder=str(self._session.file.path.parent.parent),
        )
