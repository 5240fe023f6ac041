"""The front door: who is asking, where is that user's proxy, and then out of the way.

It decides and starts things; it does not look into the bytes. What is not the cloud's own goes to
the streaming proxy of the user whose token was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ctllm.cloud.api import Api
from ctllm.cloud.identity import MANAGE, SERVE, USE, Assertions, Grant, Identities
from ctllm.cloud.in_flight import InFlight
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.user_limits import Shares, tunnels
from ctllm.cloud.web_ui import HEADERS, PAGE, page
from ctllm.errors import CtllmError, Forbidden, NotFound, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.cors import CorsPolicy, is_preflight, requests_api_key
from ctllm.http.credentials import presented_tokens
from ctllm.http.header_policy import request_to_proxy, request_to_tunnel, switching_protocols
from ctllm.http.message.head import Headers, RequestHead, ResponseHead, get_header
from ctllm.http.origins import OLLAMA_ORIGINS, origin_matcher
from ctllm.http.request_timeout import deduct_elapsed
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.server.upgrade import refuse_websocket, require_websocket
from ctllm.http.splice import splice
from ctllm.ollama.api import Scope, asked_for, canonical_request, endpoint_of, refusal
from ctllm.reactor.interfaces import Clock, Transport
from ctllm.reactor.timeout import Timeout

KEY_NEEDED = (
    "An API key is needed, as `Authorization: Bearer KEY` or as `x-api-key: KEY`. "
    "Make one on a desktop with: ctllm keys add NAME"
)
OLLAMA_COMMAND = (
    "the ollama command sends no API key, so it cannot use this server directly. Run a ctllm "
    "desktop on this machine (twistd ctllm desktop) and use its endpoint: "
    "OLLAMA_HOST=127.0.0.1:11435"
)
#: Seconds that a tunnel whose user was revoked has to be closed in order by its proxy, which ends.
FAREWELL = 1.0


class Gateway:
    """The cloud's application."""

    def __init__(
        self,
        identity: Identities,
        assertions: Assertions,
        proxy_of: Callable[[Grant], str],
        proxies: ProxyManager,
        api: Api,
        metrics: Metrics,
        origins: tuple[str, ...],
        clock: Clock,
        shares: Shares,
        in_flight: InFlight,
    ) -> None:
        self._identity = identity
        self._assertions = assertions
        self._proxy_of = proxy_of
        self._proxies = proxies
        self._api = api
        self._metrics = metrics
        self._clock = clock
        self._shares = shares
        self._tunnels = tunnels()
        self._in_flight = in_flight
        self._listed = CorsPolicy(origin_matcher(origins))
        self._local_pages = CorsPolicy(origin_matcher(OLLAMA_ORIGINS), credentials=False)

    async def __call__(self, incoming: ServerRequest) -> None:
        """Answer one request; raises CtllmError."""
        asked = incoming.head = canonical_request(incoming.head)
        if is_preflight(asked):
            incoming.respond(204, None, self._cors_for(asked).preflight_headers(asked))
        elif _wants_page(asked):
            incoming.respond(200, PAGE, HEADERS)
        elif asked.path == b"/ws/tunnel":
            await self._tunnel(incoming)
        elif asked.path.startswith(b"/ctllm/exchanges/"):
            await self._relay(incoming, begins=False)
        elif asked.path == b"/health" or asked.path.startswith((b"/ctllm/", b"/ws/")):
            await self._managed(incoming)
        else:
            refuse_websocket(asked)
            if not presented_tokens(asked):
                self._answer_stranger(incoming)
                return
            await self._relay(incoming)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the headers that any response to `head` has: those of CORS, and how it ends.

        A refused WebSocket handshake ends its connection: a reverse proxy must not take it for one
        that may carry another user's request.
        """
        try:
            headers = self._cors_for(head).response_headers(head)
        except CtllmError:
            headers = ()
        if head.path == b"/ws/tunnel" and _is_websocket_handshake(head):
            headers = (*headers, (b"Connection", b"close"))
        return headers

    def _cors_for(self, asked: RequestHead) -> CorsPolicy:
        """The rule for the page behind `asked`.

        Besides those that are listed, pages of the client's own machine may use models, as Ollama
        has it, where they bring a key and no cookie is in play.
        """
        if self._listed.response_headers(asked) or asked.path.startswith((b"/ctllm/", b"/ws/")):
            return self._listed
        if is_preflight(asked):
            return self._local_pages if requests_api_key(asked) else self._listed
        keyed = get_header(asked.headers, b"cookie") is None and presented_tokens(asked)
        return self._local_pages if keyed else self._listed

    # -- who asks

    async def grant(self, incoming: ServerRequest) -> Grant:
        """Who is asking, by the first of the tokens that is good; raises Unauthenticated."""
        refusal: CtllmError = Unauthorized(KEY_NEEDED)
        for token in presented_tokens(incoming.head):
            try:
                grant = await self._identity.verify(token)
            except Unauthorized as error:
                self._metrics.refused_token()
                refusal = error
            else:
                incoming.mark_authenticated()
                return grant
        raise refusal

    def _answer_stranger(self, incoming: ServerRequest) -> None:
        """Answer a request of Ollama's API that has no key; raises CtllmError.

        Ollama's own command looks with `HEAD /` whether a server is there, never sends a key, and
        shows the sentence of a 403 but not that of a 401.
        """
        asked = incoming.head
        if (asked.method, asked.path) == (b"HEAD", b"/"):
            incoming.respond(200, b"", ((b"Content-Type", b"text/plain; charset=utf-8"),))
            return
        if (get_header(asked.headers, b"user-agent") or b"").startswith(b"ollama/"):
            raise Forbidden(OLLAMA_COMMAND)
        raise Unauthorized(KEY_NEEDED)

    # -- where it goes

    async def _managed(self, incoming: ServerRequest) -> None:
        async def manager() -> Grant:
            grant = await self.grant(incoming)
            grant.require(MANAGE)
            self._take_share(incoming, grant)
            return grant

        await self._api.answer(incoming, manager)

    async def _relay(self, incoming: ServerRequest, begins: bool = True) -> None:
        began = self._clock.seconds()
        grant = await self.grant(incoming)
        grant.require(USE)
        scopes = _authorised(grant, incoming.head) if begins else frozenset((USE,))
        self._take_share(incoming, grant)
        origin, assertion = await self._way(grant, scopes, begins)
        self._metrics.exchange_began()
        landed = self._in_flight.add(self._proxy_of(grant), grant, incoming.abort)
        incoming.add_observer(partial(self._over, landed))
        head = deduct_elapsed(
            request_to_proxy(incoming.head, assertion), self._clock.seconds() - began
        )
        incoming.relay_to(origin.start_request(head, incoming))

    def _take_share(self, incoming: ServerRequest, grant: Grant) -> None:
        """Count a request as its user's until it is over; raises TooManyRequests."""
        give = self._shares.take(self._proxy_of(grant))
        incoming.add_observer(lambda _: give())

    def _over(self, landed: Callable[[], None], outcome: Outcome) -> None:
        landed()
        self._metrics.exchange(outcome)

    async def _way(
        self, grant: Grant, scopes: frozenset[str], begins: bool
    ) -> tuple[ConnectionPool, bytes]:
        """The user's proxy, started if need be, and what it believes."""
        proxy = self._proxy_of(grant)
        try:
            origin = await self._proxies.ensure(proxy, begins)
        finally:  # it took time, in which the user may have been revoked
            self._identity.check(grant)
        return origin, self._assertions.sign(proxy, scopes).encode()

    async def _tunnel(self, incoming: ServerRequest) -> None:
        """Join a bridge's WebSocket with the user's proxy; its bytes pass unread."""
        if not _is_websocket_handshake(incoming.head):
            raise NotFound("this is where desktops connect their WebSocket")
        grant = await self.grant(incoming)
        grant.require(SERVE)
        require_websocket(incoming)
        free = self._take_tunnel(incoming, grant)
        origin, assertion = await self._way(grant, frozenset((USE, SERVE)), begins=False)
        head = request_to_tunnel(incoming.head, assertion)
        landed = self._in_flight.add(self._proxy_of(grant), grant, incoming.abort)
        incoming.add_observer(lambda _: landed())
        joined = partial(self._joined, incoming, grant, free)
        incoming.relay_to(origin.upgrade(head, incoming, joined))

    def _take_tunnel(self, incoming: ServerRequest, grant: Grant) -> Callable[[], None]:
        """Count a tunnel as its user's, and as a request; raises TooManyRequests."""
        proxy = self._proxy_of(grant)
        give_tunnel = self._tunnels.take(proxy)
        try:
            give = self._shares.take(proxy)
        except CtllmError:
            give_tunnel()
            raise

        def free() -> None:
            give()
            give_tunnel()

        def over(outcome: Outcome) -> None:
            if outcome is not Outcome.UPGRADED:
                free()

        incoming.add_observer(over)
        return free

    def _joined(
        self,
        incoming: ServerRequest,
        grant: Grant,
        free: Callable[[], None],
        made: Transport,
        head: ResponseHead,
        rest: bytes,
    ) -> None:
        """The proxy has agreed: from here on there is no HTTP on either connection."""
        taken, read = incoming.hijack()
        cut = Timeout(self._clock, partial(_cut, taken, made))
        landed = self._in_flight.add(self._proxy_of(grant), grant, lambda _: cut.start(FAREWELL))

        def over() -> None:
            landed()
            free()
            incoming.release_connection()

        splice(taken, made, self._clock, switching_protocols(head) + rest, read, over)


