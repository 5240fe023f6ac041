"""The folder of a server: read and changed under a lock, without following a symbolic link.

All new files are on the disk before the first of them takes its place. A full disk changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from ctllm.errors import BadRequest, ServiceUnavailable
from ctllm.server.manifest import ENV, MAX_SIZE

#: Entries that an empty directory may have: that of a file system of its own.
_IGNORED = frozenset(("lost+found",))
_TEMPORARY = ".ctllm-init-"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: api-backend reads ctllm.toml as a user of its own. `.env` may have the password of an HTTP proxy.
_MODE, _PRIVATE_MODE = 0o644, 0o600


class ServerFolder:
    """An open folder. `path` is for messages; files are opened relative to the descriptor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def names(self) -> frozenset[str]:
        """Return the names of what is in the folder, without what an interrupted run left."""
        found = set(os.listdir(self._descriptor)) - _IGNORED
        return frozenset(name for name in found if not name.startswith(_TEMPORARY))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if there is none.

        Raises BadRequest for what is no plain file, as a link or a pipe, or has over a megabyte.
        """
        try:
            descriptor = os.open(name, _READ, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise self._refusal(name, "is no plain file, but a link or a device") from None
            raise self._refusal(name, f"cannot be read: {error.strerror}") from error
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._refusal(name, "is no plain file")
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise self._refusal(name, "has more than a megabyte")
        return content

    def _refusal(self, name: str, why: str) -> BadRequest:
        return BadRequest(f"{self.path / name} {why}. Nothing was changed.")

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write all files, in this order; raises ServiceUnavailable."""
        prepared: dict[str, str] = {}
        try:
            for name, content in contents.items():
                prepared[name] = f"{_TEMPORARY}{token_hex(8)}"
                self._prepare(prepared[name], name, content)
        except OSError as error:
            self._remove(prepared.values())
            raise ServiceUnavailable(
                f"Cannot write to {self.path}: {error.strerror}. Nothing was changed."
            ) from error
        self._commit(prepared)

    def _prepare(self, temporary: str, name: str, content: bytes) -> None:
        """Write a file to the disk, with owner and mode of the one that it will replace."""
        descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=self._descriptor)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            mode, owner, group = self._ownership(name)
            if os.geteuid() == 0:
                os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)

    def _ownership(self, name: str) -> tuple[int, int, int]:
        """Return mode, user and group for the file `name`: new ones are of the folder's owner."""
        try:
            found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            around = os.fstat(self._descriptor)
            mode = _PRIVATE_MODE if name == ENV else _MODE
            return mode, around.st_uid, around.st_gid
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid

    def _commit(self, prepared: Mapping[str, str]) -> None:
        directory = self._descriptor
        try:
            for name, temporary in prepared.items():
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except OSError as error:
            self._remove(prepared.values())
            raise ServiceUnavailable(
                f"Cannot replace {name} in {self.path}: {error.strerror}. Run the command again."
            ) from error

    def remove_leftovers(self) -> None:
        """Remove the temporary files of an interrupted run."""
        self._remove(name for name in os.listdir(self._descriptor) if name.startswith(_TEMPORARY))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._descriptor)


@contextmanager
def open_folder(path: Path, is_dry_run: bool = False) -> Iterator[ServerFolder | None]:
    """Give the folder at `path`, locked, and created if it is missing.

    A dry run creates none: then it is None. Raises BadRequest if the folder is a symbolic link or
    no directory, or if another process has locked it, and ServiceUnavailable.
    """
    if is_dry_run and not os.path.lexists(path):
        yield None
        return
    descriptor = _open_directory(path)
    try:
        _lock(path, descriptor)
        folder = ServerFolder(path, descriptor)
        if not is_dry_run:
            folder.remove_leftovers()
        yield folder
    finally:
        os.close(descriptor)


def _open_directory(path: Path) -> int:
    try:
        if not os.path.lexists(path):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST):
            raise BadRequest(
                f"{path} is no directory, or a link to one. Name the directory itself."
            ) from None
        raise ServiceUnavailable(f"Cannot use {path}: {error.strerror}.") from error


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadRequest(
            f"Another `ctllm server` command changes {path}. Wait for its end."
        ) from None
