"""The process with the chat page's window. It needs the extra `window` (pywebview).

The desktop starts it, because a window needs the main thread. It reads commands from standard
input, where other users cannot see URLs: `open URL`, `show`, `hide`. It prints `ready` once the
window is open, and exits when the window closes or its input ends.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from ctllm import __version__

TITLE = "CloudToLocalLLM"
_SIZE = 960, 760
#: Prefixes of URLs that the window opens: no files, no scripts.
URL_PREFIXES = ("http://", "https://")


def main() -> None:
    """Open the page that the first command names."""
    import webview

    verb, _, url = sys.stdin.readline().strip().partition(" ")
    if verb != "open" or not url.startswith(URL_PREFIXES):
        raise SystemExit("The first line must be: open URL")
    window = webview.create_window(TITLE, url, width=_SIZE[0], height=_SIZE[1])
    assert window is not None
    window.events.shown += lambda: print("ready", flush=True)
    threading.Thread(target=_read_commands, args=(window,), daemon=True).start()
    # By the user agent the page knows that the desktop opened it, and logs in without asking.
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
