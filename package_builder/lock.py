"""`make lock`: write the newest versions that setup.cfg allows, with their hashes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from uv import find_uv_bin

from package_builder.release import ROOT

HERE = Path(__file__).parent


def main() -> None:
    """Update server.txt, desktop.txt and build.txt."""
    _lock(HERE / "server.txt", ROOT / "setup.cfg")
    # A machine with both packages has the same versions in them.
    _lock(HERE / "desktop.txt", ROOT / "setup.cfg", "--extra=tray", f"-c{HERE / 'server.txt'}")
    _lock(HERE / "build.txt", HERE / "build.in")


def _lock(target: Path, source: Path, *options: str) -> None:
    kind = ["--universal", "--python-version=3.11", "--generate-hashes", "--upgrade"]
    output = ["--no-annotate", "--custom-compile-command=make lock", f"--output-file={target}"]
    command = [find_uv_bin(), "pip", "compile", "--quiet", "--no-config", *kind, *output]
    subprocess.run([*command, *options, str(source)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
