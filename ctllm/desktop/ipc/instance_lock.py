"""One daemon for each state folder: the system forgets the lock when its holder ends, however."""

from __future__ import annotations

import os
from pathlib import Path

from ctllm.common.json_decoder import decode_json
from ctllm.errors import BadConfiguration
from ctllm.ipc.protocol import ADDRESS_FILE, DaemonAddress
from ctllm.system.file_lock import acquire_lock


class InstanceLock:
    """The lock of a `state` folder."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state / "desktop" / "lock"
        self._descriptor: int | None = None

    def check(self) -> None:
        """Raise BadConfiguration while another daemon has it. Makes nothing."""
        if self._path.exists():
            self.acquire()
            self.release()

    def acquire(self) -> None:
        """Have it until `release`, or the end; raises BadConfiguration, which says who has it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(
                self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600
            )
        except OSError as error:
            raise BadConfiguration(
                f"{self._path}: cannot be opened ({error.strerror}); "
                "make its folder writable or choose another one with --state-dir"
            ) from error
        try:
            acquire_lock(handle)
        except OSError:
            os.close(handle)
            raise BadConfiguration(self._describe_holder()) from None
        self._descriptor = handle

    def release(self) -> None:
        """Let the next one have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _describe_holder(self) -> str:
        try:
            first = decode_json(self._state.joinpath(*ADDRESS_FILE).read_bytes(), DaemonAddress)
            who = f"process {first.pid}, IPC at 127.0.0.1:{first.port}"
        except (OSError, ValueError):
            who = "just starting or ending"
        return (
            f"{self._state}: another desktop runs on this state folder ({who}). "
            "Stop it (ctllm quit), or choose another folder with --state-dir"
        )
