"""`python -m package_builder` builds the packages; see `make packages`."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from package_builder.archives import pack_folder
from package_builder.debian_packages import DESKTOP, build_debian_packages
from package_builder.distributions import build_distributions
from package_builder.release import ROOT, Release, prepare_release
from package_builder.sbom import write_sbom

SUMS = "SHA256SUMS"
#: What installs the wheel where there is no package.
SCRIPTS = ("install-macos.sh", "install-windows.ps1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the packages and the list of their checksums."""
    parser = argparse.ArgumentParser(prog="package_builder", description="Build the packages.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument("--source", type=Path, default=ROOT, help="default: this repository")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="the folder that `make bundle` made, to pack, too",
    )
    parser.add_argument("--only", choices=("wheel",), help="without Debian packages and list")
    options = parser.parse_args(arguments)
    os.umask(0o022)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ctllm-packages-") as work:
        release = prepare_release(options.source, Path(work))
        built = Path(work) / "built"
        built.mkdir()
        if options.only:
            build_distributions(release, built, Path(work))
        else:
            build(release, built, Path(work), options.bundle)
            write_sums(built)
        for path in sorted(built.iterdir()):
            shutil.move(path, options.output / path.name)
            print(options.output / path.name)


def build(release: Release, output: Path, work: Path, bundle: Path | None) -> None:
    """Write the packages into `output`."""
    wheel = build_distributions(release, output, work)
    debian = work / "debian"
    build_debian_packages(release, wheel, output, debian)
    site_packages = debian / "debian" / DESKTOP.name / DESKTOP.site_packages.lstrip("/")
    sbom = output / f"ctllm-{release.version}.cdx.json"
    write_sbom(release, site_packages, sbom, work / "sbom")
    for name in SCRIPTS:
        shutil.copy(Path(__file__).with_name(name), output)
    if bundle is not None:
        name = f"ctllm-{release.version}-linux-{platform.machine()}"
        pack_folder(bundle, output / f"{name}.tar.gz", name, release.epoch)


def write_sums(folder: Path) -> None:
    """Write the checksums of the files of a folder, as sha256sum reads them."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    (folder / SUMS).write_text("".join(lines))


if __name__ == "__main__":
    main()
