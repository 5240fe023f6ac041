"""A lock between processes that does not block the reactor while another one holds it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ctllm.errors import SecretStoreUnavailable
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.interfaces import Clock
from ctllm.system.file_lock import try_lock

#: Seconds to wait for the lock: another process may hold it during a request and a dialog.
LOCK_TIMEOUT = 90.0
#: Seconds between two attempts.
RETRY_INTERVAL = 0.05


@asynccontextmanager
async def exclusive(path: Path, clock: Clock, timeout: float = LOCK_TIMEOUT) -> AsyncIterator[None]:
    """Hold the lock of the file at `path` during the block.

    It excludes other processes, and other coroutines of this one. The system releases it when the
    process ends. Raises SecretStoreUnavailable after `timeout` seconds, or if it cannot be opened.
    """
    handle = await _acquire(path, clock, timeout)
    try:
        yield
    finally:
        os.close(handle)


async def _acquire(path: Path, clock: Clock, timeout: float) -> int:
    deadline = clock.seconds() + timeout
    while (handle := _try_lock(path)) is None:
        if clock.seconds() >= deadline:
            raise SecretStoreUnavailable(
                f"Cannot lock {path}: another process has held the lock for {timeout:g} seconds. "
                "End it, then try again."
            )
        await sleep(clock, RETRY_INTERVAL)
    return handle


def _try_lock(path: Path) -> int | None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return try_lock(path)
    except OSError as error:
        raise SecretStoreUnavailable(f"Cannot open {path}: {error.strerror}.") from error
