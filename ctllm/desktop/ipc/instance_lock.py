"""A lock that allows one daemon for each state folder.

The operating system releases it when its process ends, even by a signal.
"""

from __future__ import annotations

import os
from pathlib import Path

from ctllm.common.json_decoder import decode_json
from ctllm.errors import BadConfiguration
from ctllm.ipc.protocol import ADDRESS_FILE, DaemonAddress
from ctllm.system.file_lock import acquire_lock


class InstanceLock:
    """The lock of the state folder `state`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state / "desktop" / "lock"
        self._descriptor: int | None = None

    def check(self) -> None:
        """Raise BadConfiguration if another daemon holds the lock. Creates no files."""
        if self._path.exists():
            self.acquire()
            self.release()

    def acquire(self) -> None:
        """Acquire the lock; raises BadConfiguration, which names the daemon that holds it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600
            )
        except OSError as error:
            raise BadConfiguration(
                f"{self._path} cannot be opened ({error.strerror}). "
                "Make its folder writable, or choose another one with --state-dir."
            ) from error
        try:
            acquire_lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise BadConfiguration(self._describe_holder()) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _describe_holder(self) -> str:
        try:
            address = decode_json(self._state.joinpath(*ADDRESS_FILE).read_bytes(), DaemonAddress)
            holder = f"process {address.pid}, IPC at 127.0.0.1:{address.port}"
        except (OSError, ValueError):
            holder = "which is starting or stopping"
        return (
            f"Another desktop daemon uses the state folder {self._state} ({holder}). "
            "Stop it with `ctllm quit`, or choose another folder with --state-dir."
        )
