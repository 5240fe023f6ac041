"""Archives whose bytes depend on nothing but the names and contents of the files."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from functools import partial
from pathlib import Path


def pack_folder(folder: Path, target: Path, name: str, epoch: int) -> None:
    """Write a folder to a .tar.gz, in which it is called `name`.

    Files are sorted, belong to root and have the time `epoch` (seconds).
    """
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            inner = Path(name, path.relative_to(folder))
            archive.add(path, str(inner), recursive=False, filter=partial(_normalise, epoch=epoch))


def repack(archive: Path, work: Path, epoch: int) -> None:
    """Replace a .tar.gz with one folder in it by one of the same files."""
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    (folder,) = work.iterdir()
    pack_folder(folder, archive, folder.name, epoch)
    shutil.rmtree(work)


def _normalise(member: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = epoch
    executable = member.isdir() or member.mode & 0o100
    member.mode = 0o777 if member.issym() else 0o755 if executable else 0o644
    return member
