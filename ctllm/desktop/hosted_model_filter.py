"""Refuses requests for models that Ollama does not run itself but forwards to ollama.com.

Their names end with `:cloud` or `-cloud`, or Ollama's list of models has a remote host for them:
a copy of such a model can have any name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import CtllmError, Forbidden
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import (
    canonical_model,
    describe_request,
    find_endpoint,
    is_remote_name,
    model_in_path,
)
from ctllm.ollama.requested_model import ModelSniffer, create_model_sniffer

StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]


class RemoteModelFilter:
    """Passes requests for local models to `start_request`, and refuses the rest. An `Upstream`.

    `buffer_budget` limits what is buffered of compressed bodies to read the model from them.
    """

    def __init__(self, start_request: StartRequest, buffer_budget: BufferBudget) -> None:
        self._start_request = start_request
        self._buffer_budget = buffer_budget
        self._remote: frozenset[str] = frozenset()

    def set_remote(self, models: Iterable[str]) -> None:
        """Set the names of the models for which Ollama's list has a remote host."""
        self._remote = frozenset(map(canonical_model, models))

    def is_remote(self, model: str) -> bool:
        """Return whether Ollama would forward requests for `model`."""
        return is_remote_name(model) or canonical_model(model) in self._remote

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises Forbidden where its head is enough to refuse it."""
        endpoint = find_endpoint(head)
        model = model_in_path(head)
        if (endpoint is not None and endpoint.leaves_machine) or (model and self.is_remote(model)):
            raise self.forbidden(describe_request(head))
        sniffer = create_model_sniffer(head, self._buffer_budget, read_whole_body=True)
        if sniffer is None:
            return self._start_request(head, sink)
        return _FilteredRequest(self, sniffer, self._start_request(head, sink), sink)

    def forbidden(self, what: str) -> Forbidden:
        """Return the error for `what`, which Ollama would forward."""
        return Forbidden(
            f"{what} would be forwarded to ollama.com, which this desktop refuses: its "
            'configuration has desktop.remote_models = "refuse".'
        )


class _FilteredRequest:
    """A `RequestSink` that reads the model from the body while it is passed on.

    Each chunk is read before it is passed on, and Ollama acts once the JSON is complete: it never
    gets the end of a body that is refused, and no chunk has to wait.
    """

    def __init__(
        self,
        model_filter: RemoteModelFilter,
        sniffer: ModelSniffer,
        upstream_request: RequestSink,
        sink: ResponseSink,
    ) -> None:
        self._filter = model_filter
        self._sniffer = sniffer
        self._upstream_request = upstream_request
        self._sink = sink
        self._is_done = False

    def write(self, data: bytes) -> None:
        """Read a chunk of the body, and pass it on."""
        if self._is_done:
            return
        if not self._sniffer.is_settled:
            self._sniffer.feed(data)
            name = self._sniffer.name
            if name is not None and self._filter.is_remote(name):
                self._refuse(self._filter.forbidden(f"The model {name[:100]!r}"))
                return
        if self._sniffer.is_settled and not self._sniffer.is_certain:
            self._refuse(
                Forbidden(
                    "Cannot read the model of this request, and this desktop refuses models that "
                    'are forwarded to ollama.com (desktop.remote_models = "refuse").'
                )
            )
            return
        self._upstream_request.write(data)

    def finish(self) -> None:
        """Finish the body."""
        if not self._is_done:
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

    def _refuse(self, error: CtllmError) -> None:
        self._sniffer.close()
        self._is_done = True
        self._upstream_request.cancel(error)
        self._sink.fail(error)
