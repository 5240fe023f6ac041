"""Files that are readable by their owner alone and replaced atomically."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ctllm.errors import BadConfiguration


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path`; raises BadConfiguration if its directory is not writable."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)  # after a failure: it may contain secrets
    except OSError as error:
        raise BadConfiguration(
            f"Cannot write to {path.parent}: {error.strerror}. Make it writable, or choose another "
            "directory with --state-dir."
        ) from error


class PreparedFile:
    """A file that is written to the disk, and not yet at its `path`. Every method raises OSError.

    So several files can be prepared before the first of them takes the place of another.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        self._path, self._temporary = path, Path(temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Replace the file at `path`."""
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Remove the file, unless it was committed."""
        self._temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can; raises OSError."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def overwrite_and_remove(path: Path) -> None:
    """Overwrite a file with zeros, and remove it; raises OSError if it cannot be removed.

    A disk may keep the old blocks all the same, as solid-state disks do, and a full file system may
    refuse to write.
    """
    with suppress(OSError), path.open("r+b", buffering=0) as file:
        remaining = os.fstat(file.fileno()).st_size
        zeros = bytes(min(remaining, 1 << 20))
        while remaining > 0:
            remaining -= file.write(zeros[:remaining]) or 0
        os.fsync(file.fileno())
    path.unlink()


def rename_damaged(path: Path) -> Path:
    """Rename a damaged file, so that it can be inspected, and return its new path."""
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    renamed = path.with_name(f"{path.name}.damaged-{when}")
    number = 1
    while renamed.exists():
        number += 1
        renamed = path.with_name(f"{path.name}.damaged-{when}-{number}")
    try:
        path.rename(renamed)
    except OSError as error:
        raise BadConfiguration(
            f"{path} is damaged and cannot be renamed: {error.strerror}. Rename it yourself."
        ) from error
    return renamed
