"""Files that are readable by their owner alone and replaced atomically."""

from __future__ import annotations

import os
import tempfile
import time
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
