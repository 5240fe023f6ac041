"""An allocator of the user ids of proxies that are processes."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ctllm.errors import ProxyUnavailable

#: The capabilities to switch to another user and to signal its processes (capabilities(7)).
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 5, 6, 7
_PROC_SELF = Path("/proc/self")


class UidAllocator:
    """Assigns each proxy a user id of its own out of `uids`.

    A released user id is reused as late as possible.
    """

    def __init__(self, uids: Sequence[int]) -> None:
        self._is_enabled = bool(uids)
        self._free = deque(uids)

    def reserve(self) -> int | None:
        """Return a user id, or None for the cloud's own user if there are no `uids`.

        Raises ProxyUnavailable if all are in use.
        """
        if not self._is_enabled:
            return None
        if not self._free:
            raise ProxyUnavailable(
                "All user ids of cloud.proxy_uids are in use. Choose a larger range."
            )
        return self._free.popleft()

    def release(self, uid: int | None) -> None:
        """Release a user id, of which no process runs any more."""
        if uid is not None:
            self._free.append(uid)


def can_switch_to(uids: Sequence[int], proc: Path = _PROC_SELF, euid: int | None = None) -> bool:
    """Return whether a process with this effective user id can start and stop processes of `uids`.

    The default is this process.

    Root cannot without the capabilities, nor as a user that its user namespace does not map.
    """
    if sys.platform == "win32" or not uids or (os.geteuid() if euid is None else euid) != 0:
        return False
    with suppress(OSError, ValueError, IndexError):
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        capabilities = int(status["CapEff"], 16)
        if not all(capabilities >> each & 1 for each in (_CAP_KILL, _CAP_SETGID, _CAP_SETUID)):
            return False
        return all(_is_mapped(proc / name, uids) for name in ("uid_map", "gid_map"))
    return True  # not Linux, so there are no capabilities


def _is_mapped(path: Path, uids: Sequence[int]) -> bool:
    ranges = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    first, last = uids[0], uids[-1]
    return any(start <= first and last < start + count for start, _, count in ranges)
