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
_KILL, _SETGID, _SETUID = 5, 6, 7
_PROC = Path("/proc/self")


class Uids:
    """Gives users' numbers out of a range, each to one proxy at a time.

    What was given back is given again as late as can be.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._any = bool(numbers)
        self._free = deque(numbers)

    def reserve(self) -> int | None:
        """Give one, or None for the cloud's own user; ProxyUnavailable if all are in use."""
        if not self._any:
            return None
        if not self._free:
            raise ProxyUnavailable("All users of cloud.proxy_uids are in use: make it larger.")
        return self._free.popleft()

    def release(self, uid: int | None) -> None:
        """Take one back: nothing of it runs any more."""
        if uid is not None:
            self._free.append(uid)


def may_become(numbers: Sequence[int], proc: Path = _PROC) -> bool:
    """Whether this process can start others as these users, and end them.

    Root cannot where its capabilities were taken away, nor become a user that its user namespace
    does not have.
    """
    if sys.platform == "win32" or not numbers or os.geteuid() != 0:
        return False
    with suppress(OSError, ValueError, IndexError):
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        capabilities = int(status["CapEff"], 16)
        if not all(capabilities >> each & 1 for each in (_KILL, _SETGID, _SETUID)):
            return False
        return all(_maps(proc / name, numbers) for name in ("uid_map", "gid_map"))
    return True  # no Linux: root is root


def _maps(path: Path, numbers: Sequence[int]) -> bool:
    ranges = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    first, last = numbers[0], numbers[-1]
    return any(start <= first and last < start + count for start, _, count in ranges)
