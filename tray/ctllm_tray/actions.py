"""What each entry of the menu does. It may take a while, so it is done in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctllm.errors import CtllmError, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm_tray.login_dialog import ask_for_link

#: Shows a title and words.
Notify = Callable[[str, str], None]


class Clicks:
    """Does what was clicked, one after the other. `end` is called when the tray is to end."""

    def __init__(
        self, state: Path, notify: Notify, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._state = state
        self._notify = notify
        self._begin = begin
        self._end = end
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="clicks", daemon=True).start()

    def _work(self) -> None:
        while True:
            what = self._waiting.get()
            try:
                what()
            except CtllmError as error:
                self._notify("That did not work", error.message)
            except Exception as error:  # a bug in one entry must not take the others with it
                self._notify("That did not work", str(error) or repr(error))

    def _ask(self, kind: type[Any], **told: Any) -> Any:
        with IpcClient(self._state) as daemon:
            return daemon.call(kind, **told)

    def _later(self, what: Callable[[], None]) -> None:
        self._waiting.put(what)

    def show(self) -> None:
        """Open the chat page."""
        self._later(lambda: self._opened(self._ask(protocol.Show)))

    def hide(self) -> None:
        """Hide its window."""
        self._later(lambda: self._ask(protocol.Hide))

    def settings(self) -> None:
        """Open the settings."""
        self._later(lambda: self._opened(self._ask(protocol.Settings)))

    def _opened(self, answer: Any) -> None:
        if not answer["opened"]:
            # The address would sign in whoever reads it, in a log or a list of notifications.
            self._notify(
                "There is no browser to open", "Run in a terminal, for a link to open: ctllm show"
            )

    def prefer(self, preference: str) -> None:
        """Say where requests go."""
        self._later(lambda: self._ask(protocol.Prefer, policy=preference))

    def sign_in(self) -> None:
        """Ask for a link, and sign in with it."""
        self._later(self._sign_in)

    def _sign_in(self) -> None:
        link = ask_for_link()
        if link is None:
            self._notify("Sign in with a command", "Run: ctllm login")
        elif link:
            self._ask(protocol.Login, link=link)

    def sign_out(self) -> None:
        """Sign out."""
        self._later(lambda: self._ask(protocol.Logout))

    def about(self) -> None:
        """Say what this is."""
        self._later(self._about)

    def _about(self) -> None:
        about = self._ask(protocol.About)
        title = f"{about['name']} {about['version']}"
        self._notify(title, f"{about['homepage']}\nState: {about['state_folder']}")

    def start(self) -> None:
        """Start the daemon."""
        self._later(self._begin)

    def quit(self) -> None:
        """End the daemon in order, and then the tray."""
        self._later(self._quit)

    def _quit(self) -> None:
        try:
            with IpcClient(self._state) as daemon:
                waits = daemon.call(protocol.Quit)["under_way"]
                if waits:
                    self._notify("Quitting", f"Waiting for {waits} answers under way")
                for _ in daemon.events():
                    pass
        except NotRunning:
            pass  # there is nothing to end but ourselves
        except CtllmError:
            pass  # it has ended, which is how this goes well
        self._end()
