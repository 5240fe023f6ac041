"""What may reach this machine's Ollama through the tunnel, whoever the cloud says is asking.

The cloud checks the same table first; this is the check that does not depend on the cloud. A cloud
that lies about a caller's scope still cannot pass on what `desktop.allowed_requests` does not name, nor make
Ollama connect to registries that `desktop.allowed_registries` does not name.
"""

from __future__ import annotations

from collections.abc import Callable

from ctllm.common.json_decoder import InvalidJson, decode_object_pairs
from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import BadRequest, ContentTooLarge, Forbidden, ServiceUnavailable
from ctllm.http.header_policy import SCOPE
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, get_header
from ctllm.ollama.api import (
    Endpoint,
    Scope,
    canonical_request,
    describe_request,
    find_endpoint,
)
from ctllm.relay.buffered_request import BufferedRequest
from ctllm.relay.replay_buffer import ReplayBuffer

#: In `desktop.allowed_requests`: whatever Ollama has, known to ctllm or not.
ALLOW_ALL = "*"
#: The largest body that is held to be judged, and the most bytes of all of them together.
MAX_BODY = 1024 * 1024
MAX_BUFFERED = 16 * MAX_BODY

StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]


class TunnelPolicy:
    """Opens with `open` what the configuration lets in, and refuses the rest with a reason.

    `allow` and `registries` are the keys of those names. It is an `Upstream`.
    """

    def __init__(
        self, start_request: StartRequest, allow: tuple[str, ...], registries: tuple[str, ...]
    ) -> None:
        self._start_request = start_request
        self._allow = frozenset(allow)
        self._registries = frozenset(registries)
        self._buffer_budget = BufferBudget(MAX_BUFFERED + 1)  # full only beyond MAX_BUFFERED

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange; raises Forbidden."""
        head = canonical_request(head)
        endpoint = self._authorize(head)
        if endpoint is None or not endpoint.names_registry or ALLOW_ALL in self._allow:
            return self._start_request(head, sink)
        return self._buffer(head, sink)

    def _authorize(self, head: RequestHead) -> Endpoint | None:
        """The endpoint that may be asked; None for one that only the configuration knows."""
        endpoint = find_endpoint(head)
        asked = describe_request(head)
        scopes = (get_header(head.headers, SCOPE.lower()) or b"use").decode("latin-1").split()
        if ALLOW_ALL in self._allow or asked in self._allow:
            if endpoint is not None and endpoint.scope is Scope.USE:
                return endpoint
            self._require_manage(scopes, asked)
            return endpoint
        if endpoint is None or endpoint.scope is Scope.CLOSED:
            raise Forbidden(
                f"{asked} is not passed on to this machine's Ollama. To open it, put "
                f'"{asked}" into desktop.allowed_requests in the configuration of this desktop.'
            )
        if endpoint.scope not in self._allow:
            raise Forbidden(
                f"{asked} is not passed on to this machine's Ollama: desktop.allowed_requests in the "
                f'configuration of this desktop does not have "{endpoint.scope}".'
            )
        if endpoint.scope is Scope.MANAGE:
            self._require_manage(scopes, asked)
        return endpoint

    def _require_manage(self, scopes: list[str], asked: str) -> None:
        if Scope.MANAGE not in scopes:
            raise Forbidden(
                f"{asked} needs the scope manage, which only the owner's sign-in and keys made "
                "with `ctllm keys add NAME --manage` have."
            )

    def _buffer(self, head: RequestHead, sink: ResponseSink) -> BufferedRequest:
        """Return a request that Ollama gets once its whole body was checked."""
        asked = describe_request(head)
        buffer = ReplayBuffer(self._buffer_budget, limit=MAX_BODY + 1)

        def start_checked_request(_: str | None, sink: ResponseSink) -> RequestSink:
            self._check_registries(asked, buffer.data)
            return self._start_request(head, sink)

        def on_ready(request: BufferedRequest) -> None:
            if buffer.is_complete:
                request.start(start_checked_request)
            elif buffer.size > MAX_BODY:
                limit = f"{asked} takes at most {MAX_BODY} bytes through the cloud."
                request.fail(ContentTooLarge(limit))
            else:
                request.fail(ServiceUnavailable("Too many requests wait to be checked."))

        return BufferedRequest(sink, buffer, None, on_ready)

    def _check_registries(self, asked: str, body: bytes) -> None:
        """Raise Forbidden for a body that names another registry, or gives up verifying it."""
        for field, value in _members(body):
            if field == "insecure" and value is not False and value is not None:
                raise Forbidden(
                    f"{asked} with `insecure` is not passed on through the cloud; run it on the "
                    "machine with Ollama."
                )
            if field in ("modelfile", "path") and value:
                raise Forbidden(
                    f"{asked} with `{field}`, as older versions of Ollama take it, is not passed "
                    "on through the cloud; use the other fields."
                )
            if field not in ("model", "name", "from") or not isinstance(value, str):
                continue
            registry = registry_of(value)
            if registry is not None and registry not in self._registries:
                raise Forbidden(
                    f"{asked}: the registry {registry[:100]!r} is not one that this machine's "
                    "Ollama is told to connect to through the cloud. To allow it, put it into "
                    "desktop.allowed_registries in the configuration of this desktop."
                )


def registry_of(model: str) -> str | None:
    """Give the registry that `model` names, as Ollama reads it; None where it names none.

    A scheme other than https stays in front of it, so that no list of hosts has it.
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
    """Every member of the outermost JSON object, doubled ones too, with its name folded.

    Ollama minds no case and takes the last of two. Raises BadRequest where it is no object.
    """
    try:
        return [(name.casefold(), value) for name, value in decode_object_pairs(body)]
    except InvalidJson:
        raise BadRequest("The body is no JSON object.") from None