def _cut(taken: Transport, made: Transport) -> None:
    taken.abortConnection()
    made.abortConnection()


def _authorised(grant: Grant, asked: RequestHead) -> frozenset[str]:
    """The scopes that `asked` needs and `grant` has; raises Forbidden or MethodNotAllowed.

    What the table lacks is for the desktop to open (`desktop.allow`), and no key may ask for it
    but one that may manage.
    """
    endpoint = endpoint_of(asked)
    if endpoint is not None and endpoint.scope is Scope.USE:
        return frozenset((USE,))
    if MANAGE in grant.scopes:
        return frozenset((USE, MANAGE))
    if endpoint is not None and endpoint.scope is Scope.MANAGE:
        raise Forbidden(
            f"{asked_for(asked)} changes models, which this key may not do: it needs the scope "
            "manage. Make a key that may with: ctllm keys add NAME --manage"
        )
    raise refusal(
        asked,
        f"{asked_for(asked)} is not passed on: ctllm does not know it as an endpoint that is open "
        "to every key. It needs a key made with `ctllm keys add NAME --manage`, and an entry "
        "in desktop.allow of the machine with Ollama.",
    )


def _is_websocket_handshake(head: RequestHead) -> bool:
    return (get_header(head.headers, b"upgrade") or b"").lower() == b"websocket"


def _wants_page(asked: RequestHead) -> bool:
    reads = asked.method in (b"GET", b"HEAD")
    return asked.path == b"/" and reads and page(get_header(asked.headers, b"accept"))
