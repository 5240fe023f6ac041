"""Authorizes the requests that reach this machine's Ollama through the tunnel.

The cloud checks the same table; this check does not trust the cloud. Whatever scope a cloud claims
for a request, `desktop.allowed_requests` limits what is passed on, and `desktop.allowed_registries`
limits the registries that Ollama is made to connect to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ctllm.common.json_decoder import InvalidJson, decode_object_pairs
from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.model_restriction import find_restriction
from ctllm.desktop.resources.json_exchange import refuse
from ctllm.errors import (
    BadRequest,
    ContentTooLarge,
    Forbidden,
    MethodNotAllowed,
    ServiceUnavailable,
)
from ctllm.http.header_policy import SCOPE
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, get_header
from ctllm.ollama.dialects import dialect_of
from ctllm.ollama.endpoints import (
    Endpoint,
    Scope,
    canonical_request,
    describe_request,
    find_endpoint,
    refusal_error,
)
from ctllm.relay.buffered_request import BufferedRequest
from ctllm.relay.replay_buffer import ReplayBuffer

#: In `desktop.allowed_requests`: all requests, also those that ctllm does not know.
ALLOW_ALL = "*"
#: The largest body that is buffered to be checked, and the limit of all of them together.
MAX_BODY = 1024 * 1024
MAX_BUFFERED = 16 * MAX_BODY

StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]
#: Raises CtllmError for a body that is refused; the first argument describes the request.
CheckBody = Callable[[str, bytes], None]


class TunnelPolicy:
    """Passes allowed requests to `start_request`, and refuses the rest. An `Upstream`.

    `allow` and `registries` are `desktop.allowed_requests` and `desktop.allowed_registries`.
    """

    def __init__(
        self, start_request: StartRequest, allow: tuple[str, ...], registries: tuple[str, ...]
    ) -> None:
        self._start_request = start_request
        self._allow = frozenset(allow)
        self._registries = frozenset(registries)
        self._buffer_budget = BufferBudget(MAX_BUFFERED + 1)  # full only beyond MAX_BUFFERED

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises Forbidden. A wrong method gets 405, as from Ollama."""
        head = canonical_request(head)
        try:
            endpoint = self._authorize(head)
        except MethodNotAllowed as error:  # which no tunnel can send, because of its Allow
            return refuse(sink, error, dialect_of(head.path))
        restriction = find_restriction(head, self._buffer_budget)
        checks: list[CheckBody] = []
        if endpoint is not None and endpoint.names_registry and ALLOW_ALL not in self._allow:
            checks.append(self._check_registries)
        if restriction is None:
            start_request = self._start_request
        else:
            start_request = partial(restriction.start, start_request=self._start_request)
            if restriction.is_change(head):
                checks.append(restriction.check_change)
        if checks:
            return self._buffer(head, sink, start_request, checks)
        return start_request(head, sink)

    def _authorize(self, head: RequestHead) -> Endpoint | None:
        """Return the endpoint of an allowed request; None if only the configuration knows it.

        Raises Forbidden, or MethodNotAllowed as Ollama would, for a path that has other methods.
        """
        endpoint = find_endpoint(head)
        request = describe_request(head)
        scopes = (get_header(head.headers, SCOPE.lower()) or b"use").decode("latin-1").split()
        if ALLOW_ALL in self._allow or request in self._allow:
            if endpoint is not None and endpoint.scope is Scope.USE:
                return endpoint
            self._require_manage(scopes, request)
            return endpoint
        if endpoint is None or endpoint.scope is Scope.CLOSED:
            raise refusal_error(
                head,
                f"{request} is not passed on to this machine's Ollama. To allow it, add "
                f'"{request}" to desktop.allowed_requests in the configuration of this desktop.',
            )
        if endpoint.scope not in self._allow:
            raise Forbidden(
                f"{request} is not passed on to this machine's Ollama: desktop.allowed_requests in "
                f'the configuration of this desktop does not have "{endpoint.scope}".'
            )
        if endpoint.scope is Scope.MANAGE:
            self._require_manage(scopes, request)
        return endpoint

    def _require_manage(self, scopes: list[str], request: str) -> None:
        if Scope.MANAGE not in scopes:
            raise Forbidden(
                f"{request} needs the scope manage, which only the owner's login has, and API keys "
                "created with `ctllm keys add NAME --scope manage`."
            )

    def _buffer(
        self,
        head: RequestHead,
        sink: ResponseSink,
        start_request: StartRequest,
        checks: Sequence[CheckBody],
    ) -> BufferedRequest:
        """Return a request that is started once its whole body was checked."""
        description = describe_request(head)
        buffer = ReplayBuffer(self._buffer_budget, limit=MAX_BODY + 1)

        def start_checked_request(_: str | None, sink: ResponseSink) -> RequestSink:
            for check in checks:
                check(description, buffer.data)
            return start_request(head, sink)

        def on_ready(request: BufferedRequest) -> None:
            if buffer.is_complete:
                request.start(start_checked_request)
            elif buffer.size > MAX_BODY:
                message = f"{description} takes at most {MAX_BODY} bytes through the cloud."
                request.fail(ContentTooLarge(message))
            else:
                request.fail(
                    ServiceUnavailable("Too many requests wait for their body to be checked.")
                )

        return BufferedRequest(sink, buffer, None, on_ready)

    def _check_registries(self, request: str, body: bytes) -> None:
        """Raise Forbidden for a body with another registry, or that turns off its verification."""
        for field, value in _members(body):
            if field == "insecure" and value is not False and value is not None:
                raise Forbidden(
                    f"{request} with `insecure` is not passed on through the cloud. Run it on the "
                    "machine with Ollama."
                )
            if field in ("modelfile", "path") and value:
                raise Forbidden(
                    f"{request} with `{field}`, a field of older versions of Ollama, is not passed "
                    "on through the cloud. Use the other fields."
                )
            if field not in ("model", "name", "from") or not isinstance(value, str):
                continue
            registry = registry_of(value)
            if registry is not None and registry not in self._registries:
                raise Forbidden(
                    f"{request}: requests through the cloud must not use the registry "
                    f"{registry[:100]!r}. To allow it, add it to desktop.allowed_registries in the "
                    "configuration of this desktop."
                )


def registry_of(model: str) -> str | None:
    """Return the registry in the name of a model, as Ollama parses it; None without one.

    A scheme other than https is part of the result, so that it is in no list of hosts.
    """
    name, colon, tag = model.rpartition(":")
    if not colon or "/" in tag:
        name = model
    host, slash, _ = name.rpartition("/")[0].rpartition("/")
    if not slash:
        return None
    host = host.strip().lower()
    return host.removeprefix("https://").removesuffix(":443")


def _members(body: bytes) -> list[tuple[str, object]]:
    """Return all members of the JSON object, also repeated ones, with their names case-folded.

    Ollama ignores case and uses the last of two. Raises BadRequest if it is not an object.
    """
    try:
        return [(name.casefold(), value) for name, value in decode_object_pairs(body)]
    except InvalidJson:
        raise BadRequest("The body is not a JSON object.") from None
