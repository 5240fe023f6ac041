"""A client's request on its way: to one of the user's desktops or, for lists, to all of them.

With one desktop to choose from nothing is looked at and nothing waits.
"""

from __future__ import annotations

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.http.server.request import HeaderAddingSink, ServerRequest
from ctllm.ollama.api import model_in_path
from ctllm.ollama.model_lists import Form, form_of, merge
from ctllm.ollama.requested_model import model_finder
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.desktop_selection import ConnectedDesktop
from ctllm.reactor.interfaces import Clock
from ctllm.relay.buffered_request import BufferedRequest, StartRequest
from ctllm.relay.fan_out import fetch_all
from ctllm.relay.replay_buffer import ReplayBuffer


class RequestRouter:
    """The ways of a proxy. `room` is for what has to be held before it is known where to go."""

    def __init__(self, rendezvous: DesktopRegistry, clock: Clock, room: BufferBudget) -> None:
        self._rendezvous = rendezvous
        self._clock = clock
        self._room = room

    async def answer(self, head: RequestHead, incoming: ServerRequest) -> None:
        """Have `incoming`, which asks `head`, answered; raises CtllmError."""
        sink = HeaderAddingSink(incoming)
        begin = self._beginning(head, sink)
        able = self._rendezvous.able(head)
        form = form_of(head)
        if len(able) < 2:
            incoming.relay_to(begin(None, sink))
        elif form is not None:
            await self._list(form, head, incoming, able)
        elif (finder := model_finder(head, self._room)) is not None:
            buffer = ReplayBuffer(self._room)
            incoming.relay_to(
                BufferedRequest(sink, buffer, finder, lambda request: request.start(begin))
            )
        else:
            incoming.relay_to(begin(model_in_path(head), sink))

    def _beginning(self, head: RequestHead, client: HeaderAddingSink) -> StartRequest:
        def begin(model: str | None, caller: ResponseSink) -> RequestSink:
            asking = self._rendezvous.start_request(head, caller, model)
            client.add_headers(self._rendezvous.told(asking))
            return self._rendezvous.call(asking)

        return begin

    async def _list(
        self, form: Form, head: RequestHead, incoming: ServerRequest, able: list[ConnectedDesktop]
    ) -> None:
        """Answer with what the real ones have (a demo's model is not on offer beside them)."""
        peers = [each for each in able if each.merit == able[0].merit]
        bodies = (
            await fetch_all([each.opener for each in peers], head, self._clock, self._room)
            if len(peers) > 1
            else []
        )
        merged = merge(form, bodies)
        if merged is None:
            sink = HeaderAddingSink(incoming)
            incoming.relay_to(self._beginning(head, sink)(None, sink))
        else:
            incoming.respond(200, merged, ((b"Content-Type", form.content_type),))
