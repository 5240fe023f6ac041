"""A virtual environment that a package installs: ctllm with its dependencies, for every Python.

Its interpreter is a link to the system's, so that Debian's security updates of Python reach it.
Compiled modules are there for each of `PYTHONS`; their file names say for which one, so they share
a folder. An upgrade of the system to another Python needs no other package.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from package_builder.release import Release, normalise_modes

#: The versions of Python in Debian 12 and 13, Ubuntu 24.04 and 26.04.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: The oldest C library whose wheels are taken: that of Debian 10.
PLATFORM = "x86_64-manylinux_2_28"
#: What wheels have for other uses: scripts and manual pages, and tests of dependencies.
_UNWANTED = ("bin", "share", "**/test", "**/tests", "**/.gitignore")
#: Records of the installation, which differ between two, and which dpkg keeps itself.
_RECORDS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_INSTALL = (
    find_uv_bin(),
    "pip",
    "install",
    "--quiet",
    "--no-config",
    "--no-deps",
    "--link-mode=copy",
)


@dataclass(frozen=True, slots=True)
class Program:
    """A command in `bin`, and the function that it calls."""

    name: str
    module: str
    function: str = "main"


CTLLM = Program("ctllm", "ctllm.cli")
TRAY = Program("ctllm-tray", "ctllm_tray.main")
TWISTD = Program("twistd", "twisted.scripts.twistd", "run")


def build_program_tree(
    release: Release,
    wheel: Path,
    requirements: Path,
    root: Path,
    prefix: str,
    programs: Sequence[Program],
) -> None:
    """Make the virtual environment `prefix` (an absolute path) below the folder `root`."""
    tree = root / prefix.lstrip("/")
    site_packages = tree / "lib" / "python3" / "site-packages"
    site_packages.mkdir(parents=True)
    locked = requirements.read_text()
    for version in PYTHONS:
        with tempfile.TemporaryDirectory(dir=root.parents[1]) as folder:
            _install(release, version, Path(folder), locked)
            _merge(Path(folder), site_packages)
        (tree / "lib" / f"python{version}").symlink_to("python3")
        # The others differ in compiled modules only.
        locked = keep_requirements(locked, _find_compiled(site_packages))
    _install_wheel(release, wheel, site_packages)
    _write_environment(tree, prefix, programs)
    _cache_plugins(release, tree)
    normalise_modes(tree)


def keep_requirements(locked: str, names: Collection[str]) -> str:
    """Return the lines of a lock file that are about some of its projects."""
    entries = re.split(r"^(?=[a-z0-9])", locked, flags=re.M)
    return "".join(each for each in entries if each.partition("==")[0] in names)


def _find_compiled(site_packages: Path) -> Collection[str]:
    """Return the projects with modules for one version of Python, as lock files name them."""
    wheels = site_packages.glob("*.dist-info/WHEEL")
    return {
        re.sub(r"[-_.]+", "-", path.parent.name.partition("-")[0]).lower()
        for path in wheels
        if re.search(r"^Tag: cp\d+-cp\d+-", path.read_text(), re.M)
    }


def _install(release: Release, version: str, folder: Path, locked: str) -> None:
    requirements = folder.with_suffix(".txt")
    requirements.write_text(locked)
    options = (f"--python-version={version}", f"--python-platform={PLATFORM}")
    checked = ("--only-binary=:all:", "--require-hashes", f"--requirement={requirements}")
    release.run(*_INSTALL, f"--target={folder}", *options, *checked)
    _remove_unwanted(folder)


def _install_wheel(release: Release, wheel: Path, site_packages: Path) -> None:
    release.run(*_INSTALL, f"--target={site_packages}", wheel)
    _remove_unwanted(site_packages)


def _remove_unwanted(folder: Path) -> None:
    for path in [path for pattern in _UNWANTED for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():  # it may have been in another one
            path.unlink()
    for path in folder.rglob("*"):
        if path.name in _RECORDS and path.parent.suffix == ".dist-info":
            path.unlink()
        elif path.is_file():
            path.chmod(0o644)  # modules are not run as programs


def _merge(folder: Path, site_packages: Path) -> None:
    """Move the files that `site_packages` has not.

    Raises ValueError if one differs from that of another version, except in the metadata.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        target = site_packages / name
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif not target.exists():
            shutil.move(path, target)
        elif ".dist-info" not in name.parts[0] and not filecmp.cmp(path, target, shallow=False):
            raise ValueError(f"{name} differs between two versions of Python")


def _write_environment(tree: Path, prefix: str, programs: Sequence[Program]) -> None:
    (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    folder = tree / "bin"
    folder.mkdir()
    up = "../" * (len(Path(prefix).parts) - 1)
    (folder / "python3").symlink_to(f"{up}bin/python3")
    for each in programs:
        path = folder / each.name
        path.write_text(
            f"#!{prefix}/bin/python3 -P\n"
            f"from {each.module} import {each.function}\n\n{each.function}()\n"
        )
        path.chmod(0o755)


def _cache_plugins(release: Release, tree: Path) -> None:
    """Write the list of twistd's plugins, since its users may not write into this folder."""
    code = "from twisted import plugin, plugins; list(plugin.getPlugins(plugin.IPlugin, plugins))"
    site_packages = tree / "lib" / "python3" / "site-packages"
    # Twisted takes a list for outdated that is not newer than every module. dpkg-deb sets all
    # times after that of the release to it.
    for path in (site_packages / "twisted" / "plugins").glob("*.py"):
        os.utime(path, (release.epoch - 2, release.epoch - 2))
    release.run(sys.executable, "-P", "-S", "-c", code, PYTHONPATH=str(site_packages))
    (site_packages / "twisted" / "plugins" / "dropin.cache").chmod(0o644)
