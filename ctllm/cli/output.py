"""Output of commands. Text from elsewhere is sanitized: it cannot control a terminal.

A reader may close standard output early (`ctllm status | head`). Then a command discards the rest
of its output and ends with its usual exit status.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import msgspec

from ctllm.common.sanitize import escape_unprintable, sanitize_text
from ctllm.errors import CtllmError


class _Stdout:
    """The state of standard output."""

    is_closed = False


def print_text(text: str = "") -> None:
    """Print lines."""
    write_styled(f"{sanitize_text(text)}\n")


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    write_styled(f"{escape_unprintable(msgspec.json.encode(value).decode())}\n")


def write_styled(text: str) -> None:
    """Write text that may contain escape sequences of our own. Raises CtllmError.

    Sanitize the parts that come from elsewhere before.
    """
    if sys.stdout is None:
        return  # closed before the process started
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        raise CtllmError(f"cannot write to standard output: {error.strerror}") from error


def print_error(text: str) -> None:
    """Print lines to standard error."""
    if sys.stderr is not None:
        print(f"ctllm: {sanitize_text(text)}", file=sys.stderr, flush=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether `stream` is a terminal. None was closed before the process started."""
    return stream is not None and stream.isatty()


def show_progress(text: str) -> None:
    """Show on a terminal what happens now, in place of what was shown; nothing if `text` is empty.

    It goes to standard error.
    """
    if is_terminal(sys.stderr):
        print(f"\r\x1b[K{sanitize_text(text)}", end="", file=sys.stderr, flush=True)


def is_stdout_closed() -> bool:
    """Whether the reader closed standard output. A command that prints without end then stops."""
    return _Stdout.is_closed


@contextmanager
def tolerate_closed_stdout() -> Iterator[None]:
    """Run a command. A closed standard output is no error, not even for --help."""
    _Stdout.is_closed = False
    try:
        yield
    except BrokenPipeError:
        _discard_output()
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:
            _discard_output()


def _discard_output() -> None:
    """Send the rest of the output to the null device, including Python's flush at exit."""
    _Stdout.is_closed = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
