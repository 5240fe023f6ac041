"""Follows the daemon for ever: a thread that hears of changes, and looks for it when it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ctllm.common.json_decoder import decode_json
from ctllm.errors import CtllmError
from ctllm.ipc.client import IpcClient
from ctllm.ipc.messages import Status
from ctllm_tray.view_model import NOT_RUNNING, Icon, View, shortened, view_of

#: Seconds between two attempts to reach it: the first, and at most.
SOON, LATE = 0.2, 3.0


class Watch:
    """Calls `on_view` from its own thread, for every change."""

    def __init__(self, state: Path, on_view: Callable[[View], None]) -> None:
        self._state = state
        self._on_view = on_view
        self._stopping = threading.Event()
        self._sooner = threading.Event()
        self._daemon: IpcClient | None = None
        self._absent = NOT_RUNNING
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, also in the middle of waiting."""
        self._stopping.set()
        self._sooner.set()
        daemon = self._daemon
        if daemon is not None:
            daemon.close()
        self._thread.join(5)

    def expect(self, view: View) -> None:
        """Somebody has started the daemon: show `view` until it is there, and look at once."""
        self._absent = view
        self._sooner.set()

    def _run(self) -> None:
        pause = SOON
        while not self._stopping.is_set():
            try:
                self._follow()
                pause = SOON
            except CtllmError:
                self._on_view(self._absent)
            except Exception as error:  # a daemon of another version, say: it may be replaced
                self._on_view(
                    View(Icon.ERROR, shortened(f"what the daemon says is no use: {error}"))
                )
            if self._sooner.wait(pause):
                self._sooner.clear()
                pause = SOON
            else:
                pause = min(pause * 1.5, LATE)
                if pause == LATE:
                    self._absent = NOT_RUNNING  # what was started does not come

    def _follow(self) -> None:
        """Follow one daemon to its end; raises CtllmError where there is none."""
        with IpcClient(self._state) as daemon:
            self._daemon = daemon
            view = view_of(daemon.status(subscribe=True))
            self._absent = NOT_RUNNING
            self._on_view(view)
            try:
                for event in daemon.events():
                    if event.event == "status":
                        view = view_of(decode_json(event.data, Status))
                    elif event.event == "quitting":
                        view = replace(view, line="quitting …", quitting=True)
                    self._on_view(view)
            except CtllmError:
                self._on_view(NOT_RUNNING)
            finally:
                self._daemon = None
