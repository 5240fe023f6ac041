"""What is packaged: a clean copy of the sources, its version and its time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.M)
#: Folders that no package needs, where there is no git to say so.
_NOT_SOURCE = shutil.ignore_patterns(
    ".*",
    "__pycache__",
    "node_modules",
    "build",
    "dist",
    "*.egg-info",
    "_trial_temp*",
    "dropin.cache",
)


@dataclass(frozen=True, slots=True)
class Release:
    """A clean copy of the sources; `epoch` is the time of all that is made from it, in seconds."""

    source: Path
    version: str
    epoch: int

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the programs that build: nothing in it depends on the machine."""
        return {
            **os.environ,
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }

    def run(self, *argv: str | Path, cwd: Path | None = None, **environment: str) -> None:
        """Run a program in that environment. Raises CalledProcessError."""
        command = [str(each) for each in argv]
        variables = {**self.environment, **environment}
        subprocess.run(command, check=True, cwd=cwd, env=variables)  # noqa: S603


def prepare_release(root: Path, work: Path, environ: Mapping[str, str] = os.environ) -> Release:
    """Copy the sources of `root` into `work`, which exists.

    The time is $SOURCE_DATE_EPOCH, else that of the last commit, else that of setup.cfg.
    """
    source = work / "source"
    _copy_sources(root, source)
    found = _VERSION.search((root / "ctllm" / "__init__.py").read_text())
    assert found, "ctllm/__init__.py has the version"
    return Release(source, found[1], _find_epoch(root, environ))


def _find_epoch(root: Path, environ: Mapping[str, str]) -> int:
    if given := environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    time = _git(root, "log", "-1", "--format=%ct")
    return int(time) if time else int((root / "setup.cfg").stat().st_mtime)


def _copy_sources(root: Path, source: Path) -> None:
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed:
        _copy_files(root, source, [name for name in listed.split("\0") if (root / name).is_file()])
    else:
        shutil.copytree(root, source, ignore=_NOT_SOURCE)
    normalise_modes(source)


def _copy_files(root: Path, source: Path, names: Iterable[str]) -> None:
    for name in names:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, target)


def normalise_modes(folder: Path) -> None:
    """Give every file the mode that git would: 644, or 755 if its owner may execute it."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


def _git(root: Path, *words: str) -> str:
    """Return what git prints, or "" where there is no git or `root` is not its top folder."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    command: Sequence[str] = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
