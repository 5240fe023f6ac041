"""A `ResponseSink` that reports when the response is complete."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.http.interfaces import ResponseSink


class CompletionObserver:
    """A `ResponseSink` that forwards to `sink`, and calls `on_finished` before it finishes."""

    def __init__(self, sink: ResponseSink, on_finished: Callable[[], None]) -> None:
        self._sink = sink
        self._on_finished = on_finished
        self.write_head = sink.write_head
        self.write = sink.write
        self.fail = sink.fail
        self.pause_request_body = sink.pause_request_body
        self.resume_request_body = sink.resume_request_body

    def finish(self) -> None:
        """Finish the response."""
        self._on_finished()
        self._sink.finish()
