"""A file that one process holds; the system lets go of it when that process ends, however."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds between two attempts to get a lock.
_RETRY_INTERVAL = 0.01

if sys.platform == "win32":
    import msvcrt

    def hold(handle: int) -> None:
        """Hold the file of an open `handle`; raises OSError while another process does."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def hold(handle: int) -> None:
        """Hold the file of an open `handle`; raises OSError while another process does."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the file at `path`, made where it is missing, for the length of the block.

    Raises TimeoutError where another holds it for `patience` seconds, OSError where it cannot be
    opened. It blocks: hold it for as long as it takes to replace a small file, and no longer.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        until = time.monotonic() + timeout
        while not _try_acquire(handle):
            if time.monotonic() >= until:
                raise TimeoutError(f"another process holds it for {timeout:g} seconds")
            time.sleep(_RETRY_INTERVAL)
        yield
    finally:
        os.close(handle)


def _try_acquire(handle: int) -> bool:
    try:
        hold(handle)
    except OSError:
        return False
    return True
