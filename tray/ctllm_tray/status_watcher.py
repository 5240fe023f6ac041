"""Follows the daemon's status in a thread, and reconnects when the daemon stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ctllm.common.json_decoder import decode_json
from ctllm.errors import CtllmError
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import Status
from ctllm_tray.view_model import NOT_RUNNING, Icon, View, truncate, view_from_status

#: Seconds between two attempts to connect: at first, and at most.
MIN_DELAY, MAX_DELAY = 0.2, 3.0


class StatusWatcher:
    """Calls `on_view` from its thread with each new view."""

    def __init__(
        self,
        state_dir: Path,
        on_view: Callable[[View], None],
        connect: Callable[[Path], IpcClient] = IpcClient,
        *,
        min_delay: float = MIN_DELAY,
        max_delay: float = MAX_DELAY,
    ) -> None:
        self._state_dir = state_dir
        self._on_view = on_view
        self._connect = connect
        self._min_delay, self._max_delay = min_delay, max_delay
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._daemon: IpcClient | None = None
        self._view_without_daemon = NOT_RUNNING
        self._thread = threading.Thread(target=self._run, name="status watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, also while it waits."""
        self._stopping.set()
        self._wake.set()
        daemon = self._daemon
        if daemon is not None:
            daemon.close()
        self._thread.join(5)

    def expect_daemon(self, view: View) -> None:
        """Show `view` until the daemon that was just started responds; try at once."""
        self._view_without_daemon = view
        self._wake.set()

    def _run(self) -> None:
        delay = self._min_delay
        while not self._stopping.is_set():
            try:
                self._follow()
                delay = self._min_delay
            except CtllmError:
                self._on_view(self._view_without_daemon)
            except Exception as error:  # for example a daemon of another version
                self._on_view(View(Icon.ERROR, truncate(f"Unknown response: {error}")))
            if self._wake.wait(delay):
                self._wake.clear()
                delay = self._min_delay
            else:
                delay = min(delay * 1.5, self._max_delay)
                if delay == self._max_delay:
                    self._view_without_daemon = NOT_RUNNING  # it did not start

    def _follow(self) -> None:
        """Follow a daemon until it stops; raises CtllmError where none is running."""
        with self._connect(self._state_dir) as daemon:
            self._daemon = daemon
            view = view_from_status(daemon.status(subscribe=True))
            self._view_without_daemon = NOT_RUNNING
            self._on_view(view)
            try:
                for event in daemon.events():
                    if event.event == "status":
                        view = view_from_status(decode_json(event.data, Status))
                    elif event.event == "quitting":
                        view = replace(view, status_line="Quitting", is_quitting=True)
                    self._on_view(view)
            except CtllmError:
                self._on_view(NOT_RUNNING)
            finally:
                self._daemon = None
