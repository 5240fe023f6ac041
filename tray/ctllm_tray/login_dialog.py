"""Dialogs for a login, with the programs that the system has for that."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence

_TITLE = "CloudToLocalLLM"
_PROMPT = "Address of the cloud, or an invite link"
_CHOICE = "Log in with"


def _entry_commands(platform: str) -> list[list[str]]:
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


def _choice_commands(platform: str, options: Sequence[str]) -> list[list[str]]:
    """Options are arguments of programs, and never part of a script."""
    if platform == "darwin":
        script = [
            "on run argv",
            f'return choose from list argv with prompt "{_CHOICE}" with title "{_TITLE}"',
            "end run",
        ]
        lines = [part for line in script for part in ("-e", line)]
        return [["osascript", *lines, "--", *options]]
    if platform == "win32":
        return []
    pairs = [word for option in options for word in (option, option)]
    return [
        ["zenity", "--list", f"--title={_TITLE}", f"--text={_CHOICE}", f"--column={_CHOICE}",
         "--", *options],
        ["kdialog", f"--title={_TITLE}", "--menu", _CHOICE, "--", *pairs],
        ["yad", "--list", f"--title={_TITLE}", f"--column={_CHOICE}", "--separator=",
         "--", *options],
    ]  # fmt: skip


def ask_for_cloud(platform: str = sys.platform) -> str | None:
    """Return the cloud's address or the invite link that was entered.

    It is empty if the dialog was cancelled, None if there is no program for it.
    """
    return _run_first(_entry_commands(platform))


def choose_provider(names: Sequence[str], platform: str = sys.platform) -> str | None:
    """Return the chosen one of `names`; as `ask_for_cloud` otherwise."""
    chosen = _run_first(_choice_commands(platform, names))
    return chosen if chosen is None or chosen in names else ""


def _run_first(commands: list[list[str]]) -> str | None:
    for command in commands:
        program = shutil.which(command[0])
        if program is not None:
            done = subprocess.run(  # noqa: S603
                [program, *command[1:]], capture_output=True, text=True, check=False
            )
            return done.stdout.strip()
    return None
