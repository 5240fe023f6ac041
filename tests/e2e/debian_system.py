"""A clean Debian in a folder, in which packages are installed as on a machine of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

#: What systemctl would be asked for, and what deb-systemd-invoke expects of it.
_SYSTEMCTL = """#!/bin/sh
echo "$*" >> /var/log/systemctl
case $* in *show*) echo loaded ;; esac
"""


class DebianSystem:
    """The smallest Debian with apt. Its processes use the network of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def bootstrap(cls, root: Path, suite: str, *packages: str) -> DebianSystem:
        """Install a Debian with `packages` into a new folder.

        Fails the test without root and mmdebstrap.
        """
        if os.getuid() != 0 or shutil.which("mmdebstrap") is None:
            pytest.fail('This test needs root and the package "mmdebstrap".', pytrace=False)
        options = ["--quiet", "--mode=root", "--variant=apt", f"--include={','.join(packages)}"]
        # The lists of packages stay, so that apt needs no network.
        options += [
            "--dpkgopt=force-unsafe-io",
            "--skip=cleanup/apt/lists",
            '--dpkgopt=path-exclude="/usr/share/locale/*"',
        ]
        result = subprocess.run(
            ["mmdebstrap", *options, suite, str(root)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return cls(root)

    def pretend_systemd(self) -> None:
        """Let maintainer scripts believe that systemd runs; `systemctl_calls` has what they ask."""
        self.file("/run/systemd/system").mkdir(parents=True)
        program = self.file("/usr/bin/systemctl")
        program.write_text(_SYSTEMCTL)
        program.chmod(0o755)

    def systemctl_calls(self) -> list[str]:
        """Return what systemctl was asked for since the last call."""
        path = self.file("/var/log/systemctl")
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return calls

    def file(self, path: str) -> Path:
        """Return where a file of this system is."""
        return self.root / path.lstrip("/")

    def exists(self, path: str) -> bool:
        """Return whether this system has a file; a link that leads nowhere is one."""
        return os.path.lexists(self.file(path))

    def command(
        self, *argv: str, user: str = "root", env: Sequence[str] = (), shared: str = ""
    ) -> list[str]:
        """Return the command line that runs `argv` in this system; its process is `argv`'s.

        `shared` is a folder of this machine that the program has at the same path.
        """
        enter = 'mount -t proc proc "$0/proc"'
        if shared:
            enter += f' && mkdir -p "$0{shared}" && mount --bind "{shared}" "$0{shared}"'
        enter += ' && exec chroot --userspec="$1" "$0" env -i "${@:2}"'
        home = "/root" if user == "root" else "/var/lib/" + user
        variables = ["PATH=/usr/sbin:/usr/bin", f"HOME={home}", "LC_ALL=C.UTF-8", *env]
        unshare = ["/usr/bin/unshare", "--mount", "--propagation=private", "/bin/bash", "-c"]
        return [*unshare, enter, str(self.root), f"{user}:", *variables, *argv]

    def run(self, *argv: str, user: str = "root", stdin: str = "") -> str:
        """Run a program that must succeed; returns its output."""
        result = subprocess.run(
            self.command(*argv, user=user, env=["DEBIAN_FRONTEND=noninteractive"]),
            input=stdin, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def install(self, *packages: Path, answer: str = "") -> str:
        """Install packages as a user does who answers dpkg's question with `answer`.

        What they only recommend is left out.
        """
        for each in packages:
            shutil.copy(each, self.file("/tmp"))
        names = [f"/tmp/{each.name}" for each in packages]
        argv = ("apt-get", "install", "-y", "--no-install-recommends", *names)
        return self.run(*argv, stdin=answer)

    def is_installed(self, package: str) -> bool:
        """Return whether a package is installed, and not only its configuration."""
        shown = self.command("dpkg-query", "-W", "-f=${Status}", package)
        result = subprocess.run(shown, capture_output=True, text=True, check=False)
        return result.stdout == "install ok installed"
