"""A private folder of small files, each of them whole or absent whatever happens."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from ctllm.errors import BadConfiguration, ServiceUnavailable

_GROUP_AND_OTHERS = 0o077
_DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def _translate_errors(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"Cannot {action} {path}: {error.strerror}."
        if error.errno in _DISK_FULL_ERRORS:
            raise ServiceUnavailable(f"{what} Make room on the disk.") from error
        raise BadConfiguration(
            f"{what} It must be a place that the user who runs ctllm can read and write."
        ) from error


class PrivateDirectory:
    """The folder `path`, made with mode 0700 if missing.

    A process of root's (`ctllm invite`) may write for a service of another user, so whatever is
    made here belongs to the owner of the folder around it. Every method raises BadConfiguration,
    naming the path, where the file system refuses, and Overloaded where the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _translate_errors("use the folder", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
                with open_directory(path) as descriptor:
                    _copy_ownership(descriptor, path.parent)
            mode = path.stat().st_mode
        if mode & _GROUP_AND_OTHERS:
            raise BadConfiguration(f"Others can look into {path}. Run: chmod 700 {path}")

    def subdirectory(self, name: str) -> PrivateDirectory:
        """Give the folder `name` inside this one."""
        return PrivateDirectory(self.path / name)

    def list_files(self) -> list[str]:
        """Give the names of the files that are whole."""
        with _translate_errors("list", self.path):
            return [name for name in os.listdir(self.path) if not name.startswith(".")]

    def file_versions(self) -> dict[str, tuple[int, ...]]:
        """Give the files that are whole, each with what changes whenever it is replaced."""
        with _translate_errors("list", self.path), os.scandir(self.path) as entries:
            found: dict[str, tuple[int, ...]] = {}
            for entry in entries:
                with suppress(FileNotFoundError):  # removed since it was listed
                    if not entry.name.startswith("."):
                        known = entry.stat()
                        found[entry.name] = (known.st_ino, known.st_mtime_ns, known.st_size)
            return found

    def exists(self, name: str) -> bool:
        """Whether there is the file; False, too, where the file system does not say."""
        return os.path.exists(self.path / name)

    def read(self, name: str) -> bytes | None:
        """Give what the file holds, or None if there is none."""
        path = self.path / name
        with _translate_errors("read", path), suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def is_private(self, name: str) -> bool:
        """Whether nobody but its owner can read or write the file."""
        with _translate_errors("read", self.path / name):
            return not (self.path / name).stat().st_mode & _GROUP_AND_OTHERS

    def create(self, name: str, data: bytes) -> bool:
        """Make the file; False if it exists already. Of two processes at once, one makes it."""
        path = self.path / name
        with _translate_errors("write", path), self._temporary_file(name, data) as whole:
            try:
                os.link(whole, path)
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Make the file, or put it in the place of the one that is there."""
        path = self.path / name
        with _translate_errors("write", path), self._temporary_file(name, data) as whole:
            os.replace(whole, path)

    def update(self, name: str, data: bytes) -> bool:
        """Put `data` in the place of the file; False, and no file is made, if it is gone."""
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
        """Remove the file; False if it is gone. Of two processes at once, one removes it."""
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
        """Keep other processes from removing files or updating them: for a system call or two."""
        with open_directory(self.path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # closing the descriptor lets go
            yield

    @contextmanager
    def _temporary_file(self, name: str, data: bytes) -> Iterator[Path]:
        path = self.path / f".{name}.{token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                _copy_ownership(descriptor, self.path)
                file.flush()
                os.fsync(descriptor)
            yield path
            _fsync_directory(self.path)
        finally:
            path.unlink(missing_ok=True)


def _copy_ownership(descriptor: int, around: Path) -> None:
    """Hand what root made to the owner of the folder around it; only root can give.

    By descriptor, never by name: that owner could have put a link to another file in its place.
    """
    if os.geteuid() == 0:
        owner = around.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _fsync_directory(folder: Path) -> None:
    """Make the names in `folder` outlast a power cut."""
    with open_directory(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def open_directory(folder: Path) -> Iterator[int]:
    """A descriptor of the folder itself; OSError also where a link has its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
