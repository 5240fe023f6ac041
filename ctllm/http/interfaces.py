"""The two faces of an exchange.

Whoever asks is a `Caller` and gets a `Call`; whoever answers is handed the reverse. Every stage
of the relay (HTTP in, tunnel, HTTP out) speaks these, so stages join without glue. All methods are
called from one thread, never after `end`, `fail` or `cancel`.
"""

from __future__ import annotations

from typing import Protocol

from ctllm.errors import CtllmError
from ctllm.http.message.head import RequestHead, ResponseHead


class ResponseSink(Protocol):
    """Who asked: hears the answer, and is asked to slow its request body."""

    def write_head(self, head: ResponseHead) -> None:
        """Take the answer's status and headers; comes once, before any data."""

    def write(self, data: bytes) -> None:
        """Take a piece of the answer as it came."""

    def finish(self) -> None:
        """The answer is whole."""

    def fail(self, error: CtllmError) -> None:
        """There will be no (more) answer."""

    def pause_request_body(self) -> None:
        """Stop sending the request body."""

    def resume_request_body(self) -> None:
        """Go on with the request body."""


class RequestSink(Protocol):
    """An exchange in the hands of who asked."""

    def write(self, data: bytes) -> None:
        """Send a piece of the request body."""

    def finish(self) -> None:
        """The request body is whole."""

    def cancel(self, error: CtllmError) -> None:
        """Stop everything; nothing more will be heard."""

    def pause_response(self) -> None:
        """Stop sending the answer."""

    def resume_response(self) -> None:
        """Go on with the answer."""


class Upstream(Protocol):
    """Where exchanges go: the next stage towards Ollama."""

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange. Raises CtllmError when it cannot even begin."""
