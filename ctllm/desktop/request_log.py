"""Logs the requests that come through the tunnel, with the ids that cloud and proxy log, too."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.errors import CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.request_log import RequestLog
from ctllm.tunnel.responder import RequestHandler, ResponderStream

StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]


def with_request_log(start_request: StartRequest, log: RequestLog) -> RequestHandler:
    """Return a handler of a tunnel's streams that also logs each of them, if `log` is enabled."""
    if not log.is_enabled:
        return start_request

    def start_logged_request(head: RequestHead, stream: ResponderStream) -> RequestSink:
        response = _LoggedResponse(head, stream, log)
        try:
            request = start_request(head, response)
        except CtllmError as error:
            response.end("refused", error.status)
            raise
        return _LoggedRequest(request, response)

    return start_logged_request


class _LoggedResponse:
    """A `ResponseSink` that passes all to `stream` and logs its end. Data passes it by."""

    def __init__(self, head: RequestHead, stream: ResponderStream, log: RequestLog) -> None:
        self._head = head
        self._stream = stream
        self._log = log
        self._started_at = log.now()
        self._status = 0
        self._has_ended = False
        self.write = stream.write
        self.pause_request_body = stream.pause_request_body
        self.resume_request_body = stream.resume_request_body

    def write_head(self, head: ResponseHead) -> None:
        """Pass on the head."""
        self._status = head.status
        self._stream.write_head(head)

    def finish(self) -> None:
        """Log a complete response."""
        self._stream.finish()
        self.end("completed", self._status)

    def fail(self, error: CtllmError) -> None:
        """Log a response that is an error, or that broke off."""
        self._stream.fail(error)
        if self._status:
            self.end("failed", self._status)
        else:
            self.end("refused", error.status)

    def end(self, outcome: str, status: int) -> None:
        """Write the line, once."""
        if not self._has_ended:
            self._has_ended = True
            self._log.write(self._stream.id, self._head, status, outcome, self._started_at)

    def cancelled(self) -> None:
        """Log a request whose client disconnected."""
        self.end("client_disconnected", self._status)


class _LoggedRequest:
    """A `RequestSink` that passes all to another one and logs the cancellation."""

    def __init__(self, request: RequestSink, response: _LoggedResponse) -> None:
        self._request = request
        self._response = response
        self.write = request.write
        self.finish = request.finish
        self.pause_response = request.pause_response
        self.resume_response = request.resume_response

    def cancel(self, error: CtllmError) -> None:
        """Cancel the request."""
        self._response.cancelled()
        self._request.cancel(error)
