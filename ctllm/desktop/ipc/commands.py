"""What each command of the IPC does."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.logger import Logger

import twisted
from ctllm import __version__
from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.broker.routing_policy import Preference
from ctllm.desktop.cloud_client import refuse_plain_http, split_link
from ctllm.desktop.cloud_session import Session, log_in, log_out
from ctllm.desktop.ipc.browser import Page
from ctllm.desktop.ipc.connection import Visitor
from ctllm.desktop.ipc.log_buffer import RecentLog
from ctllm.desktop.ipc.webview_process import Window
from ctllm.errors import BadConfiguration
from ctllm.ipc import protocol
from ctllm.ipc.messages import AboutThis, Opened, Status

HOMEPAGE = "https://github.com/ctllm/ctllm"


class DesktopCommands:
    """Does them. `status` tells how everything is, `quit` ends the daemon after so many seconds."""

    _log = Logger()

    def __init__(
        self,
        status: Callable[[], Awaitable[Status]],
        quit: Callable[[float], int],
        page: Page,
        window: Window,
        broker: Broker,
        session: Session,
        client_for: Callable[[str], Any],
        log: RecentLog,
    ) -> None:
        self._status = status
        self._quit = quit
        self._page = page
        self._window = window
        self._broker = broker
        self._session = session
        self._client_for = client_for
        self._recent = log
        self._does: Mapping[type[Any], Callable[[Any, Visitor], Awaitable[object]]] = {
            protocol.StatusRequest: self._tell,
            protocol.Subscribe: self._subscribe,
            protocol.Show: self._show,
            protocol.Hide: self._hide,
            protocol.Settings: self._settings,
            protocol.Quit: self._end,
            protocol.Prefer: self._prefer,
            protocol.Login: self._login,
            protocol.Logout: self._logout,
            protocol.Logs: self._logs,
            protocol.About: self._about,
        }

    async def run(self, request: protocol.Request, visitor: Visitor) -> object:
        """Do it, and give what is to be told; raises CtllmError."""
        return await self._does[type(request)](request, visitor)

    async def _tell(self, _: protocol.StatusRequest, visitor: Visitor) -> Status:
        return await self._status()

    async def _subscribe(self, _: protocol.Subscribe, visitor: Visitor) -> Status:
        visitor.watches = True
        return await self._status()

    async def _show(self, _: protocol.Show, visitor: Visitor) -> Opened:
        return await self._page.open()

    async def _settings(self, _: protocol.Settings, visitor: Visitor) -> Opened:
        return await self._page.open("settings")

    async def _hide(self, _: protocol.Hide, visitor: Visitor) -> object:
        self._window.hide()
        return None

    async def _end(self, request: protocol.Quit, visitor: Visitor) -> object:
        return {"under_way": self._quit(request.seconds)}

    async def _prefer(self, request: protocol.Prefer, visitor: Visitor) -> object:
        try:
            self._broker.prefer(Preference(request.preference))
        except BadConfiguration as error:
            raise BadConfiguration(
                f"it counts now, but not after a restart: {error.message}"
            ) from error
        return {"preference": request.preference}

    async def _login(self, request: protocol.Login, visitor: Visitor) -> object:
        url, invite = split_link(request.link)
        refuse_plain_http(url)
        sign_in = await log_in(self._session.file, self._client_for(url), invite)
        self._log.info("signed in to {url} as {name}", url=url, name=sign_in.user_name)
        return {"cloud_url": sign_in.cloud_url, "user": sign_in.user_name}

    async def _logout(self, _: protocol.Logout, visitor: Visitor) -> object:
        sign_in = await log_out(self._session.file, self._client_for)
        return {"cloud_url": sign_in.cloud_url}

    async def _logs(self, request: protocol.Logs, visitor: Visitor) -> object:
        visitor.reads_log = request.follow
        return {"lines": self._recent.last(request.lines)}

    async def _about(self, _: protocol.About, visitor: Visitor) -> AboutThis:
        return AboutThis(
            name="ctllm (CloudToLocalLLM)",
            version=__version__,
            protocol=protocol.PROTOCOL,
            homepage=HOMEPAGE,
            license="MIT",
            python=platform.python_version(),
            twisted=twisted.__version__,
            platform=platform.platform(terse=True),
            state_folder=str(self._session.file.path.parent.parent),
        )
