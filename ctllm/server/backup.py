"""Writes a backup of the state directory and the configuration, while a cloud may run.

A cloud replaces each file at once, so each file in the backup is whole. An audit log is read up to
the length that it has when it is opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, BinaryIO

import msgspec

from ctllm import __version__
from ctllm.errors import BadRequest, ServiceUnavailable
from ctllm.server.backup_format import (
    CHECKSUMS,
    CONFIG_MEMBER,
    FOLDER,
    FORMAT,
    HEADER,
    STATE,
    VERSION,
    Checksums,
    Header,
    is_included,
    is_read_last,
    parse_member_name,
)
from ctllm.system.atomic_write import sync_directory

_MODE = 0o600
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class BackupSource:
    """What is backed up. A `config_file` or `folder` of None is left out."""

    state_dir: Path
    config_file: Path | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class BackupReport:
    """How many files a backup has, and how many bytes these have."""

    files: int
    size: int


def write_backup_file(
    source: BackupSource, path: Path, now: Callable[[], float] = time.time
) -> BackupReport:
    """Write a backup to a new file that only its owner can read.

    Raises BadRequest if the file exists, or cannot be written.
    """
    try:
        with _new_file(path) as out:
            return write_backup(source, out, now)
    except FileExistsError:
        raise BadRequest(f"{path} exists already. Choose another name.") from None
    except OSError as error:
        raise ServiceUnavailable(
            f"Cannot write the backup {path}: {error.strerror or error}. Nothing was written."
        ) from error


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes its place at `path` if the block succeeds; raises OSError."""
    if path.exists():
        raise FileExistsError
    temporary = path.with_name(f".{path.name}.{token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_backup(
    source: BackupSource, out: BinaryIO, now: Callable[[], float] = time.time
) -> BackupReport:
    """Write a backup to a stream; raises OSError."""
    writer = _Writer(out, now())
    writer.add_tree(
        STATE, source.state_dir, lambda path: is_included(path) and not is_read_last(path)
    )
    writer.add_tree(
        STATE, source.state_dir, lambda path: is_included(path) and _leads_to_last(path)
    )
    if source.config_file is not None:
        writer.add_path(CONFIG_MEMBER, source.config_file)
    if source.folder is not None:
        writer.add_tree(FOLDER, source.folder, lambda path: True)
    return writer.finish()


def _member_name(part: str, path: PurePosixPath) -> str:
    """Return the name of a file in the archive; raises BadRequest if no restore would take it."""
    name = f"{part}/{path}"
    try:
        parse_member_name(name)
    except BadRequest as error:
        raise BadRequest(f"The name {str(path)!r} cannot be backed up. Rename the file.") from error
    return name


def _leads_to_last(path: PurePosixPath) -> bool:
    """Whether `path` is read last, or is a directory on the way to such a path."""
    return is_read_last(path) or path == PurePosixPath("cloud")


class _Writer:
    """A tar archive that is written, and the checksums of what it has."""

    def __init__(self, out: BinaryIO, now: float) -> None:
        self._tar = tarfile.TarFile(
            fileobj=_UnseekableOutput(out), mode="w", format=tarfile.PAX_FORMAT
        )
        self._now = now
        self._sums: dict[str, str] = {}
        self._size = 0
        header = Header(format=FORMAT, version=VERSION, created=now, ctllm=__version__)
        self._add_description(HEADER, header)

    def add_tree(self, part: str, top: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
        """Add the wanted regular files below `top`. Links and sockets are left out."""
        for parent, names, files, descriptor in os.fwalk(top, follow_symlinks=False):
            base = PurePosixPath(os.path.relpath(parent, top))
            names[:] = sorted(each for each in names if wanted(base / each))
            for name in sorted(files):
                if wanted(base / name):
                    self._add(_member_name(part, base / name), name, descriptor)

    def add_path(self, member: str, path: Path) -> None:
        """Add the file at `path`, which may be a link to it."""
        with open(path, "rb") as file:
            self._add_open(member, file)

    def finish(self) -> BackupReport:
        """Write the checksums and the end."""
        self._add_description(CHECKSUMS, Checksums(files=self._sums))
        self._tar.close()
        return BackupReport(len(self._sums), self._size)

    def _add(self, member: str, name: str, directory: int) -> None:
        try:
            descriptor = os.open(name, _NO_LINK, dir_fd=directory)
        except FileNotFoundError:
            return  # removed since the directory was listed
        except OSError:
            if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise
            return  # a link or a socket
        with open(descriptor, "rb") as file:
            self._add_open(member, file)

    def _add_open(self, member: str, file: BinaryIO) -> None:
        known = os.fstat(file.fileno())
        if not stat.S_ISREG(known.st_mode):
            return
        info = tarfile.TarInfo(member)
        info.size, info.mtime = known.st_size, int(known.st_mtime)
        info.mode = stat.S_IMODE(known.st_mode)
        hashing = _HashingReader(file)
        self._tar.addfile(info, hashing)
        self._sums[member] = hashing.hexdigest
        self._size += known.st_size

    def _add_description(self, name: str, value: msgspec.Struct) -> None:
        data = msgspec.json.encode(value)
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), int(self._now), _MODE
        self._tar.addfile(info, io.BytesIO(data))


class _UnseekableOutput(io.RawIOBase):
    """Writes to a file or pipe as tarfile does without its mode "w|".

    In that mode tarfile writes once more when an archive that failed is collected.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written = 0

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._written

    def write(self, data: Any, /) -> int:
        """Write all of `data`."""
        self._out.write(data)
        self._written += len(data)
        return len(data)


class _HashingReader(io.RawIOBase):
    """Reads a file, and hashes what is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def hexdigest(self) -> str:
        """The hash of what was read."""
        return self._hash.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes."""
        data = self._file.read(size)
        self._hash.update(data)
        return data
