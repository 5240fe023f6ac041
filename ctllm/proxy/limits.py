"""What a proxy process takes from itself before it serves anyone."""

from __future__ import annotations

import sys

#: What a proxy takes before it holds anything for anybody, with some to spare.
BASE = 48 << 20
#: The least budget, whatever is configured.
LEAST = 8 << 20


def memory_budget(memory_bytes: int) -> int:
    """Give how many bytes a proxy that may take `memory_bytes` may hold for its exchanges.

    That is two thirds of what is left: the rest is for buffers that are larger than what is in
    them, and for memory that is free but in pieces.
    """
    return max(LEAST, (memory_bytes - BASE) * 2 // 3)


def confine(memory_bytes: int, max_open_files: int) -> None:
    """Set this process's resource limits, where the system has them: they cannot be raised again.

    Files cannot grow past zero bytes: a proxy stores nothing, and now it could not.
    """
    if sys.platform == "win32":
        return
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, max_open_files)
    if sys.platform == "linux":  # elsewhere the kernel counts shared libraries into it, or ignores
        _lower(resource.RLIMIT_DATA, memory_bytes)


def _lower(which: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (allowed, allowed))
