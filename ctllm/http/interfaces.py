"""The two ends of a request on its way: a sink for the response, and a sink for the request body.

A stage of the relay (the HTTP server, the tunnel, the HTTP client) is given a `ResponseSink` and
returns a `RequestSink`, so stages join without adapters. All methods are called from one thread,
and none after `finish` and `fail` of a response or `cancel` of a request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ctllm.errors import CtllmError
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.reactor.interfaces import Transport


class ResponseSink(Protocol):
    """Receives a response, and controls the flow of the request body."""

    def write_head(self, head: ResponseHead) -> None:
        """Receive status and headers: once, before any data."""

    def write(self, data: bytes) -> None:
        """Receive data of the response body."""

    def finish(self) -> None:
        """Receive the end of a complete response."""

    def fail(self, error: CtllmError) -> None:
        """Receive the error that takes the place of the response, or of the rest of it."""

    def pause_request_body(self) -> None:
        """Stop sending the request body."""

    def resume_request_body(self) -> None:
        """Continue sending the request body."""


SplicedSink = Callable[[Transport], None]
"""Takes the transport that the chunks of a response come from, which is between two chunks.

Whole chunks may go to the client from there on without a `write` of the response's sink.
"""


class RequestSink(Protocol):
    """Receives a request body, and controls the flow of the response."""

    def write(self, data: bytes) -> None:
        """Receive data of the request body."""

    def finish(self) -> None:
        """Receive the end of the request body."""

    def cancel(self, error: CtllmError) -> None:
        """Cancel the request because of `error`. The response sink receives nothing more."""

    def pause_response(self) -> None:
        """Stop sending the response."""

    def resume_response(self) -> None:
        """Continue sending the response."""


class Upstream(Protocol):
    """The next stage towards Ollama."""

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request, whose response goes to `sink`; raises CtllmError if it cannot start."""
