"""What a streaming proxy answers: its health, its desktops, tunnels, and everything else relayed.

Only the cloud's session assertion counts here. Who may connect to the socket is the runtime's
affair; who may ask for what is in the assertion.
"""

from __future__ import annotations

from ctllm.auth.session_assertions import MANAGE, SERVE, Claims, Verifier
from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import (
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)
from ctllm.http.header_policy import ASSERTION, SCOPE
from ctllm.http.message.head import RequestHead, get_header, without_headers
from ctllm.http.server.request import HeaderAddingSink, ServerRequest
from ctllm.http.server.upgrade import header_elements, require_websocket
from ctllm.http.splice import replace_protocol
from ctllm.proxy.desktop_registry import MAX_DESKTOPS, DesktopRegistry
from ctllm.proxy.request_router import RequestRouter
from ctllm.proxy.resumption import wanted_exchange
from ctllm.tunnel.frames import SUBPROTOCOL
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory

#: Most WebSockets at once: a desktop may have two for a moment, and some have yet to say HELLO.
MAX_TUNNELS = 2 * MAX_DESKTOPS


class ProxyApp:
    """The application of one user's proxy."""

    def __init__(
        self,
        rendezvous: DesktopRegistry,
        relay: RequestRouter,
        verifier: Verifier,
        sockets: ProxyWebSocketFactory,
        budget: MemoryBudget,
    ) -> None:
        self._rendezvous = rendezvous
        self._relay = relay
        self._verifier = verifier
        self._sockets = sockets
        self._budget = budget

    async def __call__(self, incoming: ServerRequest) -> None:
        """Answer one request; raises CtllmError."""
        path = incoming.head.path
        if path == b"/health":
            incoming.respond(200, self._health())
            return
        claims = self._claims(incoming.head)
        incoming.mark_authenticated()
        if path == b"/ws/tunnel":
            self._tunnel(incoming, claims)
        elif path == b"/ctllm/desktops":
            if incoming.head.method != b"GET":
                raise MethodNotAllowed("desktops can only be listed", allow="GET")
            incoming.respond(200, {"desktops": self._rendezvous.desktops()})
        elif path.startswith(b"/ctllm/exchanges/"):
            incoming.reserve_memory()
            self._take_up(incoming)
        elif path.startswith((b"/ctllm/", b"/ws/")):
            raise NotFound("a streaming proxy has nothing there")
        else:
            incoming.reserve_memory()
            asked = incoming.head
            headers = (*without_headers(asked.headers, _OURS), (SCOPE, _scope(claims)))
            head = RequestHead(asked.method, asked.target, headers)
            await self._relay.answer(head, incoming)

    def _health(self) -> dict[str, object]:
        return {
            "exchanges": self._rendezvous.exchanges,
            "desktops": len(self._rendezvous.desktops()),
            "idle_seconds": round(self._rendezvous.idle_seconds, 1),
            "held_bytes": self._budget.reserved,
            "budget_bytes": self._budget.size,
        }

    def _claims(self, head: RequestHead) -> Claims:
        assertion = get_header(head.headers, ASSERTION.lower())
        if assertion is None:
            raise Unauthorized("a streaming proxy believes only its cloud")
        return self._verifier.verify(assertion)

    def _tunnel(self, incoming: ServerRequest, claims: Claims) -> None:
        if SERVE not in claims.scopes:
            raise Forbidden("this sign-in may use models, not offer them")
        if self._sockets.open_connections >= MAX_TUNNELS:
            raise ServiceUnavailable(f"{MAX_TUNNELS} desktops are connecting; is one in a loop?")
        require_websocket(incoming)
        if SUBPROTOCOL.encode() not in header_elements(incoming.head.headers, _PROTOCOLS):
            raise BadRequest(f"the tunnel here speaks {SUBPROTOCOL}")
        socket = self._sockets.buildProtocol(None)
        transport, read = incoming.hijack()
        incoming.release_connection()  # tunnels have a limit of their own
        replace_protocol(transport, socket)
        socket.dataReceived(incoming.raw_head + read)

    def _take_up(self, incoming: ServerRequest) -> None:
        """Give an answer again to its user, from the byte that is asked for."""
        if incoming.head.method != b"GET":
            raise MethodNotAllowed("an answer can only be taken up", allow="GET")
        id, offset = wanted_exchange(incoming.head.target)
        sink = HeaderAddingSink(incoming)
        asking = self._rendezvous.take_up(id, offset, sink)
        sink.add_headers(self._rendezvous.told(asking))
        incoming.relay_to(self._rendezvous.call(asking, again=True))


_PROTOCOLS = b"sec-websocket-protocol"
#: What only the cloud and this proxy say, whoever else may have said it.
_OURS = (ASSERTION.lower(), SCOPE.lower())


def _scope(claims: Claims) -> bytes:
    """The scopes that concern a desktop, as a header's value."""
    return b"use manage" if MANAGE in claims.scopes else b"use"
