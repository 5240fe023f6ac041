"""The chat page in its window or the browser, signed in by a link that is good once.

Any user of a machine can read the arguments of any program, so the link is not among them: the
browser opens a file that only its owner can read, and the file leads it on.
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
from typing import Any

from twisted.internet.defer import Deferred

from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.ipc.webview_process import WebviewWindow
from ctllm.ipc.messages import OpenResult
from ctllm.reactor.services import Service
from ctllm.system.atomic_write import write_atomically
from ctllm.system.display import has_graphical_session

#: Seconds that the file stays: a browser that is not running yet takes some to start.
FILE_LIFETIME = 60.0
#: Seconds after which a browser that does not return counts as opened: some stay in front.
BROWSER_TIMEOUT = 5.0

_FILE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="refresh" content="0;url={0}"><meta name="referrer" content="no-referrer">
<title>ctllm</title><p><a href="{0}">Go on to ctllm</a></p></html>
"""


def has_display(environ: Mapping[str, str], platform: str) -> bool:
    """Whether a browser has somewhere to show itself, or somebody says which one does."""
    return has_graphical_session(platform, environ) or bool(environ.get("BROWSER"))


def open_in_browser(url: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Open it, and say whether that could be done; blocks.

    A service of systemd's has few rights, and so would a browser that is its child: there it is a
    unit of its own.
    """
    runner = shutil.which("systemd-run") if environ.get("INVOCATION_ID") else None
    opener = environ.get("BROWSER") or shutil.which("xdg-open")
    if runner is not None and opener is not None and "%s" not in opener:
        words = [runner, "--user", "--quiet", "--collect", "--", opener, url]
        done = subprocess.run(words, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
        if done.returncode == 0:
            return True
    return webbrowser.open(url)


class ChatPage(Service):
    """Opens it. `browse` opens an address and says whether it did; it may block."""

    def __init__(
        self,
        session: CloudSession,
        reactor: Any,
        state: Path,
        has_display: Callable[[], bool],
        window: WebviewWindow,
        browse: Callable[[str], bool] = open_in_browser,
    ) -> None:
        self._session = session
        self._reactor = reactor
        self._path = state / "desktop" / "open.html"
        self._has_display = has_display
        self._window = window
        self._browse = browse
        self._removal_timer: Any = None

    async def open(self, view: str = "") -> OpenResult:
        """Open the page, at `where` of it; raises CtllmError where there is no sign-in."""
        if self._window.is_open and not view:
            self._window.show()
            return OpenResult(True, window=True)
        url = await self._login_link(view)
        if await self._window.open(url):
            return OpenResult(True, window=True)
        if not self._has_display() or not await self._open_in_browser(url):
            return OpenResult(False, url)
        return OpenResult(True)

    async def _login_link(self, view: str) -> str:
        client = self._session.client()
        invite = await client.create_login_code(await self._session.access_token())
        view = f"&view={view}" if view else ""
        return f"{client.url}/#invite={invite}{view}"

    async def _open_in_browser(self, url: str) -> bool:
        write_atomically(self._path, _FILE.format(html.escape(url)).encode())
        if self._removal_timer is not None and self._removal_timer.active():
            self._removal_timer.cancel()
        self._removal_timer = self._reactor.callLater(FILE_LIFETIME, self._remove_file)
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
        opened = False
        with suppress(OSError, webbrowser.Error):
            opened = self._browse(file)
        self._reactor.callFromThread(self._resolve, done, opened)

    def _resolve(self, done: Deferred[bool], opened: bool) -> None:
        if not done.called:
            done.callback(opened)

    def _remove_file(self) -> None:
        with suppress(OSError):
            os.unlink(self._path)

    def stopService(self) -> None:
        """Leave nothing behind."""
        super().stopService()
        if self._removal_timer is not None and self._removal_timer.active():
            self._removal_timer.cancel()
        self._remove_file()
