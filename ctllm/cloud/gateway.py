"""The front door: who is asking, where is that user's proxy, and then out of the way.

It decides and starts things; it does not look into the bytes. What is not the cloud's own goes to
the streaming proxy of the user whose token was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessGrant,
    AssertionSigner,
    CompositeTokenVerifier,
)
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.user_limits import UserLimiter, tunnel_limiter
from ctllm.cloud.web_ui import HEADERS, PAGE, accepts_html
from ctllm.errors import CtllmError, Forbidden, NotFound, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.cors import CorsPolicy, is_preflight, requests_api_key
from ctllm.http.credentials import presented_tokens
from ctllm.http.header_policy import (
    refuse_renamed_headers,
    request_to_proxy,
    request_to_tunnel,
    switching_protocols,
)
from ctllm.http.message.head import Headers, RequestHead, ResponseHead, get_header
from ctllm.http.origins import OLLAMA_ORIGINS, origin_matcher
from ctllm.http.request_timeout import deduct_elapsed
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.server.upgrade import (
    refuse_websocket,
    requests_websocket,
    require_websocket,
)
from ctllm.http.splice import splice
from ctllm.ollama.api import (
    Scope,
    canonical_request,
    describe_request,
    find_endpoint,
    refusal_error,
)
from ctllm.reactor.interfaces import Clock, Transport
from ctllm.reactor.timeout import Timeout

API_KEY_REQUIRED = (
    "An API key is needed, as `Authorization: Bearer KEY` or as `x-api-key: KEY`. "
    "Make one on a desktop with: ctllm keys add NAME"
)
OLLAMA_CLI_UNSUPPORTED = (
    "the ollama command sends no API key, so it cannot use this server directly. Run a ctllm "
    "desktop on this machine (twistd ctllm desktop) and use its endpoint: "
    "OLLAMA_HOST=127.0.0.1:11435"
)
#: Seconds that a tunnel whose user was revoked has to be closed in order by its proxy, which ends.
REVOKED_TUNNEL_GRACE = 1.0


class Gateway:
    """The cloud's application."""

    def __init__(
        self,
        token_verifier: CompositeTokenVerifier,
        assertion_signer: AssertionSigner,
        proxy_id_of: Callable[[AccessGrant], str],
        proxies: ProxyManager,
        api: ManagementApi,
        metrics: Metrics,
        origins: tuple[str, ...],
        clock: Clock,
        request_limiter: UserLimiter,
        active_requests: ActiveRequests,
    ) -> None:
        self._token_verifier = token_verifier
        self._assertion_signer = assertion_signer
        self._proxy_id_of = proxy_id_of
        self._proxies = proxies
        self._api = api
        self._metrics = metrics
        self._clock = clock
        self._request_limiter = request_limiter
        self._tunnel_limiter = tunnel_limiter()
        self._active_requests = active_requests
        self._configured_origins = CorsPolicy(origin_matcher(origins))
        self._local_origins = CorsPolicy(origin_matcher(OLLAMA_ORIGINS), credentials=False)

    async def __call__(self, incoming: ServerRequest) -> None:
        """Answer one request; raises CtllmError."""
        asked = incoming.head = canonical_request(incoming.head)
        refuse_renamed_headers(asked.headers)
        if is_preflight(asked):
            incoming.respond(204, None, self._cors_policy_for(asked).preflight_headers(asked))
        elif _requests_page(asked):
            incoming.respond(200, PAGE, HEADERS)
        elif asked.path == b"/ws/tunnel":
            await self._open_tunnel(incoming)
        elif asked.path.startswith(b"/ctllm/exchanges/"):
            await self._relay_request(incoming, begins=False)
        elif asked.path == b"/health" or asked.path.startswith((b"/ctllm/", b"/ws/")):
            await self._handle_management(incoming)
        else:
            refuse_websocket(asked)
            if not presented_tokens(asked):
                self._respond_without_token(incoming)
                return
            await self._relay_request(incoming)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the headers that any response to `head` has: those of CORS, and how it ends.

        A refused WebSocket handshake ends its connection: a reverse proxy must not take it for one
        that may carry another user's request.
        """
        try:
            headers = self._cors_policy_for(head).response_headers(head)
        except CtllmError:
            headers = ()
        if head.path == b"/ws/tunnel" and requests_websocket(head):
            headers = (*headers, (b"Connection", b"close"))
        return headers

    def _cors_policy_for(self, asked: RequestHead) -> CorsPolicy:
        """The rule for the page behind `asked`.

        Besides those that are listed, pages of the client's own machine may use models, as Ollama
        has it, where they bring a key and no cookie is in play.
        """
        if self._configured_origins.response_headers(asked) or asked.path.startswith(
            (b"/ctllm/", b"/ws/")
        ):
            return self._configured_origins
        if is_preflight(asked):
            return self._local_origins if requests_api_key(asked) else self._configured_origins
        keyed = get_header(asked.headers, b"cookie") is None and presented_tokens(asked)
        return self._local_origins if keyed else self._configured_origins

    # -- who asks

    async def authenticate(self, incoming: ServerRequest) -> AccessGrant:
        """Who is asking, by the first of the tokens that is good; raises Unauthenticated."""
        refusal: CtllmError = Unauthorized(API_KEY_REQUIRED)
        for token in presented_tokens(incoming.head):
            try:
                grant = await self._token_verifier.verify(token)
            except Unauthorized as error:
                self._metrics.authentication_failed()
                refusal = error
            else:
                incoming.mark_authenticated()
                return grant
        raise refusal

    def _respond_without_token(self, incoming: ServerRequest) -> None:
        """Answer a request of Ollama's API that has no key; raises CtllmError.

        Ollama's own command looks with `HEAD /` whether a server is there, never sends a key, and
        shows the sentence of a 403 but not that of a 401.
        """
        asked = incoming.head
        if (asked.method, asked.path) == (b"HEAD", b"/"):
            incoming.respond(200, b"", ((b"Content-Type", b"text/plain; charset=utf-8"),))
            return
        if (get_header(asked.headers, b"user-agent") or b"").startswith(b"ollama/"):
            raise Forbidden(OLLAMA_CLI_UNSUPPORTED)
        raise Unauthorized(API_KEY_REQUIRED)

    # -- where it goes

    async def _handle_management(self, incoming: ServerRequest) -> None:
        async def manager() -> AccessGrant:
            grant = await self.authenticate(incoming)
            grant.require_scope(MANAGE)
            self._reserve_request(incoming, grant)
            return grant

        await self._api.handle(incoming, manager)

    async def _relay_request(self, incoming: ServerRequest, begins: bool = True) -> None:
        began = self._clock.seconds()
        grant = await self.authenticate(incoming)
        grant.require_scope(USE)
        scopes = _required_scopes(grant, incoming.head) if begins else frozenset((USE,))
        self._reserve_request(incoming, grant)
        origin, assertion = await self._connect_proxy(grant, scopes, begins)
        self._metrics.request_started()
        landed = self._active_requests.add(self._proxy_id_of(grant), grant, incoming.abort)
        incoming.add_observer(partial(self._request_finished, landed))
        head = deduct_elapsed(
            request_to_proxy(incoming.head, assertion), self._clock.seconds() - began
        )
        incoming.relay_to(origin.start_request(head, incoming))

    def _reserve_request(self, incoming: ServerRequest, grant: AccessGrant) -> None:
        """Count a request as its user's until it is over; raises TooManyRequests."""
        give = self._request_limiter.reserve(self._proxy_id_of(grant))
        incoming.add_observer(lambda _: give())

    def _request_finished(self, landed: Callable[[], None], outcome: Outcome) -> None:
        landed()
        self._metrics.request_finished(outcome)

    async def _connect_proxy(
        self, grant: AccessGrant, scopes: frozenset[str], begins: bool
    ) -> tuple[ConnectionPool, bytes]:
        """The user's proxy, started if need be, and what it believes."""
        proxy = self._proxy_id_of(grant)
        try:
            origin = await self._proxies.ensure_running(proxy, begins)
        finally:  # it took time, in which the user may have been revoked
            self._token_verifier.check_active(grant)
        return origin, self._assertion_signer.sign(proxy, scopes).encode()

    async def _open_tunnel(self, incoming: ServerRequest) -> None:
        """Join a bridge's WebSocket with the user's proxy; its bytes pass unread."""
        if not requests_websocket(incoming.head):
            raise NotFound("this is where desktops connect their WebSocket")
        grant = await self.authenticate(incoming)
        grant.require_scope(SERVE)
        require_websocket(incoming)
        free = self._reserve_tunnel(incoming, grant)
        origin, assertion = await self._connect_proxy(grant, frozenset((USE, SERVE)), begins=False)
        head = request_to_tunnel(incoming.head, assertion)
        landed = self._active_requests.add(self._proxy_id_of(grant), grant, incoming.abort)
        incoming.add_observer(lambda _: landed())
        joined = partial(self._splice_tunnel, incoming, grant, free)
        incoming.relay_to(origin.upgrade(head, incoming, joined))

    def _reserve_tunnel(self, incoming: ServerRequest, grant: AccessGrant) -> Callable[[], None]:
        """Count a tunnel as its user's, and as a request; raises TooManyRequests."""
        proxy = self._proxy_id_of(grant)
        give_tunnel = self._tunnel_limiter.reserve(proxy)
        try:
            give = self._request_limiter.reserve(proxy)
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

    def _splice_tunnel(
        self,
        incoming: ServerRequest,
        grant: AccessGrant,
        free: Callable[[], None],
        made: Transport,
        head: ResponseHead,
        rest: bytes,
    ) -> None:
        """The proxy has agreed: from here on there is no HTTP on either connection."""
        taken, read = incoming.hijack()
        cut = Timeout(self._clock, partial(_abort_both, taken, made))
        landed = self._active_requests.add(
            self._proxy_id_of(grant), grant, lambda _: cut.start(REVOKED_TUNNEL_GRACE)
        )

        def over() -> None:
            landed()
            free()
            incoming.release_connection()

        splice(taken, made, self._clock, switching_protocols(head) + rest, read, over)


