"""Tells cheaply whether the entries of a directory have changed, whichever process changes them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ctllm.system.private_dir import PrivateDirectory

SETTLING_SECONDS = 2.5
"""Seconds after a change in which another one may get the same time stamp.

File systems have time stamps of up to two seconds; Linux' own are at most 10 ms apart.
"""


class DirectoryMonitor:
    """Tells whether files of `directory` were created, replaced or removed since it was last read.

    `now` returns epoch seconds, the time of the file system.
    """

    def __init__(self, directory: PrivateDirectory, now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._now = now
        self._read: tuple[int, int] | None = None
        self._current: tuple[int, int] | None = None

    def has_changed(self) -> bool:
        """Whether the directory may differ from how it was read last. Read it after this."""
        version = self._directory.version()
        _, modified_ns = version
        # As in git's index: a change that follows at once may not change the time stamp.
        is_settled = abs(self._now() - modified_ns / 1e9) >= SETTLING_SECONDS
        self._current = version if is_settled else None
        return self._read is None or version != self._read

    def mark_read(self) -> None:
        """Note that the directory was read successfully since `has_changed`."""
        self._read = self._current
