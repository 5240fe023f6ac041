"""A request whose model is checked while its body is passed on to Ollama."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.errors import CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.ollama.requested_model import ModelSniffer

#: Returns the error for a request that is refused, or None; the second argument is true at the end
#: of the body.
CheckModel = Callable[[ModelSniffer, bool], CtllmError | None]


class CheckedRequest:
    """A `RequestSink` that reads the model from the body while it is passed on.

    Each chunk is read and checked before it is passed on, and Ollama acts once the JSON or form is
    complete: it never gets the end of a body that is refused, and no chunk has to wait.
    """

    def __init__(
        self,
        sniffer: ModelSniffer,
        check: CheckModel,
        upstream_request: RequestSink,
        sink: ResponseSink,
    ) -> None:
        self._sniffer = sniffer
        self._check = check
        self._upstream_request = upstream_request
        self._sink = sink
        self._is_checked = False
        self._is_done = False

    def write(self, data: bytes) -> None:
        """Read and check a chunk of the body, and pass it on."""
        if self._is_done:
            return
        if not self._is_checked:
            self._sniffer.feed(data)
            if self._is_refused(False):
                return
            self._is_checked = self._sniffer.is_settled
        self._upstream_request.write(data)

    def finish(self) -> None:
        """Finish the body."""
        if self._is_done or (not self._is_checked and self._is_refused(True)):
            return
        self._sniffer.close()
        self._upstream_request.finish()

    def cancel(self, error: CtllmError) -> None:
        """Cancel the request."""
        self._sniffer.close()
        if not self._is_done:
            self._is_done = True
            self._upstream_request.cancel(error)

    def pause_response(self) -> None:
        """Pause the response."""
        if not self._is_done:
            self._upstream_request.pause_response()

    def resume_response(self) -> None:
        """Resume the response."""
        if not self._is_done:
            self._upstream_request.resume_response()

    def _is_refused(self, is_complete: bool) -> bool:
        error = self._check(self._sniffer, is_complete)
        if error is None:
            return False
        self._sniffer.close()
        self._is_done = True
        self._upstream_request.cancel(error)
        self._sink.fail(error)
        return True
