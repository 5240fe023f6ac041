"""Restores a backup into an empty state directory.

Everything is unpacked beside its place and compared with the checksums first. Only then it is
renamed. An archive that is damaged, foreign or hostile leaves nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import IO, BinaryIO

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, CtllmError, ServiceUnavailable
from ctllm.server.backup_format import (
    CHECKSUMS,
    CONFIG_MEMBER,
    FOLDER,
    FORMAT,
    HEADER,
    MAX_DESCRIPTION,
    STATE,
    VERSION,
    Checksums,
    Header,
    parse_member_name,
    restored_mode,
)
from ctllm.system.atomic_write import sync_directory
from ctllm.system.private_dir import copy_ownership, open_directory

_STAGING = ".restore-"
#: Entries that an empty directory may have: that of a file system of its own.
_IGNORED = frozenset(("lost+found",))
_PIECE = 1 << 16
#: The suffix of a configuration file that would have replaced another.
RESTORED_SUFFIX = ".restored"


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """Where a backup goes. Without a `folder`, the files of that part are not restored."""

    state_dir: Path
    config_file: Path
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored: the backup's header, the number of files, and where they are.

    `config_file` is None if the backup has none. `skipped_folder` tells that it has a folder which
    was not restored.
    """

    header: Header
    files: int
    config_file: Path | None
    skipped_folder: bool


def restore_backup(source: BinaryIO, target: RestoreTarget) -> RestoreReport:
    """Restore the backup that `source` has. Raises BadRequest or ServiceUnavailable."""
    try:
        with _reserve(target.state_dir) as staging:
            unpacked = _unpack(source, staging, target.state_dir)
            _require_empty(target.folder)
            return _commit(unpacked, staging, target)
    except OSError as error:
        raise ServiceUnavailable(
            f"The backup cannot be restored: {error.filename or target.state_dir}: "
            f"{error.strerror or error}."
        ) from error


