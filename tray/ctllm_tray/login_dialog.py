"""Asks for a line of text in a window: with whatever this system has for that."""

from __future__ import annotations

import shutil
import subprocess
import sys

_TITLE = "CloudToLocalLLM"
_WORDS = "Sign-in link (printed by: ctllm invite NAME)"


def _ways(platform: str) -> list[list[str]]:
    if platform == "darwin":
        script = (
            f'text returned of (display dialog "{_WORDS}" default answer "" with title "{_TITLE}")'
        )
        return [["osascript", "-e", script]]
    if platform == "win32":
        script = (
            "Add-Type -AssemblyName Microsoft.VisualBasic;"
            f"[Microsoft.VisualBasic.Interaction]::InputBox('{_WORDS}', '{_TITLE}')"
        )
        return [["powershell", "-NoProfile", "-Command", script]]
    return [
        ["zenity", "--entry", f"--title={_TITLE}", f"--text={_WORDS}", "--width=520"],
        ["kdialog", f"--title={_TITLE}", "--inputbox", _WORDS],
        ["yad", "--entry", f"--title={_TITLE}", f"--text={_WORDS}"],
    ]


def ask_for_link(platform: str = sys.platform) -> str | None:
    """What was typed; "" if nothing was, None where there is no program to ask with."""
    for way in _ways(platform):
        program = shutil.which(way[0])
        if program is not None:
            done = subprocess.run(  # noqa: S603
                [program, *way[1:]], capture_output=True, text=True, check=False
            )
            return done.stdout.strip()
    return None
