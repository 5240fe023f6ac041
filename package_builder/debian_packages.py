"""The Debian packages ctllm-desktop and ctllm-server.

Debian has other versions of most dependencies than ctllm needs, so each package has a virtual
environment of its own. Both may be installed on one machine. debhelper makes the packages.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from package_builder.man_pages import render_man_pages
from package_builder.program_tree import CTLLM, TRAY, TWISTD, Program, build_program_tree
from package_builder.release import Release

HERE = Path(__file__).parent
ICONS = {
    "icon.svg": "scalable/apps/ctllm.svg",
    "icon-192.png": "192x192/apps/ctllm.png",
    "icon-512.png": "512x512/apps/ctllm.png",
}
#: The folder of an installation by hand in the units of etc/.
_BY_HAND = re.compile(r"^(Exec\w+=)(?:/opt/ctllm|%h/\.local/lib/ctllm)/", re.M)


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A package: its dependencies and programs, and the pages that only it has."""

    name: str
    requirements: Path
    programs: Sequence[Program]
    man_pages: Sequence[str]

    @property
    def prefix(self) -> str:
        """The folder of its virtual environment."""
        return f"/usr/lib/{self.name}"

    @property
    def site_packages(self) -> str:
        """The folder of its modules."""
        return f"{self.prefix}/lib/python3/site-packages"


SERVER = DebianPackage("ctllm-server", HERE / "server.txt", (CTLLM, TWISTD), ("ctllm-cloud.8",))
DESKTOP = DebianPackage(
    "ctllm-desktop",
    HERE / "desktop.txt",
    (CTLLM, TWISTD, TRAY),
    ("ctllm-desktop.1", "ctllm-tray.1"),
)
#: The pages of what both packages have; update-alternatives chooses one of the two.
_COMMON_PAGES = ("ctllm.1", "ctllm.toml.5")


def build_debian_packages(release: Release, wheel: Path, output: Path, work: Path) -> None:
    """Write both packages into `output`. `work` is a folder that does not exist yet."""
    shutil.copytree(HERE / "debian", work / "debian")
    _write(work / "debian" / "changelog", _changelog(release))
    copyright_file = work / "debian" / "copyright"
    licence = (release.source / "LICENSE").read_text().partition("\n\n")[2].partition("\n\n")[2]
    text = copyright_file.read_text().replace("LICENSE_TEXT", _indent(licence))
    copyright_file.write_text(text)
    for package in (SERVER, DESKTOP):
        root = work / "debian" / package.name
        build_program_tree(
            release, wheel, package.requirements, root, package.prefix, package.programs
        )
        _add_man_pages(release, package, root)
    _add_server_files(release, work)
    _add_desktop_files(release, work)
    release.run("debian/rules", "binary", cwd=work, DEB_RULES_REQUIRES_ROOT="no", DH_QUIET="1")
    for path in work.parent.glob("*.deb"):
        shutil.move(path, output / path.name)


def debian_version(version: str) -> str:
    """Return a version of Python (PEP 440) in Debian's order: 1.0rc1 and 1.0.dev1 precede 1.0."""
    return re.sub(r"\.?(a|b|rc|dev)(\d+)", r"~\1\2", version)


def _changelog(release: Release) -> str:
    time = format_datetime(datetime.fromtimestamp(release.epoch, UTC))
    return (
        f"ctllm ({debian_version(release.version)}) unstable; urgency=medium\n\n"
        "  * See https://github.com/ctllm/ctllm/blob/main/CHANGELOG.md\n\n"
        f" -- The ctllm authors <ctllm@users.noreply.github.com>  {time}\n"
    )


def _add_man_pages(release: Release, package: DebianPackage, root: Path) -> None:
    for name, text in render_man_pages(release.version, release.epoch).items():
        folder = Path("man", f"man{name[-1]}")
        if name in package.man_pages:
            _write(root / "usr" / "share" / folder / name, text)
        elif name in _COMMON_PAGES:
            path = root / package.prefix.lstrip("/") / "share" / folder / f"{name}.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _add_server_files(release: Release, work: Path) -> None:
    root, source = work / "debian" / SERVER.name, release.source / "etc"
    _write(root / "etc" / "ctllm" / "ctllm.toml", (source / "ctllm.toml").read_text())
    examples = root / "usr" / "share" / "doc" / SERVER.name / "examples"
    _write(examples / "nginx.conf.example", (source / "nginx.conf.example").read_text())
    for name in ("ctllm-cloud", "ctllm-firewall"):
        text = read_unit(source / f"{name}.service", SERVER)
        _write(work / "debian" / f"{SERVER.name}.{name}.service", text)
    _add_update_hook(SERVER, root)


def _add_desktop_files(release: Release, work: Path) -> None:
    root, source = work / "debian" / DESKTOP.name, release.source
    share = root / "usr" / "share"
    unit = read_unit(source / "etc" / "ctllm-desktop.service", DESKTOP)
    _write(work / "debian" / f"{DESKTOP.name}.user.service", unit)
    examples = share / "doc" / DESKTOP.name / "examples"
    _write(examples / "ctllm.toml", (source / "etc" / "ctllm.toml").read_text())
    debian = HERE / "debian"
    entry = (debian / "ctllm-tray.desktop").read_text()
    _write(share / "applications" / "ctllm-tray.desktop", entry)
    autostart = (debian / "ctllm-tray.autostart").read_text()
    _write(root / "etc" / "xdg" / "autostart" / "ctllm-tray.desktop", autostart)
    for name, path in ICONS.items():
        target = share / "icons" / "hicolor" / path
        target.parent.mkdir(parents=True)
        shutil.copy(source / "web" / "public" / name, target)
    tray = root / "usr" / "bin" / "ctllm-tray"
    tray.parent.mkdir()
    tray.symlink_to(f"../lib/{DESKTOP.name}/bin/ctllm-tray")
    # Panels without StatusNotifier need PyGObject, which works with the system's GTK only.
    site_packages = root / DESKTOP.site_packages.lstrip("/")
    (site_packages / "gi").symlink_to("../../../../python3/dist-packages/gi")
    _add_update_hook(DESKTOP, root)


def read_unit(path: Path, package: DebianPackage) -> str:
    """Return a unit of etc/ for the programs of a package, without how to install it by hand."""
    text = path.read_text()
    return _BY_HAND.sub(rf"\1{package.prefix}/", text[text.index("[Unit]") :])


def _add_update_hook(package: DebianPackage, root: Path) -> None:
    hook = root / "usr" / "share" / "python3" / "runtime.d" / f"{package.name}.rtupdate"
    _write(hook, (HERE / "debian" / hook.name).read_text())
    hook.chmod(0o755)


def _indent(text: str) -> str:
    lines = (line.strip() for line in text.strip().splitlines())
    return "\n".join(f" {line or '.'}" for line in lines)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
