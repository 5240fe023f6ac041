"""The HTTP application of a streaming proxy: health, desktops, tunnels and relayed requests.

Every request but that for the health needs a session assertion of the cloud, which says what the
client may do. The spawner restricts who can connect to the socket.
"""

from __future__ import annotations

from ctllm.auth.assignments import ASSIGNMENT_PATH
from ctllm.auth.model_patterns import parse_patterns
from ctllm.auth.session_assertions import (
    CONVERSATIONS,
    MANAGE,
    USE,
    Claims,
)
from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import (
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from ctllm.http.header_policy import (
    ALLOWED_MODELS,
    ASSERTION,
    ENVELOPE,
    SCOPE,
    SEALED_GRANT,
    refuse_renamed_headers,
)
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    encode_request_head,
    get_header,
    without_headers,
)
from ctllm.http.request_envelope import open_envelope
from ctllm.http.server.request import HeaderAddingSink, ServerRequest
from ctllm.http.server.upgrade import header_elements, require_websocket
from ctllm.http.splice import replace_protocol
from ctllm.proxy import control
from ctllm.proxy.assignment import Assignment
from ctllm.proxy.desktop_registry import MAX_DESKTOPS, RESOURCES, DesktopRegistry
from ctllm.proxy.direct_requests import DirectRequests
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
        assignment: Assignment,
        websocket_factory: ProxyWebSocketFactory,
        budget: MemoryBudget,
        authorizer: TunnelAuthorizer,
        direct_requests: DirectRequests,
    ) -> None:
        self._registry = registry
        self._router = router
        self._assignment = assignment
        self._websocket_factory = websocket_factory
        self._budget = budget
        self._authorizer = authorizer
        self._open_requests = 0  # besides those for the health, and tunnels
        self._direct_requests = direct_requests
        self._control = control.ControlApi(direct_requests)

    async def __call__(self, request: ServerRequest) -> None:
        """Respond to a request; raises CtllmError."""
        is_direct = _open_envelope(request)
        path = request.head.path
        if path == b"/health":
            request.respond(200, self._health())
            return
        refuse_renamed_headers(request.head.headers)
        if path == ASSIGNMENT_PATH and not is_direct:
            self._accept_assignment(request)
            return
        claims = self._verify_assertion(request.head)
        request.mark_authenticated()
        if path.startswith(control.PREFIX) and not is_direct:
            await self._control.handle(request, claims)
            return
        if USE not in claims.scopes:
            raise Forbidden("The session assertion does not have the scope use.")
        grant = _sealed_grant(request.head, is_direct)
        if path == b"/ws/tunnel":
            self._open_tunnel(request, claims, grant)
            return
        if is_direct:
            self._direct_requests.add_request(request, grant, claims.max_requests)
        self._open_requests += 1
        request.add_observer(self._request_ended)
        await self._respond(request, path, claims)

    async def _respond(self, request: ServerRequest, path: bytes, claims: Claims) -> None:
        if path == b"/ctllm/desktops":
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
            "open_requests": self._open_requests,
            "desktops": len(self._registry.describe_desktops()),
            "idle_seconds": round(self._registry.idle_seconds, 1),
            "held_bytes": self._budget.reserved,
            "budget_bytes": self._budget.size,
            "response_bytes": self._registry.traffic.bytes,
            "response_chunks": self._registry.traffic.chunks,
            "direct": {
                "in_progress": self._direct_requests.in_progress,
                "outcomes": self._direct_requests.outcomes,
            },
        }

    def _request_ended(self, _: object) -> None:
        self._open_requests -= 1

    def _describe_desktops(self, claims: Claims) -> list[dict[str, object]]:
        """Return the JSON of all desktops, with the models that the client may use."""
        if not claims.models:
            return self._registry.describe_desktops()
        return self._registry.describe_desktops(parse_patterns(claims.models).match)

    def _accept_assignment(self, request: ServerRequest) -> None:
        """Assign this proxy to a user, once: the cloud sends its assignment as an assertion."""
        if request.head.method != b"POST":
            raise MethodNotAllowed("An assignment is accepted with POST.", allow="POST")
        self._assignment.accept(get_header(request.head.headers, ASSERTION.lower()) or b"")
        request.respond(204)

    def _verify_assertion(self, head: RequestHead) -> Claims:
        assertion = get_header(head.headers, ASSERTION.lower())
        if assertion is None:
            raise Unauthorized("The request has no session assertion of the cloud.")
        return self._assignment.verify(assertion)

    def _open_tunnel(self, request: ServerRequest, claims: Claims, grant: bytes) -> None:
        authorized_until = self._authorizer.deadline(claims)
        self._direct_requests.check_active(grant)
        if self._websocket_factory.open_connections >= MAX_TUNNELS:
            raise TooManyRequests(
                f"{MAX_TUNNELS} desktops are connecting already. Is one reconnecting in a loop?"
            )
        require_websocket(request)
        if SUBPROTOCOL.encode() not in header_elements(request.head.headers, _SUBPROTOCOL_HEADER):
            raise BadRequest(f"The subprotocol must be {SUBPROTOCOL}.")
        socket = self._websocket_factory.buildProtocol(None)
        socket.authorized_until = authorized_until
        socket.max_desktops = claims.max_desktops
        if grant:
            socket.grant = grant
            socket.on_released = self._direct_requests.add_tunnel(grant, socket.end_access)
        transport, buffered = request.hijack()
        request.release_connection()  # tunnels have their own limit
        replace_protocol(transport, socket)
        socket.dataReceived(request.raw_head + buffered)

    def _resume_response(self, request: ServerRequest) -> None:
        """Send a stored response again, from the requested offset."""
        if request.head.method != b"GET":
            raise MethodNotAllowed("A response can only be resumed, with GET.", allow="GET")
        id, offset = parse_resume_target(request.head.target)
        self._router.request_log.observe(request, request.head, id)
        sink = HeaderAddingSink(request)
        stream = self._registry.resume_stream(id, offset, sink)
        sink.add_headers(self._registry.response_headers(stream))
        request.relay_to(self._registry.request_sink(stream, is_resumed=True))


