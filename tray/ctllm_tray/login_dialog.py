"""The dialog that asks for an invite link, with the programs that the system has for that."""

from __future__ import annotations

import shutil
import subprocess
import sys

_TITLE = "CloudToLocalLLM"
_PROMPT = "Invite link (run on the server: ctllm invite NAME)"


def _commands(platform: str) -> list[list[str]]:
    if platform == "darwin":
        script = (
            f'text returned of (display dialog "{_PROMPT}" default answer "" with title "{_TITLE}")'
        )
        return [["osascript", "-e", script]]
    if platform == "win32":
        script = (
            "Add-Type -AssemblyName Microsoft.VisualBasic;"
            f"[Microsoft.VisualBasic.Interaction]::InputBox('{_PROMPT}', '{_TITLE}')"
        )
        return [["powershell", "-NoProfile", "-Command", script]]
    return [
        ["zenity", "--entry", f"--title={_TITLE}", f"--text={_PROMPT}", "--width=520"],
        ["kdialog", f"--title={_TITLE}", "--inputbox", _PROMPT],
        ["yad", "--entry", f"--title={_TITLE}", f"--text={_PROMPT}"],
    ]


def ask_for_invite_link(platform: str = sys.platform) -> str | None:
    """Return what was entered: "" if the dialog was cancelled, None if there is no program."""
    for command in _commands(platform):
        program = shutil.which(command[0])
        if program is not None:
            done = subprocess.run(  # noqa: S603
                [program, *command[1:]], capture_output=True, text=True, check=False
            )
            return done.stdout.strip()
    return None
