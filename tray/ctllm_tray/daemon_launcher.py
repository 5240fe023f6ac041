"""Starts the daemon where none runs: a process of its own, which outlives the tray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctllm.system.launch_commands import desktop_command

#: Bytes of the daemon's log that are kept when another one is started.
_KEPT = 1024 * 1024


def start(state: Path, options: Sequence[str]) -> None:
    """Start it; its log goes to a file in the `state` folder. Raises OSError."""
    folder = state / "desktop"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "desktop.log"
    if path.exists() and path.stat().st_size > _KEPT:
        path.replace(path.with_suffix(".log.1"))
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NO_WINDOW}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as log:
        daemon = subprocess.Popen(  # noqa: S603
            [*desktop_command(), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **detached,
        )
    # It may end before the tray; whoever waits for its end must not see it unburied.
    threading.Thread(target=daemon.wait, name="daemon", daemon=True).start()
