"""ShellCheck finds nothing in the shell scripts, those of packages and images included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
FOLDERS = ("containers", "etc", "package_builder", "tests")
NOT_OURS = {"node_modules", "build"}


def shell_scripts() -> list[str]:
    """Return the files whose first line names a shell."""
    found = []
    for path in (each for folder in FOLDERS for each in (ROOT / folder).rglob("*")):
        if path.is_file() and not NOT_OURS.intersection(path.parts):
            with path.open("rb") as file:
                first = file.readline(80)
            if first.startswith(b"#!") and first.rstrip().endswith((b"/sh", b"/bash")):
                found.append(str(path.relative_to(ROOT)))
    return sorted(found)


class ShellScriptTests(SynchronousTestCase):
    """All scripts at once, as a reader runs the same command."""

    def test_shellcheck_has_no_warning(self) -> None:
        """To repeat it: .venv/bin/shellcheck --external-sources --severity=warning FILE."""
        scripts = shell_scripts()
        self.assertIn("package_builder/install-macos.sh", scripts)
        argv = [str(SHELLCHECK), "--external-sources", "--severity=warning", "--format=gcc"]
        result = subprocess.run(
            [*argv, *scripts], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        self.assertEqual((result.returncode, result.stdout + result.stderr), (0, ""))
