"""The page in a window of its own: what the extra `window` (pywebview) is for.

A process that the desktop starts, since a window wants the main thread. It is told what to do by
lines on its input, where no other user sees the links: `open URL`, `show`, `hide`. It says `ready`
once its window is there, and ends when that is closed or its input ends.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from ctllm import __version__

TITLE = "CloudToLocalLLM"
_SIZE = 960, 760
#: What the page's address begins with; no file of this machine, and no script, is one.
URL_PREFIXES = ("http://", "https://")


def main() -> None:
    """Show the page that the first line names."""
    import webview

    verb, _, url = sys.stdin.readline().strip().partition(" ")
    if verb != "open" or not url.startswith(URL_PREFIXES):
        raise SystemExit("the first line must be: open URL")
    window = webview.create_window(TITLE, url, width=_SIZE[0], height=_SIZE[1])
    assert window is not None
    window.events.shown += lambda: print("ready", flush=True)
    threading.Thread(target=_read_commands, args=(window,), daemon=True).start()
    # The page signs in here without a question: only the desktop leads this window anywhere.
    webview.start(user_agent=f"ctllm-window/{__version__}")


def _read_commands(window: Any) -> None:
    for line in sys.stdin:
        verb, _, url = line.strip().partition(" ")
        if verb == "open" and url.startswith(URL_PREFIXES):
            window.load_url(url)
            window.show()
        elif verb == "show":
            window.show()
            window.restore()
        elif verb == "hide":
            window.hide()
    window.destroy()


if __name__ == "__main__":
    main()
