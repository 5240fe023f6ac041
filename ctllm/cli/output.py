"""Where the commands' words go out: all of them, so that nothing in them steers a terminal.

Whoever reads may stop reading (`ctllm status | head`): the command ends as it would have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from ctllm.common.sanitize import escape_unprintable, sanitize_text
from ctllm.errors import CtllmError


class _Reader:
    """Whoever reads standard output."""

    gone = False


def print_text(text: str = "") -> None:
    """Print lines."""
    write_styled(f"{sanitize_text(text)}\n")


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    write_styled(f"{escape_unprintable(msgspec.json.encode(value).decode())}\n")


def write_styled(text: str) -> None:
    """Write `text` as it is, with colours and the like that are ours; raises CtllmError.

    What of it is not ours must have gone through `printable`.
    """
    if sys.stdout is None:
        return  # closed from the start
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        raise CtllmError(f"standard output cannot be written: {error.strerror}") from error


def print_error(text: str) -> None:
    """Print lines where errors go."""
    if sys.stderr is not None:
        print(f"ctllm: {sanitize_text(text)}", file=sys.stderr, flush=True)


def is_stdout_closed() -> bool:
    """Whether nobody reads any more: who prints without end may end."""
    return _Reader.gone


@contextmanager
def tolerate_closed_stdout() -> Iterator[None]:
    """Run a command; a reader that is gone is no error, also of what Twisted prints (--help)."""
    _Reader.gone = False
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
    """Let Python's own last flush, and what is still printed, go nowhere."""
    _Reader.gone = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
