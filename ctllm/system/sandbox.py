"""What a process of Linux gives up for good: files (Landlock), privileges, being looked into.

Elsewhere, and on kernels before 5.13 or with Landlock switched off, less is given up;
`landlock_version` tells. Python has no names for these calls, so they are made by number:
the numbers are the same on every machine that Python runs on.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable

#: prctl(2).
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
#: landlock(7): the three calls, the flag that asks for the version, the kind of rule for files.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: Which rights on files each version knows (a mask), the newest first; all of them are taken away.
_FILES = ((5, 0xFFFF), (3, 0x7FFF), (2, 0x3FFF), (1, 0x1FFF))
#: Binding and connecting by TCP (version 4); abstract UNIX sockets and signals (version 6).
_TCP, _SCOPES = (4, 0b11), (6, 0b11)


def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 where it has none, or it is switched off."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION))


def forbid_new_privileges() -> None:
    """No program that this process starts may have more rights than it has."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def forbid_inspection() -> None:
    """Other processes of the same user may neither trace this one, nor read its memory or files."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def restrict_file_access(readable: Iterable[str]) -> None:
    """From now on only what is below the folders or files `readable` can be opened, to be read.

    Nothing can be written, made, removed or run; as far as the kernel's version knows, no TCP
    connection can be made, no port bound, and no process outside signalled or traced. Files and
    sockets that are open stay. Asks for `forbid_new_privileges` before; does nothing without
    Landlock.
    """
    version = landlock_version()
    if not version:
        return
    files = next(mask for since, mask in _FILES if version >= since)
    words = [files]
    words += [mask if version >= since else 0 for since, mask in (_TCP, _SCOPES)]
    # Kernels take a shorter or a longer structure, as long as what they do not know is zero.
    attributes = struct.pack("3Q", *words)
    ruleset = _call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str) -> None:
    """Let what is below be read, if it is there."""
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
    if sys.modules.get("ctypes", sys) is None:  # a lean process has it as if not installed
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
    """Make a system call; gives -1 where it fails."""
    try:
        return _call("syscall", *arguments)
    except OSError:
        return -1
