"""Starts the daemon as a process that outlives the tray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ctllm.system.launch_commands import desktop_command

#: The size in bytes from which on the daemon's log is rotated before a start.
_MAX_LOG_SIZE = 1024 * 1024


def launch_daemon(state_dir: Path, options: Sequence[str]) -> None:
    """Start the daemon, with its log in the folder `state_dir`; raises OSError."""
    folder = state_dir / "desktop"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "desktop.log"
    if path.exists() and path.stat().st_size > _MAX_LOG_SIZE:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NO_WINDOW
    with os.fdopen(descriptor, "ab") as log:
        daemon = subprocess.Popen(  # noqa: S603
            [*desktop_command(), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=sys.platform != "win32",
            creationflags=flags,
        )
    # Reap the process if it ends before the tray.
    threading.Thread(target=daemon.wait, name="daemon", daemon=True).start()
