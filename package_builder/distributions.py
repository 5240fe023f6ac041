"""The wheel and the source distribution."""

from __future__ import annotations

import sys
from pathlib import Path

from uv import find_uv_bin

from package_builder.archives import repack
from package_builder.release import Release

#: The versions of what builds them, which are written into the wheel.
BUILD_REQUIREMENTS = Path(__file__).with_name("build.txt")


def build_distributions(release: Release, output: Path, work: Path) -> Path:
    """Write both into `output`; returns the wheel. The wheel is built from the other."""
    build = (find_uv_bin(), "build", "--quiet", "--no-config", f"--python={sys.executable}")
    locked = (f"--build-constraints={BUILD_REQUIREMENTS}", "--require-hashes")
    release.run(*build, *locked, f"--out-dir={output}", release.source)
    (output / ".gitignore").unlink(missing_ok=True)
    # setuptools writes the present time, user and group into a source distribution.
    repack(output / f"ctllm-{release.version}.tar.gz", work / "sdist", release.epoch)
    (wheel,) = output.glob(f"ctllm-{release.version}-*.whl")
    return wheel
