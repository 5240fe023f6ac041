"""How the fake Ollama responds instead of with its usual response.

A line, here and in the records, is one write of a streamed response: a line of NDJSON or one event
of SSE. All times are seconds, all sizes bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tests.fake_ollama.records import Record


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to respond. Fields that are not set keep the usual behaviour.

    `delay_before_head` is a pause before the head. `load_seconds` is one too, as while Ollama loads
    a model; it is reported as `load_duration`. `error_before` is a response with that status, body
    and headers. `verbatim` is the complete response, head included, in Latin-1; with `break_after`
    the connection is closed after it.

    `lines` is how many words the model says, or the words themselves; `line_bytes` pads each line
    to that length on the wire; `size`, instead of `lines`, is the length of the whole stream.
    `line_interval` goes between two words. Then, counted in lines: `pause_after` is silence after
    n lines (0: after the head), `error_in_stream` the dialect's error after n lines, `break_after`
    the connection closed after n lines without an end. A response that is not streamed takes as
    long as the streamed one; it is one line, fails with status 500, and breaks in the middle.

    `receive_pause` stops reading for that long after n bytes of the body. Only a script for a path
    may have it, because it applies before the body is complete.
    """

    delay_before_head: float = 0.0
    load_seconds: float = 0.0
    error_before: tuple[int, str, dict[str, str]] | None = None
    verbatim: str | None = None
    lines: int | tuple[str, ...] | None = None
    line_bytes: int = 0
    size: int = 0
    line_interval: float | None = None
    pause_after: tuple[int, float] | None = None
    error_in_stream: tuple[int, str] | None = None
    break_after: int | None = None
    receive_pause: tuple[int, float] | None = None

    @property
    def count(self) -> int | None:
        """How many lines of text `lines` or `size` ask for; None when neither does."""
        if self.size:
            return -(-self.size // (self.line_bytes or 1024))
        return self.lines if isinstance(self.lines, int) else None

    @property
    def marks(self) -> frozenset[int]:
        """The numbers of lines sent at which something else than the next line happens."""
        pairs = (self.pause_after, self.error_in_stream, (self.break_after, 0))
        return frozenset(pair[0] for pair in pairs if pair is not None and pair[0] is not None)


USUAL = Script()

Where = str | Callable[[Record], bool]


@dataclass
class _Rule:
    where: Where
    script: Script
    left: int | None

    def fits(self, record: Record) -> bool:
        if isinstance(self.where, str):
            return record.path == self.where
        return self.where(record)


class Scripts:
    """The active scripts. Of those that match a request, the newest wins."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def add(self, where: Where, script: Script, times: int | None = None) -> None:
        """Add a script for a path or a predicate, for at most `times` requests."""
        self._rules.insert(0, _Rule(where, script, times))

    def next_for(self, record: Record) -> Script:
        """Return the script for a request with a complete body, and count one use."""
        for rule in self._rules:
            if rule.left != 0 and rule.fits(record):
                if rule.left is not None:
                    rule.left -= 1
                return rule.script
        return USUAL

    def receive_pause(self, record: Record) -> tuple[int, float] | None:
        """Return after how many bytes to stop reading a body, and for how many seconds."""
        for rule in self._rules:
            if rule.left != 0 and isinstance(rule.where, str) and rule.fits(record):
                return rule.script.receive_pause
        return None

    def clear(self) -> None:
        """Remove all scripts."""
        self._rules.clear()
