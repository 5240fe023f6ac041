"""A private directory of small files that are written atomically."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex

from ctllm.errors import BadConfiguration, ServiceUnavailable
from ctllm.system.os_errors import translate_os_errors

_GROUP_AND_OTHERS = 0o077
#: A full disk is an error of the server and not of a request, so a client may try again.
_translate_errors = partial(translate_os_errors, disk_full_error=ServiceUnavailable)


class PrivateDirectory:
    """The directory `path`, created with mode 0700 if it is missing.

    Root (`ctllm invite`) may write for a service of another user, so whatever is created belongs
    to the owner of the parent directory. Every method raises BadConfiguration, with the path, if
    the file system refuses, and ServiceUnavailable if the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _translate_errors("use the directory", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
                with open_directory(path) as descriptor:
                    copy_ownership(descriptor, path.parent)
            mode = path.stat().st_mode
        if mode & _GROUP_AND_OTHERS:
            raise BadConfiguration(f"Others can look into {path}. Run: chmod 700 {path}")

    def subdirectory(self, name: str) -> PrivateDirectory:
        """Return the private directory `name` in this one."""
        return PrivateDirectory(self.path / name)

    def list_files(self) -> list[str]:
        """Return the names of the files; temporary files are not listed."""
        with _translate_errors("list", self.path):
            return [name for name in os.listdir(self.path) if not name.startswith(".")]

    def version(self) -> tuple[int, int]:
        """Return the inode and the time stamp (ns), which change with the list of files."""
        with _translate_errors("read", self.path):
            known = self.path.stat()
            return known.st_ino, known.st_mtime_ns

    def file_versions(self) -> dict[str, tuple[int, ...]]:
        """Return the files, each with a value that changes when the file is replaced."""
        with _translate_errors("list", self.path), os.scandir(self.path) as entries:
            found: dict[str, tuple[int, ...]] = {}
            for entry in entries:
                with suppress(FileNotFoundError):  # removed since it was listed
                    if not entry.name.startswith("."):
                        known = entry.stat()
                        found[entry.name] = (known.st_ino, known.st_mtime_ns, known.st_size)
            return found

    def exists(self, name: str) -> bool:
        """Whether the file exists; False also if the file system refuses to say."""
        return os.path.exists(self.path / name)

    def read(self, name: str) -> bytes | None:
        """Return the content of the file, or None if it does not exist."""
        path = self.path / name
        with _translate_errors("read", path), suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def is_private(self, name: str) -> bool:
        """Whether only its owner can read and write the file."""
        with _translate_errors("read", self.path / name):
            return not (self.path / name).stat().st_mode & _GROUP_AND_OTHERS

    def create(self, name: str, data: bytes) -> bool:
        """Create the file, or return False if it exists; safe against another process."""
        path = self.path / name
        with _translate_errors("write", path), self._temporary_file(name, data) as whole:
            try:
                os.link(whole, path)
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Create the file, or replace it."""
        path = self.path / name
        with _translate_errors("write", path), self._temporary_file(name, data) as whole:
            os.replace(whole, path)

    def update(self, name: str, data: bytes) -> bool:
        """Replace the file, or return False if it does not exist."""
        path = self.path / name
        with (
            _translate_errors("write", path),
            self._temporary_file(name, data) as whole,
            self._locked(),
        ):
            if not path.exists():
                return False
            os.replace(whole, path)
        return True

    def remove(self, name: str) -> bool:
        """Remove the file, or return False if it does not exist; safe against another process."""
        path = self.path / name
        with _translate_errors("remove", path):
            try:
                with self._locked():
                    path.unlink()
            except FileNotFoundError:
                return False
            _fsync_directory(self.path)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Block removals and updates by other processes; hold it for few system calls."""
        with open_directory(self.path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until the descriptor is closed
            yield

    @contextmanager
    def _temporary_file(self, name: str, data: bytes) -> Iterator[Path]:
        path = self.path / f".{name}.{token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                copy_ownership(descriptor, self.path)
                file.flush()
                os.fsync(descriptor)
            yield path
            _fsync_directory(self.path)
        finally:
            path.unlink(missing_ok=True)


def copy_ownership(descriptor: int, around: Path) -> None:
    """As root, make the owner of the directory `around` the owner of an open file.

    By descriptor: at its path that owner could have put a link to another file.
    """
    if os.geteuid() == 0:
        owner = around.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _fsync_directory(folder: Path) -> None:
    """Make the directory entries durable."""
    with open_directory(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def open_directory(folder: Path) -> Iterator[int]:
    """Open a directory, and no symbolic link; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
