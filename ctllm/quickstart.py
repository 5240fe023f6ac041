"""When everything runs in one program: sign this machine in, and print what to do next, once."""

from __future__ import annotations

import getpass
import re
import sys
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ctllm import __version__
from ctllm.client_snippets import PLACEHOLDER_MODEL, Target, format_common_clients
from ctllm.cloud.service import CloudService
from ctllm.common.sanitize import sanitize_text
from ctllm.desktop.api_key_lease import create_api_key
from ctllm.desktop.cloud_session import log_in
from ctllm.desktop.service import DesktopService
from ctllm.errors import CtllmError, Unauthorized
from ctllm.reactor.services import Service

#: The name of the API key that the printed lines use.
API_KEY_NAME = "welcome"
#: Seconds to wait for everything to be connected before saying how things stand.
READY_TIMEOUT = 15.0


class Quickstart(Service):
    """Signs the desktop in to the cloud beside it, then prints the first screen."""

    _log = Logger()

    def __init__(self, reactor: Any, cloud: CloudService, desktop: DesktopService) -> None:
        self._reactor = reactor
        self._cloud = cloud
        self._desktop = desktop
        self._work: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin once the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> None:
        """Say nothing more."""
        super().stopService()
        if self._work is not None:
            self._work.cancel()

    def _begin(self) -> None:
        self._work = Deferred.fromCoroutine(self._welcome())
        self._work.addErrback(self._failed)

    def _failed(self, reason: Any) -> None:
        if isinstance(reason.value, CtllmError):
            self._log.error("{error}", error=reason.value.message)
        elif not isinstance(reason.value, CancelledError):
            self._log.failure("the first screen could not be made", reason)

    async def _welcome(self) -> None:
        await self._sign_in()
        file = self._desktop.file
        key = file.load().api_keys.get(API_KEY_NAME) or create_api_key(file, API_KEY_NAME)
        await self._connected()
        # The log may own sys.stdout by now; this is for the person who started us.
        print(sanitize_text(self._screen(key)), file=sys.__stdout__, flush=True)

    async def _sign_in(self) -> None:
        """Keep the sign-in that there is, if it is to this cloud and still good."""
        file, session = self._desktop.file, self._desktop.session
        known = file.load().login
        if known is not None and known.cloud_url == self._cloud.local_url:
            try:
                await session.access_token()
            except Unauthorized:
                self._log.info("the sign-in of this machine is over; signing in anew")
            else:
                return
        client = self._desktop.client_factory(self._cloud.local_url)
        await log_in(file, client, self._cloud.create_invite(_user_name()))

    async def _connected(self) -> None:
        """Wait until the printed lines work, or for a while."""
        until = self._reactor.seconds() + READY_TIMEOUT
        while not self._desktop.is_ready and self._reactor.seconds() < until:
            await deferLater(self._reactor, 0.05)

    def _screen(self, key: str) -> str:
        ollama = self._desktop.ollama
        status = ollama.status
        link = f"{self._cloud.url}/#invite={self._cloud.create_invite(_user_name())}"
        model = next(iter(status.models), PLACEHOLDER_MODEL)
        where = [
            f"ctllm {__version__} is running; Ctrl-C stops it.",
            "",
            f"  Sign in here (once)   {link}",
            f"  The cloud             {self._cloud.url}",
            f"  Ollama                {_told(status.ollama, status.version, ollama.server.url)}",
        ]
        if self._desktop.endpoint is not None:
            port = self._desktop.endpoint.port.getHost().port
            where.append(f"  Apps on this machine  http://127.0.0.1:{port}")
        return "\n".join([*where, "", format_common_clients(Target(self._cloud.url, key, model))])


def _told(state: str, version: str, url: str) -> str:
    if state == "up":
        return f"{url} (version {version})"
    if state == "demo":
        return (
            f"none answers at {url};\n"
            "                        demo:echo stands in (a demo, not a model) until one does"
        )
    return f"none answers at {url}; start it, and it will be noticed"


def _user_name() -> str:
    """This machine's user as a name that an invitation may have."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return "owner"  # a container may run as a uid without a name
    return re.sub(r"[^a-z0-9._@-]", "-", name.lower()).lstrip("._@-")[:64] or "owner"
