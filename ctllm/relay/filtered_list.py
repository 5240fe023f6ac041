"""A list of models on its way to a client that may see some of them only."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import BadGateway, CtllmError, ServiceUnavailable
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import ResponseHead, get_header, without_headers
from ctllm.ollama.model_lists import ListFormat, filter_list

#: The most bytes of a list: about ten thousand models.
MAX_LIST = 4 * 1024 * 1024
#: Headers about the bytes of the list, which are not those of the filtered one.
_REMOVED = (b"content-length", b"content-range", b"accept-ranges", b"etag", b"last-modified")


class FilteredList:
    """A `ResponseSink` that passes a list to `sink` with the models for which `may_list` is true.

    A response that is no list is an error, unless its status says that it is one already. `budget`
    limits what is buffered.
    """

    def __init__(
        self,
        list_format: ListFormat,
        may_list: Callable[[str], bool],
        sink: ResponseSink,
        budget: BufferBudget,
    ) -> None:
        self._format = list_format
        self._may_list = may_list
        self._sink = sink
        self._budget = budget
        self._body = bytearray()
        self._head: ResponseHead | None = None  # of a list
        self._is_done = False
        self._request: RequestSink | None = None

    def attach_request(self, request: RequestSink) -> RequestSink:
        """Set the request whose response this is; return one that frees the buffer."""
        self._request = request
        return _ListRequest(request, self._close)

    def write_head(self, head: ResponseHead) -> None:
        """Receive the head."""
        if self._is_done:
            return
        if head.status != 200:
            self._sink.write_head(head)
        elif get_header(head.headers, b"content-encoding") not in (None, b"identity"):
            self._abort(BadGateway("Ollama's list of models is compressed."))
        else:
            self._head = head

    def write(self, data: bytes) -> None:
        """Receive data of the list, or of an error."""
        if self._is_done:
            return
        if self._head is None:
            self._sink.write(data)
            return
        self._body += data
        self._budget.reserve(len(data))
        if len(self._body) > MAX_LIST:
            self._abort(BadGateway(f"Ollama's list of models exceeds {MAX_LIST} bytes."))
        elif self._budget.is_full:
            self._abort(ServiceUnavailable("Too many lists of models are requested at once."))

    def finish(self) -> None:
        """Receive the end: pass the list on."""
        if self._is_done:
            return
        head, body = self._head, bytes(self._body)
        self._close()
        if head is None:
            self._sink.finish()
            return
        filtered = filter_list(self._format, body, self._may_list)
        if filtered is None:
            self._sink.fail(BadGateway("Ollama's list of models is not one."))
            return
        length = (b"Content-Length", str(len(filtered)).encode())
        headers = (*without_headers(head.headers, _REMOVED), length)
        self._sink.write_head(ResponseHead(head.status, head.reason, headers))
        self._sink.write(filtered)
        self._sink.finish()

    def fail(self, error: CtllmError) -> None:
        """Receive the error that takes the place of the list."""
        if not self._is_done:
            self._close()
            self._sink.fail(error)

    def pause_request_body(self) -> None:
        """Pause the client."""
        self._sink.pause_request_body()

    def resume_request_body(self) -> None:
        """Resume the client."""
        self._sink.resume_request_body()

    def _abort(self, error: CtllmError) -> None:
        self._close()
        if self._request is not None:
            self._request.cancel(error)
        self._sink.fail(error)

    def _close(self) -> None:
        self._is_done = True
        self._budget.release(len(self._body))
        self._body.clear()


class _ListRequest:
    """The `RequestSink` of a list that is filtered; `close` frees the buffer if it is cancelled."""

    def __init__(self, request: RequestSink, close: Callable[[], None]) -> None:
        self.write = request.write
        self.finish = request.finish
        self.pause_response = request.pause_response
        self.resume_response = request.resume_response
        self._request = request
        self._close = close

    def cancel(self, error: CtllmError) -> None:
        """Cancel the request."""
        self._close()
        self._request.cancel(error)
