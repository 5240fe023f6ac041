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
    asked_for,
    canonical,
    endpoint_of,
    is_remote_name,
    model_in_path,
)
from ctllm.ollama.requested_model import ModelFinder, model_finder

Open = Callable[[RequestHead, ResponseSink], RequestSink]


class RemoteModels:
    """Opens with `open` what this machine answers itself, and refuses what it would pass on.

    It is an `Upstream`. `room` is for what is held of compressed bodies while they are read.
    """

    def __init__(self, open: Open, room: BufferBudget) -> None:
        self._open = open
        self._room = room
        self._listed: frozenset[str] = frozenset()

    def learn(self, models: Iterable[str]) -> None:
        """Take the names of the models that Ollama's list says are on another host."""
        self._listed = frozenset(map(canonical, models))

    def has(self, model: str) -> bool:
        """Whether `model` is one of them."""
        return is_remote_name(model) or canonical(model) in self._listed

    def start_request(self, head: RequestHead, caller: ResponseSink) -> RequestSink:
        """Begin an exchange; raises Forbidden where its head shows that it would leave."""
        endpoint = endpoint_of(head)
        named = model_in_path(head)
        if (endpoint is not None and endpoint.leaves_machine) or (named and self.has(named)):
            raise self.refusal(asked_for(head))
        finder = model_finder(head, self._room, thorough=True)
        if finder is None:
            return self._open(head, caller)
        return _WatchedRequest(self, finder, self._open(head, caller), caller)

    def refusal(self, what: str) -> Forbidden:
        """Make the error that says how to allow it."""
        return Forbidden(
            f"{what} would leave this machine for ollama.com, which its owner does not want: "
            'desktop.remote_models is "refuse" in the configuration of this desktop.'
        )


class _WatchedRequest:
    """A `Call` whose body is read as it passes: Ollama never gets the end of one that is refused.

    Each piece is read before it goes on, and Ollama acts when the JSON is whole, so nothing waits.
    """

    def __init__(
        self, models: RemoteModels, finder: ModelFinder, call: RequestSink, caller: ResponseSink
    ) -> None:
        self._models = models
        self._finder = finder
        self._call = call
        self._caller = caller
        self._over = False

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        if self._over:
            return
        if not self._finder.settled:
            self._finder.feed(piece)
            name = self._finder.name
            if name is not None and self._models.has(name):
                self._refuse(self._models.refusal(f"The model {name[:100]!r}"))
                return
        if self._finder.settled and not self._finder.certain:
            self._refuse(
                Forbidden(
                    "The model of this request cannot be read, and this desktop refuses models "
                    "that leave the machine (desktop.remote_models)."
                )
            )
            return
        self._call.write(piece)

    def finish(self) -> None:
        """The request body is whole."""
        if not self._over:
            self._finder.close()
            self._call.finish()

    def cancel(self, error: CtllmError) -> None:
        """Stop everything."""
        self._finder.close()
        if not self._over:
            self._over = True
            self._call.cancel(error)

    def pause_response(self) -> None:
        """Stop sending the answer."""
        if not self._over:
            self._call.pause_response()

    def resume_response(self) -> None:
        """Go on with the answer."""
        if not self._over:
            self._call.resume_response()

    def _refuse(self, error: CtllmError) -> None:
        self._finder.close()
        self._over = True
        self._call.cancel(error)
        self._caller.fail(error)
