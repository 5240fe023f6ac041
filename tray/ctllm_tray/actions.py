"""What the entries of the menu do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctllm.common.json_decoder import decode_json
from ctllm.errors import CtllmError, NotRunning
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import LoginEnded
from ctllm_tray.login_dialog import ask_for_cloud, choose_provider

#: Shows a notification with a title and a text.
Notify = Callable[[str, str], None]


class TrayActions:
    """Runs actions one after another, in a thread of its own because they block.

    `launch_daemon` starts the daemon; `stop_tray` is called after Quit.
    """

    def __init__(
        self,
        state_dir: Path,
        notify: Notify,
        launch_daemon: Callable[[], None],
        stop_tray: Callable[[], None],
        connect: Callable[[Path], IpcClient] = IpcClient,
    ) -> None:
        self._state_dir = state_dir
        self._notify = notify
        self._launch_daemon = launch_daemon
        self._stop_tray = stop_tray
        self._connect = connect
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="actions", daemon=True).start()

    def _run(self) -> None:
        while True:
            action = self._queue.get()
            try:
                action()
            except CtllmError as error:
                self._notify("Command failed", error.message)
            except Exception as error:  # a defect in one action must not end the thread
                self._notify("Command failed", str(error) or repr(error))

    def _call(self, command: type[Any], **arguments: object) -> Any:
        with self._connect(self._state_dir) as daemon:
            return daemon.call(command, **arguments)

    def show(self) -> None:
        """Open the chat page."""
        self._queue.put(lambda: self._report_open(self._call(protocol.Show)))

    def hide(self) -> None:
        """Hide the chat page's window."""
        self._queue.put(lambda: self._call(protocol.Hide))

    def settings(self) -> None:
        """Open the settings."""
        self._queue.put(lambda: self._report_open(self._call(protocol.Settings)))

    def _report_open(self, result: Mapping[str, Any]) -> None:
        if not result["opened"]:
            # The address logs in whoever reads it, and notifications are kept in lists and logs.
            self._notify("Cannot open a browser", "Run in a terminal: ctllm show")

    def set_policy(self, policy: str) -> None:
        """Set the routing policy."""
        self._queue.put(lambda: self._call(protocol.Prefer, policy=policy))

    def log_in(self) -> None:
        """Ask for a cloud's address or an invite link, and log in with it."""
        self._queue.put(self._log_in)

    def _log_in(self) -> None:
        entered = ask_for_cloud()
        if entered is None:
            self._notify("Log in from a terminal", "Run: ctllm login")
        elif "#" in entered:
            self._call(protocol.Login, link=entered)
        elif entered:
            self._log_in_with_provider(entered)

    def _log_in_with_provider(self, cloud_url: str) -> None:
        daemon = self._connect(self._state_dir)
        try:
            begun = daemon.call(protocol.BeginLogin, cloud_url=cloud_url)
            if begun["state"] == "choose":
                names = [provider["name"] for provider in begun["providers"]]
                chosen = choose_provider(names)
                if chosen is None:
                    self._notify(
                        "Log in from a terminal", f"Run: ctllm login {cloud_url} --provider NAME"
                    )
                if not chosen:
                    daemon.close()
                    return
                begun = daemon.call(protocol.BeginLogin, cloud_url=cloud_url, provider=chosen)
        except BaseException:
            daemon.close()
            raise
        self._show_login(begun, cloud_url)
        # It may take minutes, during which other actions of the menu go on.
        threading.Thread(
            target=self._await_login, args=(daemon,), name="login", daemon=True
        ).start()

    def _show_login(self, begun: Mapping[str, Any], cloud_url: str) -> None:
        if begun["state"] == "code":
            where = "the browser" if begun["opened"] else begun["link"]
            self._notify(f"Your code: {begun['code']}", f"Compare or enter it in {where}")
        elif not begun["opened"]:
            self._notify("Cannot open a browser", f"Run in a terminal: ctllm login {cloud_url}")

    def _await_login(self, daemon: IpcClient) -> None:
        with suppress(CtllmError), daemon:  # the daemon stopped
            for event in daemon.events():
                if event.event == "login":
                    ended = decode_json(event.data, LoginEnded)
                    if ended.error:
                        self._notify("Login failed", ended.error)
                    return

    def log_out(self) -> None:
        """Log out."""
        self._queue.put(lambda: self._call(protocol.Logout))

    def about(self) -> None:
        """Show the version, the homepage and the state folder."""
        self._queue.put(self._about)

    def _about(self) -> None:
        about = self._call(protocol.About)
        title = f"{about['name']} {about['version']}"
        self._notify(title, f"{about['homepage']}\nState folder: {about['state_folder']}")

    def start_daemon(self) -> None:
        """Start the daemon."""
        self._queue.put(self._launch_daemon)

    def quit(self) -> None:
        """Stop the daemon once its requests are finished, then the tray."""
        self._queue.put(self._quit)

    def _quit(self) -> None:
        try:
            with self._connect(self._state_dir) as daemon:
                requests = daemon.call(protocol.Quit)["under_way"]
                if requests:
                    self._notify("Quitting", f"Waiting for {requests} requests to finish")
                for _ in daemon.events():
                    pass
        except NotRunning:
            pass
        except CtllmError:
            pass  # the daemon closed the connection: it has stopped
        self._stop_tray()
