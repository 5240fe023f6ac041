"""Restrictions of the own process on Linux: Landlock, no new privileges, no inspection.

Where Linux or Landlock (since 5.13) is missing or disabled, the functions do less or nothing;
`landlock_version` tells. The standard library lacks these system calls, so they are made by
number; the numbers are the same on all architectures that Python supports.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress

#: prctl(2).
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
#: landlock(7): the three system calls, the flag to query the version, the rule type for files.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: (version, mask): the access rights to files that a version handles, newest first.
_FILES = ((5, 0xFFFF), (3, 0x7FFF), (2, 0x3FFF), (1, 0x1FFF))
#: (version, mask): TCP bind and connect; scopes of abstract UNIX sockets and signals.
_TCP, _SCOPES = (4, 0b11), (6, 0b11)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock; 0 if it is missing or disabled."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION))


def forbid_new_privileges() -> None:
    """Keep this process and its children from gaining privileges through execve(2)."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def forbid_inspection() -> None:
    """Keep other processes of the user from tracing this one and reading its memory in /proc."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def forbid_core_dumps() -> None:
    """Keep the memory of this process and its children from being written to a core file.

    A limit of 0 does not concern programs that core_pattern names after a pipe, such as
    systemd-coredump and apport. Linux starts none where the limit is 1, and writes no file then,
    either (`vfs_coredump`). Nothing can raise the limit again but root.
    """
    if sys.platform == "win32":
        return
    import resource

    limit = 1 if sys.platform == "linux" else 0
    with suppress(ValueError, OSError):  # the limit is 0 already, and only root can raise it
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def restrict_file_access(readable: Iterable[str]) -> None:
    """Allow only reading, and only of the files and directories `readable` and what is in them.

    Writing, creating, removing and executing are forbidden; with newer versions also TCP
    connections, binding of ports, and signals to processes outside. Open files and sockets stay
    usable. Needs `forbid_new_privileges` first; does nothing without Landlock.
    """
    version = landlock_version()
    if not version:
        return
    files = next(mask for since, mask in _FILES if version >= since)
    words = [files]
    words += [mask if version >= since else 0 for since, mask in (_TCP, _SCOPES)]
    # Kernels accept a shorter or longer structure if the part that they do not know is zero.
    attributes = struct.pack("3Q", *words)
    ruleset = _call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str) -> None:
    """Allow reading of `path`, if it exists."""
    if sys.platform != "linux":
        return
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        _call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, found), 0)
    finally:
        os.close(found)


def _call(name: str, *arguments: int | bytes | None) -> int:
    """Call a function of the C library; raises OSError."""
    if sys.modules.get("ctypes", sys) is None:  # a proxy process blocks its import
        del sys.modules["ctypes"]
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(getattr(library, name)(*wide))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(*arguments: int | bytes | None) -> int:
    """Make a system call; return -1 if it fails."""
    try:
        return _call("syscall", *arguments)
    except OSError:
        return -1
