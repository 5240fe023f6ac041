"""Exclusive locks of files, which the system releases when their process ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds between two attempts to acquire a lock.
_RETRY_INTERVAL = 0.01

if sys.platform == "win32":
    import msvcrt

    def acquire_lock(handle: int) -> None:
        """Lock the open file `handle`; raises OSError if another process holds the lock."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def acquire_lock(handle: int) -> None:
        """Lock the open file `handle`; raises OSError if another process holds the lock."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is created if it is missing, during the block.

    Blocks for at most `timeout` seconds and then raises TimeoutError; raises OSError if the file
    cannot be opened. Hold it only briefly, such as to replace a small file.
    """
    handle = _open(path)
    try:
        deadline = time.monotonic() + timeout
        while not _try_acquire(handle):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process has held the lock for {timeout:g} seconds")
            time.sleep(_RETRY_INTERVAL)
        yield
    finally:
        os.close(handle)


def try_lock(path: Path) -> int | None:
    """Return the descriptor of the file at `path`, locked; None while another one has the lock.

    The lock is held until the descriptor is closed. Raises OSError if it cannot be opened.
    """
    handle = _open(path)
    if _try_acquire(handle):
        return handle
    os.close(handle)
    return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)


def _try_acquire(handle: int) -> bool:
    try:
        acquire_lock(handle)
    except OSError:
        return False
    return True
