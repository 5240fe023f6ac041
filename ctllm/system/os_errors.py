"""Errors of the file system as errors that tell people what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctllm.errors import BadConfiguration, CtllmError

# EFBIG is the limit of a process or a quota of some file systems.
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_disk_full(error: OSError) -> bool:
    """Return whether nothing can be written before some space is freed."""
    return error.errno in _DISK_FULL


@contextmanager
def translate_os_errors(
    action: str, path: Path, disk_full_error: type[CtllmError]
) -> Iterator[None]:
    """Raise BadConfiguration in place of an OSError, or `disk_full_error` if the disk is full.

    The message says that ctllm cannot `action` `path`, such as "write".
    """
    try:
        yield
    except OSError as error:
        what = f"Cannot {action} {path}: {error.strerror}."
        if is_disk_full(error):
            raise disk_full_error(f"{what} Free some space on the disk.") from error
        raise BadConfiguration(
            f"{what} The user who runs ctllm must be able to read and write it."
        ) from error
