"""Models that Ollama does not run itself but asks ollama.com for, and how to do without them.

Their names end with `:cloud` or `-cloud`, or Ollama's list says which host they are on: a copy of
one may have any name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import CtllmError, Forbidden
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.ollama.api import (
    canonical_model,
    describe_request,
    find_endpoint,
    is_remote_name,
    model_in_path,
)
from ctllm.ollama.requested_model import ModelSniffer, create_model_sniffer

StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]


class RemoteModelFilter:
    """Opens with `open` what this machine answers itself, and refuses what it would pass on.

    It is an `Upstream`. `room` is for what is held of compressed bodies while they are read.
    """

    def __init__(self, start_request: StartRequest, room: BufferBudget) -> None:
        self._start_request = start_request
        self._room = room
        self._remote: frozenset[str] = frozenset()

    def set_remote(self, models: Iterable[str]) -> None:
        """Take the names of the models that Ollama's list says are on another host."""
        self._remote = frozenset(map(canonical_model, models))

    def is_remote(self, model: str) -> bool:
        """Whether `model` is one of them."""
        return is_remote_name(model) or canonical_model(model) in self._remote

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange; raises Forbidden where its head shows that it would leave."""
        endpoint = find_endpoint(head)
        named = model_in_path(head)
        if (endpoint is not None and endpoint.leaves_machine) or (named and self.is_remote(named)):
            raise self.forbidden(describe_request(head))
        finder = create_model_sniffer(head, self._room, read_whole_body=True)
        if finder is None:
            return self._start_request(head, sink)
        return _FilteredRequest(self, finder, self._start_request(head, sink), sink)

    def forbidden(self, what: str) -> Forbidden:
        """Make the error that says how to allow it."""
        return Forbidden(
            f"{what} would leave this machine for ollama.com, which its owner does not want: "
            'desktop.remote_models is "refuse" in the configuration of this desktop.'
        )


class _FilteredRequest:
    """A `Call` whose body is read as it passes: Ollama never gets the end of one that is refused.

    Each piece is read before it goes on, and Ollama acts when the JSON is whole, so nothing waits.
    """

    def __init__(
        self,
        models: RemoteModelFilter,
        finder: ModelSniffer,
        upstream_request: RequestSink,
        sink: ResponseSink,
    ) -> None:
        self._filter = models
        self._finder = finder
        self._upstream_request = upstream_request
        self._sink = sink
        self._is_refused = False

    def write(self, data: bytes) -> None:
        """Send a piece of the request body."""
        if self._is_refused:
            return
        if not self._finder.is_settled:
            self._finder.feed(data)
            name = self._finder.name
            if name is not None and self._filter.is_remote(name):
                self._refuse(self._filter.forbidden(f"The model {name[:100]!r}"))
                return
        if self._finder.is_settled and not self._finder.is_certain:
            self._refuse(
                Forbidden(
                    "The model of this request cannot be read, and this desktop refuses models "
                    "that leave the machine (desktop.remote_models)."
                )
            )
            return
        self._upstream_request.write(data)

    def finish(self) -> None:
        """The request body is whole."""
        if not self._is_refused:
            self._finder.close()
            self._upstream_request.finish()

    def cancel(self, error: CtllmError) -> None:
        """Stop everything."""
        self._finder.close()
        if not self._is_refused:
            self._is_refused = True
            self._upstream_request.cancel(error)

    def pause_response(self) -> None:
        """Stop sending the answer."""
        if not self._is_refused:
            self._upstream_request.pause_response()

    def resume_response(self) -> None:
        """Go on with the answer."""
        if not self._is_refused:
            self._upstream_request.resume_response()

    def _refuse(self, error: CtllmError) -> None:
        self._finder.close()
        self._is_refused = True
        self._upstream_request.cancel(error)
        self._sink.fail(error)
