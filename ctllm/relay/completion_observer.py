"""A `Caller` that somebody else listens to as well."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.http.interfaces import Caller


class Noted:
    """A `Caller` that passes everything on, and calls `note` when the answer is whole."""

    def __init__(self, caller: Caller, note: Callable[[], None]) -> None:
        self._caller = caller
        self._note = note
        self.head = caller.head
        self.data = caller.data
        self.fail = caller.fail
        self.pause_body = caller.pause_body
        self.resume_body = caller.resume_body

    def end(self) -> None:
        """The answer is whole."""
        self._note()
        self._caller.end()
