"""The terminal of `ctllm top`: a screen of lines by curses, and the keys that are pressed."""

from __future__ import annotations

import curses
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType

from ctllm.cli.reactor_runner import Reactor
from ctllm.cli.top_view import Line, Style

#: Escape sequences of keys, in both modes of a keypad (ECMA-48, DEC VT100), and plain keys.
_KEY = re.compile(rb"\x1b[\[O]([ABCD])|\x1b\[[0-9;]*[~A-Za-z]|([ -~])")
_ARROWS = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}


def parse_keys(data: bytes) -> list[str]:
    """Return the keys in what a terminal sent: characters, and up, down, right and left."""
    found = (match.groups() for match in _KEY.finditer(data))
    keys = (_ARROWS[arrow] if arrow else (plain or b"").decode() for arrow, plain in found)
    return [key for key in keys if key]


def is_screen(environ: Mapping[str, str]) -> bool:
    """Whether standard output is a terminal that is known and whose cursor can be moved."""
    if not os.isatty(1):
        return False
    try:
        curses.setupterm(environ.get("TERM") or "dumb", 1)
    except curses.error:  # the system has no description of it
        return False
    return bool(curses.tigetstr("cup"))


class Screen:
    """The whole terminal, from `open` until `close`, which leaves it as it was.

    `on_key` is called with each key, and `on_resize` when the terminal has another size. Keys are
    read if standard input is a terminal; `on_key` gets "q" when that ends.
    """

    def __init__(
        self,
        reactor: Reactor,
        on_key: Callable[[str], None],
        on_resize: Callable[[], None],
        environ: Mapping[str, str],
    ) -> None:
        self._reactor = reactor
        self._on_key = on_key
        self._on_resize = on_resize
        self._has_colour = not environ.get("NO_COLOR")
        self._has_keys = os.isatty(0)
        self._styles: dict[Style, int] = {}

    def open(self) -> None:
        """Take the terminal."""
        self._window = curses.initscr()
        curses.noecho()
        curses.cbreak()
        with suppress(curses.error):  # the terminal cannot hide its cursor
            curses.curs_set(0)
        self._styles = self._choose_styles()
        signal.signal(signal.SIGWINCH, self._resized)
        if self._has_keys:
            self._reactor.addReader(self)

    def close(self) -> None:
        """Give the terminal back as it was."""
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        if self._has_keys:
            self._reactor.removeReader(self)
        with suppress(curses.error):
            self._window.move(self.height - 1, 0)  # where the prompt will be
            self._window.clrtoeol()
            self._window.refresh()
            curses.curs_set(1)
        curses.nocbreak()
        curses.echo()
        curses.endwin()

    @property
    def height(self) -> int:
        """The number of lines."""
        return int(self._window.getmaxyx()[0])

    def draw(self, lines: Sequence[Line]) -> None:
        """Show the lines; what does not fit is cut off."""
        height, width = self._window.getmaxyx()
        self._window.erase()
        for number, line in enumerate(lines[:height]):
            # curses raises an exception after it wrote to the last cell of the window.
            with suppress(curses.error):
                self._window.addnstr(number, 0, line.text, width, self._styles[line.style])
        self._window.refresh()

    def _choose_styles(self) -> dict[Style, int]:
        styles = {
            Style.PLAIN: curses.A_NORMAL,
            Style.SUMMARY: curses.A_BOLD,
            Style.HEADING: curses.A_REVERSE,
            Style.ALERT: curses.A_BOLD,
            Style.HINT: curses.A_DIM,
        }
        if self._has_colour and _start_colour():
            styles[Style.ALERT] |= curses.color_pair(1)
            styles[Style.SUMMARY] |= curses.color_pair(2)
        return styles

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._resize)

    def _resize(self) -> None:
        size = os.get_terminal_size(1)
        curses.resizeterm(max(1, size.lines), max(1, size.columns))
        self._window.clear()
        self._on_resize()

    # -- IReadDescriptor

    def fileno(self) -> int:
        """Return the descriptor of standard input."""
        return 0

    def logPrefix(self) -> str:
        """Return the name of this reader in logs."""
        return "ctllm top"

    def doRead(self) -> None:
        """Read keys."""
        try:
            data = os.read(0, 1024)
        except OSError:  # the terminal is gone
            data = b""
        for key in parse_keys(data) if data else ["q"]:
            self._on_key(key)

    def connectionLost(self, reason: object) -> None:
        """Do nothing: the reactor stops."""


def _start_colour() -> bool:
    """Define the colours, on the terminal's own background; return whether it has colours."""
    try:
        curses.start_color()
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_RED, -1)
        curses.init_pair(2, curses.COLOR_CYAN, -1)
    except curses.error:
        return False
    return curses.has_colors()
