"""Which user each streaming proxy runs as, where proxies are processes."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ctllm.errors import ProxyUnavailable

#: What it takes to become another user, and to end that user's processes (capabilities(7)).
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 5, 6, 7
_PROC_SELF = Path("/proc/self")


class UidAllocator:
    """Gives users' numbers out of a range, each to one proxy at a time.

    What was given back is given again as late as can be.
    """

    def __init__(self, uids: Sequence[int]) -> None:
        self._is_enabled = bool(uids)
        self._free = deque(uids)

    def reserve(self) -> int | None:
        """Give one, or None for the cloud's own user; ProxyUnavailable if all are in use."""
        if not self._is_enabled:
            return None
        if not self._free:
            raise ProxyUnavailable("All users of cloud.proxy_uids are in use: make it larger.")
        return self._free.popleft()

    def release(self, uid: int | None) -> None:
        """Take one back: nothing of it runs any more."""
        if uid is not None:
            self._free.append(uid)


def can_switch_to(uids: Sequence[int], proc: Path = _PROC_SELF) -> bool:
    """Whether this process can start others as these users, and end them.

    Root cannot where its capabilities were taken away, nor become a user that its user namespace
    does not have.
    """
    if sys.platform == "win32" or not uids or os.geteuid() != 0:
        return False
    with suppress(OSError, ValueError, IndexError):
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        capabilities = int(status["CapEff"], 16)
        if not all(capabilities >> each & 1 for each in (_CAP_KILL, _CAP_SETGID, _CAP_SETUID)):
            return False
        return all(_is_mapped(proc / name, uids) for name in ("uid_map", "gid_map"))
    return True  # no Linux: root is root


def _is_mapped(path: Path, uids: Sequence[int]) -> bool:
    ranges = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    first, last = uids[0], uids[-1]
    return any(start <= first and last < start + count for start, _, count in ranges)
