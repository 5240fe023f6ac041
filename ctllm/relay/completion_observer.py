"""A `Caller` that somebody else listens to as well."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.http.interfaces import ResponseSink


class Noted:
    """A `Caller` that passes everything on, and calls `note` when the answer is whole."""

    def __init__(self, caller: ResponseSink, note: Callable[[], None]) -> None:
        self._caller = caller
        self._note = note
        self.write_head = caller.write_head
        self.write = caller.write
        self.fail = caller.fail
        self.pause_request_body = caller.pause_request_body
        self.resume_request_body = caller.resume_request_body

    def finish(self) -> None:
        """The answer is whole."""
        self._note()
        self._caller.finish()
