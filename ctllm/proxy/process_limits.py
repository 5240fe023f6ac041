"""What a proxy process takes from itself before it serves anyone."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import twisted
from ctllm.http.message.content_coding import load_zstd
from ctllm.system.sandbox import forbid_inspection, forbid_new_privileges, restrict_file_access

#: What the C library reads to tell the time of day here.
_TIME_ZONES = ("/etc/localtime", "/usr/share/zoneinfo")
#: What a proxy takes before it holds anything for anybody, with some to spare.
BASE_MEMORY = 48 << 20
#: The least budget, whatever is configured.
MIN_BUDGET = 8 << 20


def memory_budget(memory_bytes: int) -> int:
    """Give how many bytes a proxy that may take `memory_bytes` may hold for its exchanges.

    That is two thirds of what is left: the rest is for buffers that are larger than what is in
    them, and for memory that is free but in pieces.
    """
    return max(MIN_BUDGET, (memory_bytes - BASE_MEMORY) * 2 // 3)


def switch_user(uid: int) -> None:
    """Be another user from now on, in a group of the same number alone; only root can.

    Where that user cannot read Python's files, as in root's home, what is otherwise imported when
    it is first needed is imported now.
    """
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    files = (os.__file__, __file__, twisted.__file__)
    can_read = all(os.access(each, os.R_OK, effective_ids=True) for each in files)
    os.seteuid(0)
    if not can_read:
        load_zstd()
        import_module("multipart")
    os.setgid(uid)  # of root this sets the real, the effective and the saved id (setuid(2))
    os.setuid(uid)


def set_resource_limits(memory_bytes: int, max_open_files: int) -> None:
    """Set this process's resource limits, where the system has them: they cannot be raised again.

    Files cannot grow past zero bytes: a proxy stores nothing, and now it could not. Nor can it
    start a process, which might outlive the cloud.
    """
    if sys.platform == "win32":
        return
    import resource

    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_FSIZE, 0)
    _lower_limit(resource.RLIMIT_NPROC, 0)
    _lower_limit(resource.RLIMIT_NOFILE, max_open_files)
    if sys.platform == "linux":  # elsewhere the kernel counts shared libraries into it, or ignores
        _lower_limit(resource.RLIMIT_DATA, memory_bytes)


def enter_sandbox() -> None:
    """Keep this process to the files of Python, which are read when a module is first used."""
    forbid_new_privileges()
    restrict_file_access([*filter(os.path.isabs, sys.path), *_TIME_ZONES])
    forbid_inspection()


def _lower_limit(which: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (allowed, allowed))
