"""Refuses requests for models that Ollama does not run itself but forwards to ollama.com.

Their names end with `:cloud` or `-cloud`, or Ollama's list of models has a remote host for them:
a copy of such a model can have any name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.checked_request import CheckedRequest
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
        return CheckedRequest(sniffer, self._check, self._start_request(head, sink), sink)

    def _check(self, sniffer: ModelSniffer, is_complete: bool) -> CtllmError | None:
        name = sniffer.name
        if name is not None and self.is_remote(name):
            return self.forbidden(f"The model {name[:100]!r}")
        if sniffer.is_settled and not sniffer.is_certain:
            return Forbidden(
                "Cannot read the model of this request, and this desktop refuses models that are "
                'forwarded to ollama.com (desktop.remote_models = "refuse").'
            )
        return None

    def forbidden(self, what: str) -> Forbidden:
        """Return the error for `what`, which Ollama would forward."""
        return Forbidden(
            f"{what} would be forwarded to ollama.com, which this desktop refuses: its "
            'configuration has desktop.remote_models = "refuse".'
        )