def _abort_both(taken: Transport, made: Transport) -> None:
    taken.abortConnection()
    made.abortConnection()


def _required_scopes(grant: AccessGrant, asked: RequestHead) -> frozenset[str]:
    """The scopes that `asked` needs and `grant` has; raises Forbidden or MethodNotAllowed.

    What the table lacks is for the desktop to open (`desktop.allowed_requests`), and no key may ask for it
    but one that may manage.
    """
    endpoint = find_endpoint(asked)
    if endpoint is not None and endpoint.scope is Scope.USE:
        return frozenset((USE,))
    if MANAGE in grant.scopes:
        return frozenset((USE, MANAGE))
    if endpoint is not None and endpoint.scope is Scope.MANAGE:
        raise Forbidden(
            f"{describe_request(asked)} changes models, which this key may not do: it needs the scope "
            "manage. Make a key that may with: ctllm keys add NAME --manage"
        )
    raise refusal_error(
        asked,
        f"{describe_request(asked)} is not passed on: ctllm does not know it as an endpoint that is open "
        "to every key. It needs a key made with `ctllm keys add NAME --manage`, and an entry "
        "in desktop.allowed_requests of the machine with Ollama.",
    )


def _requests_page(asked: RequestHead) -> bool:
    reads = asked.method in (b"GET", b"HEAD")
    return asked.path == b"/" and reads and accepts_html(get_header(asked.headers, b"accept"))
