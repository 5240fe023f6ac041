"""Refuses requests for models that Ollama does not run itself but forwards to ollama.com.

Their names end with `:cloud` or `-cloud`, or Ollama's list of models has a remote host for them:
a copy of such a model can have any name. Requests for local models are refused, too, if a tool in
them makes Ollama search the web at ollama.com.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.checked_request import CheckedRequest
from ctllm.errors import CtllmError, Forbidden
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.content_coding import BodyScanner
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import (
    canonical_model,
    describe_request,
    find_endpoint,
    is_remote_name,
    model_in_path,
)
from ctllm.ollama.model_sniffer import JsonModelSniffer
from ctllm.ollama.requested_model import ModelSniffer, create_model_sniffer
from ctllm.ollama.web_search_sniffer import WebSearchSniffer

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
        name = canonical_model(model)
        return is_remote_name(name) or not self._remote.isdisjoint(
            (name, canonical_model(name.removesuffix(":local")))
        )

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises Forbidden where its head is enough to refuse it."""
        endpoint = find_endpoint(head)
        model = model_in_path(head)
        if (endpoint is not None and endpoint.leaves_machine) or (model and self.is_remote(model)):
            raise self.forbidden(describe_request(head))
        search = _search_for(head)
        sniffer = create_model_sniffer(
            head, self._buffer_budget, True, search.fields, search.scanner
        )
        if sniffer is None:
            return self._start_request(head, sink)

        def check(sniffer: ModelSniffer, is_complete: bool) -> CtllmError | None:
            what = search.find_remote()
            return self.forbidden(what) if what else self._check(sniffer)

        return CheckedRequest(sniffer, check, self._start_request(head, sink), sink)

    def _check(self, sniffer: ModelSniffer) -> CtllmError | None:
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


@dataclass(frozen=True, slots=True)
class _Search:
    """What to search a body for, besides its model.

    `fields` replace those with models. `find_remote` returns what of the body Ollama would forward,
    or an empty string, as far as `scanner` has read.
    """

    fields: tuple[str, ...] = ()
    scanner: BodyScanner | None = None
    find_remote: Callable[[], str] = lambda: ""


def _search_for(head: RequestHead) -> _Search:
    """Return what to search the body of a request for."""
    if head.path == b"/api/create":  # from such a model, or with the host to forward it to
        host = JsonModelSniffer(("remote_host",), math.inf)
        return _Search(("from",), host, lambda: "This model" if host.name else "")
    endpoint = find_endpoint(head)
    if endpoint is not None and endpoint.may_search_web:
        tools = WebSearchSniffer()
        what = "What the tool web_search searches for"
        return _Search((), tools, lambda: what if tools.has_web_search else "")
    return _Search()