@contextmanager
def _reserve(state_dir: Path) -> Iterator[Path]:
    """Give a staging directory in the empty `state_dir`, which is locked; raises BadRequest."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_directory(state_dir) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRequest(f"Another restore uses {state_dir}. Wait for its end.") from None
        _remove_staging(state_dir)
        _require_empty(state_dir)
        staging = state_dir / f"{_STAGING}{token_hex(8)}"
        staging.mkdir(mode=0o700)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _remove_staging(state_dir: Path) -> None:
    """Remove what an interrupted restore left."""
    for left in state_dir.glob(f"{_STAGING}*"):
        shutil.rmtree(left)


def _require_empty(directory: Path | None) -> None:
    if directory is None or not directory.exists():
        return
    found = [
        name for name in os.listdir(directory)
        if name not in _IGNORED and not name.startswith(_STAGING)
    ]  # fmt: skip
    if found:
        raise BadRequest(
            f"{directory} is not empty: it has {sorted(found)[0]}. A backup is restored into an "
            "empty directory. Move that one away first; do not remove it before the restored cloud "
            "works."
        )


@dataclass(slots=True)
class _Unpacked:
    """What was unpacked: the header and the checksum of each file."""

    header: Header | None = None
    sums: dict[str, str] = field(default_factory=dict)
    expected: dict[str, str] | None = None


def _unpack(source: BinaryIO, staging: Path, owner: Path) -> _Unpacked:
    """Unpack into `staging`, for the owner of `owner`; raises BadRequest and OSError."""
    unpacked = _Unpacked()
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                _unpack_member(archive, member, unpacked, staging, owner)
    except (tarfile.TarError, InvalidJson, EOFError, ValueError) as error:
        raise _unreadable(unpacked, str(error)) from error
    except BadRequest as error:
        raise _unreadable(unpacked, error.message) from error
    if unpacked.expected is None:
        raise _unreadable(unpacked, "its end is missing")
    if unpacked.expected != unpacked.sums:
        changed = sorted(unpacked.expected.items() ^ unpacked.sums.items())[0][0]
        raise _unreadable(unpacked, f"{changed} is not as it was backed up")
    return unpacked


def _unreadable(unpacked: _Unpacked, why: str) -> CtllmError:
    if unpacked.header is None:
        return BadRequest(f"This is not a backup of `ctllm server backup`: {why}.")
    return BadRequest(f"The backup is damaged: {why}. Nothing was restored. Use another backup.")


def _unpack_member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    unpacked: _Unpacked,
    staging: Path,
    owner: Path,
) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise BadRequest(f"{member.name!r} is no plain file")
    content = archive.extractfile(member)
    assert content is not None  # a plain file
    if unpacked.header is None:
        unpacked.header = _read_header(member, content)
    elif unpacked.expected is not None:
        raise BadRequest(f"{member.name!r} follows the end")
    elif member.name == CHECKSUMS:
        unpacked.expected = decode_json(content.read(MAX_DESCRIPTION), Checksums).files
    else:
        part, path = parse_member_name(member.name)
        if member.name in unpacked.sums:
            raise BadRequest(f"it has {member.name!r} twice")
        mode = restored_mode(part, member.mode)
        unpacked.sums[member.name] = _write(content, staging / part, path, mode, owner)


def _read_header(member: tarfile.TarInfo, content: IO[bytes]) -> Header:
    if member.name != HEADER:
        raise BadRequest(f"it begins with {member.name!r}")
    header = decode_json(content.read(_PIECE), Header)
    if header.format != FORMAT:
        raise BadRequest(f"its format is {header.format!r}")
    if header.version > VERSION:
        raise BadRequest(f"ctllm {header.ctllm} made it, which is newer than this one; update")
    return header


def _write(content: IO[bytes], top: Path, path: PurePosixPath, mode: int, owner: Path) -> str:
    """Write one file, and return its SHA-256."""
    directory = top
    for name in ("", *path.parent.parts):
        directory = directory / name
        if not directory.is_dir():
            directory.mkdir(mode=0o700)
            with open_directory(directory) as descriptor:
                copy_ownership(descriptor, owner)
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(directory / path.name, flags, 0o600), "wb") as file:
        while piece := content.read(_PIECE):
            digest.update(piece)
            file.write(piece)
        copy_ownership(file.fileno(), owner)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _commit(unpacked: _Unpacked, staging: Path, target: RestoreTarget) -> RestoreReport:
    """Rename what was unpacked to its place."""
    assert unpacked.header is not None
    parts = {parse_member_name(name)[0] for name in unpacked.sums}
    _place_tree(staging / STATE, target.state_dir, 0o700)
    if FOLDER in parts and target.folder is not None:
        _place_tree(staging / FOLDER, target.folder, 0o755)
    config_file = None
    if CONFIG_MEMBER in unpacked.sums:
        config_file = _place_config(staging / CONFIG_MEMBER, target.config_file)
    return RestoreReport(
        unpacked.header,
        len(unpacked.sums),
        config_file,
        skipped_folder=FOLDER in parts and target.folder is None,
    )


def _place_tree(source: Path, target: Path, mode: int) -> None:
    target.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in sorted(source.iterdir()) if source.is_dir() else ():
        if mode != 0o700 and each.is_dir():
            _open_to_others(each)
        if each.is_dir():
            _move_directory(each, target / each.name)
        else:
            _move_file(each, target / each.name)
    sync_directory(target)


def _open_to_others(directory: Path) -> None:
    """Let containers read the directories of the restored folder."""
    for parent, _, _ in os.walk(directory):
        os.chmod(parent, 0o755)  # noqa: S103 - no secret is in their names


def _move_directory(source: Path, target: Path) -> None:
    """Move a directory, also to another file system. Does not replace one with files."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target)


def _move_file(source: Path, target: Path) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, "it exists already", str(target))
    shutil.move(source, target)


def _place_config(source: Path, target: Path) -> Path:
    """Move the configuration file to `target`, or beside it if another one is there."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if target.exists():
        if target.read_bytes() == source.read_bytes():
            return target
        target = target.with_name(f"{target.name}{RESTORED_SUFFIX}")
        target.unlink(missing_ok=True)
    shutil.move(source, target)
    return target
