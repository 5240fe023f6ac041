"""Files of the state folder: their owner's alone, replaced as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from ctllm.errors import BadConfiguration


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path`; raises BadConfiguration where the folder cannot be written."""
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
            Path(temporary).unlink(missing_ok=True)  # secrets of a save that failed
    except OSError as error:
        raise BadConfiguration(
            f"{path.parent}: cannot be written ({error.strerror}); "
            "make it writable or choose another folder with --state-dir"
        ) from error


def rename_damaged(path: Path) -> Path:
    """Rename a damaged file, so that nothing of it is lost, and give its new path."""
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
            f"{path}: is damaged and cannot be renamed ({error.strerror}); rename it by hand"
        ) from error
    return renamed
