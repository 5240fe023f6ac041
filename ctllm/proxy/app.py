"""The HTTP application of a streaming proxy: health, desktops, tunnels and relayed requests.

Every request but that for the health needs a session assertion of the cloud, which says what the
client may do. The spawner restricts who can connect to the socket.
"""

from __future__ import annotations

from ctllm.auth.model_patterns import parse_patterns
from ctllm.auth.session_assertions import CONVERSATIONS, MANAGE, AssertionVerifier, Claims
from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import (
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)
from ctllm.http.header_policy import ALLOWED_MODELS, ASSERTION, SCOPE, refuse_renamed_headers
from ctllm.http.message.head import Headers, RequestHead, get_header, without_headers
from ctllm.http.server.request import HeaderAddingSink, ServerRequest
from ctllm.http.server.upgrade import header_elements, require_websocket
from ctllm.http.splice import replace_protocol
from ctllm.proxy.desktop_registry import MAX_DESKTOPS, RESOURCES, DesktopRegistry
from ctllm.proxy.request_router import RequestRouter
from ctllm.proxy.resumption import parse_resume_target
from ctllm.proxy.tunnel_authorizer import TunnelAuthorizer
from ctllm.tunnel.frames import SUBPROTOCOL
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory

#: Maximum number of WebSockets. A desktop that reconnects has two, and some have not sent HELLO.
MAX_TUNNELS = 2 * MAX_DESKTOPS


class ProxyApp:
    """The application of one user's proxy."""

    def __init__(
        self,
        registry: DesktopRegistry,
        router: RequestRouter,
        verifier: AssertionVerifier,
        websocket_factory: ProxyWebSocketFactory,
        budget: MemoryBudget,
        authorizer: TunnelAuthorizer,
    ) -> None:
        self._registry = registry
        self._router = router
        self._verifier = verifier
        self._websocket_factory = websocket_factory
        self._budget = budget
        self._authorizer = authorizer

    async def __call__(self, request: ServerRequest) -> None:
        """Respond to a request; raises CtllmError."""
        path = request.head.path
        if path == b"/health":
            request.respond(200, self._health())
            return
        refuse_renamed_headers(request.head.headers)
        claims = self._verify_assertion(request.head)
        request.mark_authenticated()
        if path == b"/ws/tunnel":
            self._open_tunnel(request, claims)
        elif path == b"/ctllm/desktops":
            if request.head.method != b"GET":
                raise MethodNotAllowed("Desktops can only be listed.", allow="GET")
            request.respond(200, {"desktops": self._describe_desktops(claims)})
        elif path.startswith(b"/ctllm/exchanges/"):
            request.reserve_memory()
            self._resume_response(request)
        elif path.startswith((b"/ctllm/", b"/ws/")) and not path.startswith(RESOURCES):
            raise NotFound("A streaming proxy has no such path.")
        else:
            if path.startswith(RESOURCES) and CONVERSATIONS not in claims.scopes:
                raise Forbidden("The session assertion does not have the scope conversations.")
            request.reserve_memory()
            original = request.head
            headers = (
                *without_headers(original.headers, _INTERNAL_HEADERS),
                (SCOPE, _scope_value(claims)),
                *_allowed_models(claims),
            )
            head = RequestHead(original.method, original.target, headers)
            await self._router.route(head, request)

    def _health(self) -> dict[str, object]:
        return {
            "exchanges": self._registry.stream_count,
            "desktops": len(self._registry.describe_desktops()),
            "idle_seconds": round(self._registry.idle_seconds, 1),
            "held_bytes": self._budget.reserved,
            "budget_bytes": self._budget.size,
        }

    def _describe_desktops(self, claims: Claims) -> list[dict[str, object]]:
        """Return the JSON of all desktops, with the models that the client may use."""
        if not claims.models:
            return self._registry.describe_desktops()
        return self._registry.describe_desktops(parse_patterns(claims.models).match)

    def _verify_assertion(self, head: RequestHead) -> Claims:
        assertion = get_header(head.headers, ASSERTION.lower())
        if assertion is None:
            raise Unauthorized("The request has no session assertion of the cloud.")
        return self._verifier.verify(assertion)

    def _open_tunnel(self, request: ServerRequest, claims: Claims) -> None:
        authorized_until = self._authorizer.deadline(claims)
        if self._websocket_factory.open_connections >= MAX_TUNNELS:
            raise ServiceUnavailable(
                f"{MAX_TUNNELS} desktops are connecting already. Is one reconnecting in a loop?"
            )
        require_websocket(request)
        if SUBPROTOCOL.encode() not in header_elements(request.head.headers, _SUBPROTOCOL_HEADER):
            raise BadRequest(f"The subprotocol must be {SUBPROTOCOL}.")
        socket = self._websocket_factory.buildProtocol(None)
        socket.authorized_until = authorized_until
        socket.max_desktops = claims.max_desktops
        transport, buffered = request.hijack()
        request.release_connection()  # tunnels have their own limit
        replace_protocol(transport, socket)
        socket.dataReceived(request.raw_head + buffered)

    def _resume_response(self, request: ServerRequest) -> None:
        """Send a stored response again, from the requested offset."""
        if request.head.method != b"GET":
            raise MethodNotAllowed("A response can only be resumed, with GET.", allow="GET")
        id, offset = parse_resume_target(request.head.target)
        sink = HeaderAddingSink(request)
        stream = self._registry.resume_stream(id, offset, sink)
        sink.add_headers(self._registry.response_headers(stream))
        request.relay_to(self._registry.request_sink(stream, is_resumed=True))


_SUBPROTOCOL_HEADER = b"sec-websocket-protocol"
#: Headers that only the cloud and this proxy may set; those of clients are dropped.
_INTERNAL_HEADERS = (ASSERTION.lower(), SCOPE.lower(), ALLOWED_MODELS.lower())


def _scope_value(claims: Claims) -> bytes:
    """Return the value of the header Ctllm-Scope: the scopes that matter to a desktop."""
    known = (MANAGE, CONVERSATIONS)
    return b" ".join((b"use", *(each.encode() for each in known if each in claims.scopes)))


def _allowed_models(claims: Claims) -> Headers:
    """Return the header that restricts the client to some models, if it is restricted."""
    return ((ALLOWED_MODELS, ",".join(claims.models).encode()),) if claims.models else ()
