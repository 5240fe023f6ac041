"""Limits and privileges that a proxy process sets for itself before it accepts connections."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import twisted
from ctllm.http.message.content_coding import load_zstd
from ctllm.lazy_imports import run_lazy_modules
from ctllm.system.sandbox import forbid_inspection, forbid_new_privileges, restrict_file_access

#: Files that the C library reads to convert to local time.
_TIME_ZONES = ("/etc/localtime", "/usr/share/zoneinfo")
#: Lazy modules that a proxy does not use, whatever it is asked: 14 MB.
_NEVER_USED = frozenset({
    "asyncio", "autobahn.twisted", "autobahn.wamp", "autobahn.wamp.message", "autobahn.wamp.types",
    "autobahn.wamp.websocket", "http.cookiejar", "hyperlink", "twisted.internet.endpoints",
    "twisted.persisted.sob", "twisted.python.zippath",
})  # fmt: skip
#: Bytes that an idle proxy uses, with a margin.
BASE_MEMORY = 48 << 20
#: The minimum budget in bytes, whatever is configured.
MIN_BUDGET = 8 << 20


def memory_budget(memory_bytes: int) -> int:
    """Return the budget in bytes for the streams of a proxy that may use `memory_bytes`.

    That is two thirds of what an idle proxy leaves free. The rest covers the overhead of buffers
    and fragmentation.
    """
    return max(MIN_BUDGET, (memory_bytes - BASE_MEMORY) * 2 // 3)


def switch_user(uid: int) -> None:
    """Switch to the user `uid` and to the group of the same number; only root can.

    If that user cannot read Python's files, as in root's home, import now what is otherwise
    imported on first use.
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
        run_lazy_modules(except_for=_NEVER_USED)
    os.setgid(uid)  # for root this sets the real, the effective and the saved id (setuid(2))
    os.setuid(uid)


def set_resource_limits(memory_bytes: int, max_open_files: int) -> None:
    """Set the resource limits of this process, which it cannot raise again; none on Windows.

    They also prevent it from writing files and from starting processes.
    """
    if sys.platform == "win32":
        return
    import resource

    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_FSIZE, 0)
    _lower_limit(resource.RLIMIT_NPROC, 0)
    _lower_limit(resource.RLIMIT_NOFILE, max_open_files)
    if sys.platform == "linux":  # other kernels ignore it or count shared libraries
        _lower_limit(resource.RLIMIT_DATA, memory_bytes)


def enter_sandbox() -> None:
    """Restrict this process to reading the files of Python, needed for imports on first use."""
    forbid_new_privileges()
    restrict_file_access([*filter(os.path.isabs, sys.path), *_TIME_ZONES])
    forbid_inspection()


def _lower_limit(which: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (allowed, allowed))
