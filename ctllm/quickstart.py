"""Setup for the role all: log in this machine and print how to use it."""

from __future__ import annotations

import getpass
import re
import sys
import time
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm import __version__
from ctllm.client_snippets import PLACEHOLDER_KEY, PLACEHOLDER_MODEL, Target, format_common_clients
from ctllm.cloud.service import CloudService
from ctllm.common.sanitize import sanitize_text
from ctllm.desktop.api_keys import create_api_key
from ctllm.desktop.cloud_session import log_in
from ctllm.desktop.service import DesktopService
from ctllm.errors import CtllmError, Unauthorized
from ctllm.reactor.services import Service

#: The name of the API key in the printed examples.
API_KEY_NAME = "welcome"
#: Seconds to wait until desktop and cloud are connected. Then print the status as it is.
READY_TIMEOUT = 15.0
_POLL_INTERVAL = 0.05


class Quickstart(Service):
    """Logs the desktop in to the cloud of the same process, then prints what to do next.

    The reactor must provide IReactorCore and IReactorTime.
    """

    _log = Logger()

    def __init__(self, reactor: Any, cloud: CloudService, desktop: DesktopService) -> None:
        self._reactor = reactor
        self._cloud = cloud
        self._desktop = desktop
        self._setup: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin once the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> None:
        """Cancel the setup."""
        super().stopService()
        if self._setup is not None:
            self._setup.cancel()

    def _begin(self) -> None:
        self._setup = Deferred.fromCoroutine(self._set_up())
        self._setup.addErrback(self._log_failure)

    def _log_failure(self, reason: Failure) -> None:
        if isinstance(reason.value, CtllmError):
            self._log.error("{error}", error=reason.value.message)
        elif not isinstance(reason.value, CancelledError):
            self._log.failure("Cannot set up this machine", reason)

    async def _set_up(self) -> None:
        await self._log_in()
        file = self._desktop.file
        # The key is stored nowhere. At a later start it is still valid, but cannot be shown again.
        key = PLACEHOLDER_KEY
        if file.load().find_key(API_KEY_NAME) is None:
            key = create_api_key(file, API_KEY_NAME, time.time())
        await self._wait_until_ready()
        # The log may have replaced sys.stdout.
        print(sanitize_text(self._format_screen(key)), file=sys.__stdout__, flush=True)

    async def _log_in(self) -> None:
        """Log in, unless there is a valid session at this cloud."""
        file, session = self._desktop.file, self._desktop.session
        login = file.load().login
        if login is not None and login.cloud_url == self._cloud.local_url:
            try:
                await session.access_token()
            except Unauthorized:
                self._log.info("The session of this machine has ended; logging in again")
            else:
                return
        client = self._desktop.client_factory(self._cloud.local_url)
        await log_in(self._desktop.logins, client, self._cloud.create_invite(_user_name()))

    async def _wait_until_ready(self) -> None:
        """Wait until requests reach the desktop, at most READY_TIMEOUT seconds."""
        deadline = self._reactor.seconds() + READY_TIMEOUT
        while not self._desktop.is_ready and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, _POLL_INTERVAL)

    def _format_screen(self, key: str) -> str:
        ollama = self._desktop.ollama
        status = ollama.status
        link = f"{self._cloud.url}/#invite={self._cloud.create_invite(_user_name())}"
        model = next(iter(status.models), PLACEHOLDER_MODEL)
        ollama_state = _describe(status.ollama, status.version, ollama.server.url)
        lines = [
            f"ctllm {__version__} is running. Press Ctrl-C to stop it.",
            "",
            f"  Open once to log in   {link}",
            f"  Cloud                 {self._cloud.url}",
            f"  Ollama                {ollama_state}",
        ]
        if self._desktop.endpoint is not None:
            port = self._desktop.endpoint.port.getHost().port
            lines.append(f"  Apps on this machine  http://127.0.0.1:{port}")
        return "\n".join([*lines, "", format_common_clients(Target(self._cloud.url, key, model))])


def _describe(state: str, version: str, url: str) -> str:
    if state == "up":
        return f"{url} (version {version})"
    missing = f"not found at {url};\n                        "
    if state == "demo":
        return f"{missing}until you start it, the demo model demo:echo responds"
    return f"{missing}start it and it is found within seconds"


def _user_name() -> str:
    """Return the name of this machine's user, changed to a valid user name of ctllm."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return "owner"  # a container may run as a user id without a name
    return re.sub(r"[^a-z0-9._@-]", "-", name.lower()).lstrip("._@-")[:64] or "owner"