_SUBPROTOCOL_HEADER = b"sec-websocket-protocol"
#: Headers that only the cloud and this proxy may set; those of clients are dropped.
_INTERNAL_HEADERS = (
    ASSERTION.lower(), SCOPE.lower(), ALLOWED_MODELS.lower(), ENVELOPE.lower(),
    SEALED_GRANT.lower(),
)  # fmt: skip


def _open_envelope(request: ServerRequest) -> bool:
    """Give `request` the head in its envelope, if it has one; raises BadRequest.

    Return whether it has one, and so comes from a reverse proxy. It may not have what the cloud
    writes in the heads of other requests, too.
    """
    outer = request.head
    values = [value for name, value in outer.headers if name.lower() == ENVELOPE.lower()]
    if not values:
        return False
    if len(values) > 1 or get_header(outer.headers, ASSERTION.lower()) is not None:
        raise BadRequest("A request has one envelope, or none.")
    request.head = open_envelope(values[0], outer)
    request.raw_head = encode_request_head(request.head)
    return True


def _sealed_grant(head: RequestHead, is_direct: bool) -> bytes:
    """Return the sealed grant in a head, or b"". Raises BadRequest if an envelope has none."""
    grant = get_header(head.headers, SEALED_GRANT.lower()) or b""
    if is_direct and not grant:
        raise BadRequest("The envelope of this request has no grant.")
    return grant


def _scope_value(claims: Claims) -> bytes:
    """Return the value of the header Ctllm-Scope: the scopes that matter to a desktop."""
    known = (MANAGE, CONVERSATIONS)
    return b" ".join((b"use", *(each.encode() for each in known if each in claims.scopes)))


def _allowed_models(claims: Claims) -> Headers:
    """Return the header that restricts the client to some models, if it is restricted."""
    return ((ALLOWED_MODELS, ",".join(claims.models).encode()),) if claims.models else ()
