"""The chat page and logins, opened in a window of ctllm's own or in the browser.

The links log in whoever opens them first. Every user of a machine can read the arguments of every
process, so no link is one of them: the browser opens a file that only its owner can read, and the
file redirects to the link.
"""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.ipc.webview_process import WebviewWindow
from ctllm.errors import BadGateway, BadRequest, CtllmError, Unauthorized
from ctllm.ipc.messages import OpenResult
from ctllm.reactor.deferred_tools import wait_at_most
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service
from ctllm.reactor.timeout import Timeout
from ctllm.system.atomic_write import write_atomically
from ctllm.system.display import has_graphical_session

#: Seconds after which the file is removed: a browser that has to start needs some of them.
FILE_LIFETIME = 60.0
#: Seconds after which a browser command counts as successful: some run until the browser ends.
BROWSER_TIMEOUT = 5.0
#: Seconds that the cloud has to name a link. A login in progress is not cancelled: its token works
#: once.
CLOUD_TIMEOUT = 10.0
NO_LOCAL_PAGE = (
    "This desktop serves no page on this machine: desktop.listen is off, or no address of the "
    "loopback interface. Set it, for example to 127.0.0.1:11435."
)

_FILE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="refresh" content="0;url={0}"><meta name="referrer" content="no-referrer">
<title>ctllm</title><p><a href="{0}">Continue to ctllm</a></p></html>
"""


class ThreadReactor(Clock, Protocol):
    """The reactor, as far as it is needed to run a function in a thread."""

    def callFromThread(self, callable: Callable[..., object], /, *args: object) -> None:
        """Call `callable` in the reactor's thread."""


def has_display(environ: Mapping[str, str], platform: str) -> bool:
    """Return whether a browser can be displayed, or is configured."""
    return has_graphical_session(platform, environ) or bool(environ.get("BROWSER"))


def open_in_browser(url: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Open `url`, and return whether that succeeded. Blocks.

    A systemd service is sandboxed, and a browser that is its child would be too. The browser
    is therefore started in a transient unit of its own.
    """
    runner = shutil.which("systemd-run") if environ.get("INVOCATION_ID") else None
    opener = environ.get("BROWSER") or shutil.which("xdg-open")
    if runner is not None and opener is not None and "%s" not in opener:
        command = [runner, "--user", "--quiet", "--collect", "--", opener, url]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
        if done.returncode == 0:
            return True
    return webbrowser.open(url)


class BrowserOpener(Service):
    """Opens URLs that no other user of the machine may see.

    `has_display` tells whether there is a display for a browser. `browse` opens a URL and returns
    whether it did; it may block. `name` is that of the file.
    """

    def __init__(
        self,
        reactor: ThreadReactor,
        state: Path,
        has_display: Callable[[], bool],
        browse: Callable[[str], bool] = open_in_browser,
        *,
        name: str = "open.html",
    ) -> None:
        self._reactor = reactor
        self._path = state / "desktop" / name
        self._has_display = has_display
        self._browse = browse
        self._removal_timer = Timeout(reactor, self.remove_file)

    async def open(self, url: str) -> bool:
        """Open `url` in the browser; return whether that succeeded. Raises BadConfiguration."""
        if not self._has_display():
            return False
        write_atomically(self._path, _FILE.format(html.escape(url)).encode())
        self._removal_timer.start(FILE_LIFETIME)
        done: Deferred[bool] = Deferred()
        file = self._path.absolute().as_uri()
        threading.Thread(target=self._browse_in_thread, args=(file, done), daemon=True).start()
        timer = self._reactor.callLater(BROWSER_TIMEOUT, self._resolve, done, True)
        try:
            return await done
        finally:
            if timer.active():
                timer.cancel()

    def _browse_in_thread(self, file: str, done: Deferred[bool]) -> None:
        is_open = False
        with suppress(OSError, webbrowser.Error):
            is_open = self._browse(file)
        self._reactor.callFromThread(self._resolve, done, is_open)

    def _resolve(self, done: Deferred[bool], is_open: bool) -> None:
        if not done.called:
            done.callback(is_open)

    def remove_file(self) -> None:
        """Remove the file now."""
        self._removal_timer.cancel()
        with suppress(OSError):
            os.unlink(self._path)

    def stopService(self) -> None:
        """Remove the file."""
        super().stopService()
        self.remove_file()


class ChatPage:
    """Opens the chat page, in its window or with `browser`.

    It is the cloud's page, or that of this machine where there is no login or the cloud cannot be
    reached. `local_link` returns a link to the latter, which logs in once, or an empty string if
    the loopback endpoint has no page. `is_disconnected` tells whether the last attempt to connect
    to the cloud failed.
    """

    _log = Logger()

    def __init__(
        self,
        session: CloudSession,
        browser: BrowserOpener,
        window: WebviewWindow,
        clock: Clock,
        local_link: Callable[[], str] = lambda: "",
        is_disconnected: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock = clock
        self._session = session
        self._browser = browser
        self._window = window
        self._local_link = local_link
        self._is_disconnected = is_disconnected

    async def open(self, view: str = "", *, is_local: bool = False) -> OpenResult:
        """Open the page, at `view` if given; with `is_local`, that of this machine.

        Raises CtllmError where there is neither a cloud nor a loopback endpoint.
        """
        if self._window.is_open and not view and not is_local:
            self._window.show()
            return OpenResult(True, window=True)
        link, is_local = await self._choose_link(is_local)
        url = f"{link}&view={view}" if view else link
        if await self._window.open(url):
            return OpenResult(True, window=True, local=is_local)
        if not await self._browser.open(url):
            return OpenResult(False, url, local=is_local)
        return OpenResult(True, local=is_local)

    async def _choose_link(self, is_local: bool) -> tuple[str, bool]:
        """Return a link that logs in, and whether it is to this machine's page."""
        if is_local or self._is_disconnected():
            if link := self._local_link():
                return link, True
            if is_local:
                raise BadRequest(NO_LOCAL_PAGE)
        asking = Deferred.fromCoroutine(self._cloud_link())
        try:
            return await wait_at_most(self._clock, CLOUD_TIMEOUT, asking), False
        except (CtllmError, TimeoutError) as error:
            link = self._local_link()
            if not link:
                raise _as_ctllm_error(error) from error
            if not isinstance(error, Unauthorized):
                self._log.info("The cloud's page cannot be opened: {why}", why=str(error))
            return link, True

    async def _cloud_link(self) -> str:
        client = self._session.client()
        code = await client.create_login_code(await self._session.access_token())
        return f"{client.url}/#invite={code}"


def _as_ctllm_error(error: Exception) -> CtllmError:
    if isinstance(error, CtllmError):
        return error
    return BadGateway(f"The cloud did not respond within {CLOUD_TIMEOUT:g} s. Try again later.")
