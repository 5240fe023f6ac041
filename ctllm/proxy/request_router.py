"""Routing of a client's request to one of the user's desktops, or to all for lists of models.

If there is no choice of desktops, the body is neither read nor buffered.
"""

from __future__ import annotations

import secrets

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.header_policy import REQUEST_ID, take_request_id
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead
from ctllm.http.request_log import RequestLog
from ctllm.http.server.request import HeaderAddingSink, ServerRequest
from ctllm.ollama.endpoints import model_in_path
from ctllm.ollama.model_lists import ListFormat, find_list_format, merge_lists
from ctllm.ollama.requested_model import create_model_sniffer
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.desktop_selection import ConnectedDesktop
from ctllm.reactor.interfaces import Clock
from ctllm.relay.buffered_request import BufferedRequest, StartRequest
from ctllm.relay.fan_out import fetch_all
from ctllm.relay.replay_buffer import ReplayBuffer


class RequestRouter:
    """Routes requests; `budget` counts the bytes of bodies buffered until the model is known.

    A request has the id that the cloud gave it.
    """

    def __init__(
        self,
        registry: DesktopRegistry,
        clock: Clock,
        budget: BufferBudget,
        request_log: RequestLog,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._budget = budget
        self.request_log = request_log

    async def route(self, head: RequestHead, request: ServerRequest) -> None:
        """Relay `request`, with `head` instead of its own head; raises CtllmError."""
        given_id, head = take_request_id(head)
        id = given_id or secrets.token_bytes(16)
        self.request_log.observe(request, head, id)
        sink = HeaderAddingSink(request)
        start_request = self._request_starter(head, sink, id)
        candidates = self._registry.candidates(head)
        list_format = find_list_format(head)
        if len(candidates) < 2:
            request.relay_to(start_request(None, sink))
        elif list_format is not None:
            await self._merge_lists(list_format, head, request, candidates, id)
        elif (sniffer := create_model_sniffer(head, self._budget)) is not None:
            buffer = ReplayBuffer(self._budget)
            request.relay_to(
                BufferedRequest(sink, buffer, sniffer, lambda request: request.start(start_request))
            )
        else:
            request.relay_to(start_request(model_in_path(head), sink))

    def _request_starter(
        self, head: RequestHead, client: HeaderAddingSink, id: bytes
    ) -> StartRequest:
        def start_request(model: str | None, sink: ResponseSink) -> RequestSink:
            stream = self._registry.start_request(head, sink, model, id)
            client.add_headers(self._registry.response_headers(stream))
            return self._registry.request_sink(stream)

        return start_request

    async def _merge_lists(
        self,
        list_format: ListFormat,
        head: RequestHead,
        request: ServerRequest,
        candidates: list[ConnectedDesktop],
        id: bytes,
    ) -> None:
        """Respond with the merged lists of the desktops with the best rank.

        So the model of a demo is not listed beside those of Ollama.
        """
        best = [each for each in candidates if each.rank == candidates[0].rank]
        bodies = (
            await fetch_all([each.initiator for each in best], head, self._clock, self._budget)
            if len(best) > 1
            else []
        )
        merged = merge_lists(list_format, bodies)
        if merged is None:
            sink = HeaderAddingSink(request)
            request.relay_to(self._request_starter(head, sink, id)(None, sink))
        else:
            headers = ((b"Content-Type", list_format.content_type), (REQUEST_ID, id.hex().encode()))
            request.respond(200, merged, headers)
