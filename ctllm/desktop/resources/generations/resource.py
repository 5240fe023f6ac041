"""The requests for generations: docs/stream.md is the protocol."""

from __future__ import annotations

import re
from collections.abc import Callable

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.resources.generations.generation import Generation, Reader
from ctllm.desktop.resources.generations.messages import GenerationList, StartGeneration
from ctllm.desktop.resources.generations.registry import MEBIBYTE, GenerationRegistry
from ctllm.desktop.resources.json_exchange import JsonExchange, Response, json_response
from ctllm.errors import (
    BadRequest,
    ContentTooLarge,
    CtllmError,
    MethodNotAllowed,
    NotFound,
    RangeNotSatisfiable,
    ServiceUnavailable,
)
from ctllm.http.header_policy import ALLOWED_MODELS, SCOPE
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, get_header

#: The largest body, in bytes: a conversation with images.
MAX_BODY = 64 * MEBIBYTE
PATH = b"/ctllm/desktop/generations"
_BUSY = ServiceUnavailable(
    "Too many large messages are on their way to the model of this desktop. Try again in a moment.",
    retry_after=5,
)
_TARGET = re.compile(rb"/ctllm/desktop/generations/([0-9a-f]{32})(?:\?from=([0-9]{1,15}))?")


class GenerationsResource:
    """The resource `generations`. An `Upstream`.

    `get_registry` returns that of the present user, to which a request keeps until its end.
    """

    def __init__(
        self, get_registry: Callable[[], GenerationRegistry], *, max_body: int = MAX_BODY
    ) -> None:
        self._get_registry = get_registry
        self._max_body = max_body

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises CtllmError."""
        registry = self._get_registry()
        if head.path == PATH:
            return self._request_all(registry, head, sink)
        found = _TARGET.fullmatch(head.target)
        if found is None:
            raise NotFound(
                "A response is read at /ctllm/desktop/generations/<id>?from=<offset>, with an id "
                "of 32 hexadecimal digits."
            )
        id, offset = found[1].decode(), int(found[2] or 0)
        if head.method == b"DELETE":
            return JsonExchange(sink, 0, lambda _: _delete(registry, id))
        if head.method != b"GET":
            raise MethodNotAllowed("A response can be read or deleted.", allow="GET, DELETE")
        return _read(registry.get(id), sink, offset)

    def _request_all(
        self, registry: GenerationRegistry, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        if head.method == b"GET":
            return JsonExchange(sink, 0, lambda _: _list(registry))
        if head.method != b"POST":
            raise MethodNotAllowed("Generations can be listed and started.", allow="GET, POST")
        return _Start(head, sink, registry, self._max_body)


async def _list(registry: GenerationRegistry) -> Response:
    return json_response(200, GenerationList(registry.list()))


async def _delete(registry: GenerationRegistry, id: str) -> Response:
    registry.get(id).cancel()
    return Response(204)


def _read(generation: Generation, sink: ResponseSink, offset: int) -> Reader:
    if offset > generation.size:
        raise RangeNotSatisfiable(
            f"This response has {generation.size} bytes so far, and {offset} were asked for."
        )
    return generation.add_reader(sink, offset)


class _Start:
    """The RequestSink of a request to start a generation: once it is complete, its reader."""

    def __init__(
        self, head: RequestHead, sink: ResponseSink, registry: GenerationRegistry, max_body: int
    ) -> None:
        self._head = head
        self._sink = sink
        self._registry = registry
        self._max_body = max_body
        self._budget = registry.request_bytes
        self._body = bytearray()
        self._reader: Reader | None = None
        self._is_paused = False
        self._has_ended = False

    def write(self, data: bytes) -> None:
        """Receive data of the body."""
        if self._has_ended or self._reader is not None:
            return
        if len(self._body) + len(data) > self._max_body:
            self._fail(ContentTooLarge(f"A message takes at most {self._max_body:,} bytes."))
        elif self._budget.is_full:
            self._fail(_BUSY)
        else:
            self._body += data
            self._budget.reserve(len(data))

    def finish(self) -> None:
        """Start the generation."""
        if self._has_ended:
            return
        body = self._take_body()
        try:
            parameters = decode_json(body, StartGeneration, self._max_body)
            scopes = get_header(self._head.headers, SCOPE.lower()) or b"use"
            models = get_header(self._head.headers, ALLOWED_MODELS.lower())
            generation = self._registry.start(parameters, scopes, models)
        except InvalidJson as error:
            self._fail(BadRequest(f"The request for a generation is invalid: {error}."))
        except CtllmError as error:
            self._fail(error)
        else:
            self._reader = generation.add_reader(self._sink, 0)
            if self._is_paused:
                self._reader.pause_response()
            self._reader.finish()

    def cancel(self, error: CtllmError) -> None:
        """The client has left: the generation goes on for its grace time."""
        self._has_ended = True
        self._take_body()
        if self._reader is not None:
            self._reader.cancel(error)

    def pause_response(self) -> None:
        """Stop sending to this client."""
        self._is_paused = True
        if self._reader is not None:
            self._reader.pause_response()

    def resume_response(self) -> None:
        """Continue sending to this client."""
        self._is_paused = False
        if self._reader is not None:
            self._reader.resume_response()

    def _fail(self, error: CtllmError) -> None:
        self._has_ended = True
        self._take_body()
        self._sink.fail(error)

    def _take_body(self) -> bytes:
        """Return what was received of the body, and count it no longer."""
        body = bytes(self._body)
        self._body.clear()
        self._budget.release(len(body))
        return body
