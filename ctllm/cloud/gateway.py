"""Authenticates each request to the cloud and relays it to the streaming proxy of its user.

Requests to the cloud's own API and web page are handled here; all others belong to Ollama's API.
Bodies are relayed unread.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.direct_requests import DirectRequests
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessGrant,
)
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.limits.users import UserLimits
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.origin_policy import OriginPolicy
from ctllm.cloud.proxy_access import ProxyAccess
from ctllm.cloud.refusals import Refusals
from ctllm.cloud.relay_rules import (
    OLLAMA,
    RESUMPTION,
    TUNNEL,
    RelayRule,
    is_for_cloud,
    is_signed,
    relay_rule,
    resumed_id,
)
from ctllm.cloud.request_authenticator import API_KEY_REQUIRED, RequestAuthenticator
from ctllm.errors import (
    CtllmError,
    Forbidden,
    NoCredentials,
    NotFound,
)
from ctllm.http.cors import is_preflight
from ctllm.http.credentials import (
    without_signature_time,
)
from ctllm.http.header_policy import (
    SEALED_GRANT,
    refuse_renamed_headers,
    request_to_proxy,
    request_to_tunnel,
    switching_protocols,
)
from ctllm.http.message.head import Headers, RequestHead, ResponseHead, get_header
from ctllm.http.request_log import RequestLog
from ctllm.http.request_timeout import deduct_elapsed
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.server.upgrade import (
    refuse_websocket,
    requests_websocket,
    require_websocket,
)
from ctllm.http.splice import splice
from ctllm.ollama.endpoints import (
    canonical_request,
)
from ctllm.reactor.interfaces import Clock, Transport
from ctllm.reactor.timeout import Timeout
from ctllm.web_ui.page_files import PageFiles

OLLAMA_AUTH_REQUIRED = (
    "The ollama command must sign its requests to use this server. Set OLLAMA_AUTH=1 beside "
    "OLLAMA_HOST, then run `ollama signin` once. A ctllm desktop on this machine needs neither: "
    "use its endpoint, OLLAMA_HOST=127.0.0.1:11435"
)
#: Seconds after the end of a desktop's access in which the proxy may close the tunnel in order.
#: After them the gateway aborts both connections.
REVOKED_TUNNEL_GRACE = 1.0


class Gateway:
    """The handler of every HTTP request to the cloud."""

    def __init__(
        self,
        authenticator: RequestAuthenticator,
        proxy_access: ProxyAccess,
        api: ManagementApi,
        metrics: Metrics,
        origin_policy: OriginPolicy,
        clock: Clock,
        user_limits: UserLimits,
        guard: CredentialGuard,
        active_requests: ActiveRequests,
        direct_requests: DirectRequests,
        page_files: PageFiles,
        refusals: Refusals,
        request_log: RequestLog,
    ) -> None:
        self._authenticator = authenticator
        self._proxy_access = proxy_access
        self._api = api
        self._page_files = page_files
        self._request_log = request_log
        self._metrics = metrics
        self._clock = clock
        self._user_limits = user_limits
        self._guard = guard
        self._active_requests = active_requests
        self._direct_requests = direct_requests
        self._origin_policy = origin_policy
        self._refusals = refusals

    async def __call__(self, request: ServerRequest) -> None:
        """Respond to `request`; raises CtllmError."""
        refused = self._refusals.take(request.head)
        try:
            if refused is not None:
                raise refused.error
            await self._handle(request)
        except CtllmError as error:
            grant = self._authenticator.grant_of(request) if refused is None else refused.grant
            refusal = self._guard.refuse(request, grant, error)
            if refusal is error:
                raise
            raise refusal from error
        finally:
            self._authenticator.forget(request)

    async def _handle(self, request: ServerRequest) -> None:
        head = request.head = canonical_request(request.head)
        refuse_renamed_headers(head.headers)
        if requests_websocket(head):
            self._origin_policy.require_allowed_origin(head)
        rule = relay_rule(head)
        if is_preflight(head):
            request.respond(204, None, self._origin_policy.preflight_headers(head))
        elif self._page_files.serves(head):
            self._page_files.respond(request)
        elif rule is None:
            await self._handle_management(request)
        elif rule is TUNNEL:
            await self._open_tunnel(request)
        else:
            if rule is not RESUMPTION:
                refuse_websocket(head)
            if rule is OLLAMA and is_for_cloud(head):
                await self._respond_for_ollama(request)
            else:
                await self._relay_request(request, rule)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the headers that every response to `head` has: those of CORS and `Connection`.

        A refused WebSocket handshake closes its connection: a reverse proxy must not reuse it for
        another user's request.
        """
        headers = self._origin_policy.response_headers(head)
        if head.path == b"/ws/tunnel" and requests_websocket(head):
            headers = (*headers, (b"Connection", b"close"))
        return headers

    # -- requests for Ollama's API that the cloud itself responds to

    async def _respond_for_ollama(self, request: ServerRequest) -> None:
        if is_signed(request.head):
            await self._describe_machine(request)
        else:
            self._respond_without_token(request)

    async def _describe_machine(self, request: ServerRequest) -> None:
        """Respond to `ollama signin`, which asks who uses this machine."""
        grant = await self._authenticator.authenticate(request)
        grant.require_scope(USE)
        request.respond(200, {"name": grant.user.name})

    def _respond_without_token(self, request: ServerRequest) -> None:
        """Respond to a request for Ollama's API that has no token; raises CtllmError.

        The `ollama` command sends `HEAD /` to detect a server, and signs nothing unless it is told
        to. It prints the message of a 403 but not that of a 401.
        """
        head = request.head
        if (head.method, head.path) == (b"HEAD", b"/"):
            request.respond(200, b"", ((b"Content-Type", b"text/plain; charset=utf-8"),))
            return
        if (get_header(head.headers, b"user-agent") or b"").startswith(b"ollama/"):
            raise Forbidden(OLLAMA_AUTH_REQUIRED)
        raise NoCredentials(API_KEY_REQUIRED)

    # -- management API

    async def _handle_management(self, request: ServerRequest) -> None:
        async def authenticate() -> AccessGrant:
            grant = await self._authenticator.authenticate(request)
            grant.require_scope(MANAGE)
            release = self._user_limits.admit_own_request(
                self._proxy_access.proxy_id_of(grant), grant
            )
            request.add_observer(lambda _: release())
            return grant

        await self._api.handle(request, authenticate)

    # -- requests for Ollama

    async def _relay_request(self, request: ServerRequest, rule: RelayRule) -> None:
        """Relay `request` to the proxy of its user, or the resumption of an earlier one."""
        received = self._clock.seconds()
        id = resumed_id(request.head) or secrets.token_bytes(16)
        self._request_log.observe(request, request.head, id)
        grant = await self._authenticator.authenticate(request)
        grant.require_scope(USE)
        scopes = rule.required_scopes(grant, request.head)
        self._reserve_request(request, grant)
        connections = await self._proxy_access.connect(
            grant, rule.is_new_request, rule.timeout(request.head)
        )
        assertion = self._proxy_access.sign(grant, scopes)
        self._metrics.request_started()
        unregister = self._active_requests.add(
            self._proxy_access.proxy_id_of(grant), grant, request.abort
        )
        request.add_observer(partial(self._request_finished, unregister))
        head = request_to_proxy(without_signature_time(request.head), assertion, id)
        head = deduct_elapsed(head, self._clock.seconds() - received)
        request.relay_to(connections.start_request(head, request, request.splice))

    def _reserve_request(self, request: ServerRequest, grant: AccessGrant) -> None:
        """Count `request` as its user's, until it ends; raises TooManyRequests."""
        release = self._user_limits.admit_request(self._proxy_access.proxy_id_of(grant), grant)
        request.add_observer(lambda _: release())

    def _request_finished(self, unregister: Callable[[], None], outcome: Outcome) -> None:
        unregister()
        self._metrics.request_finished(outcome)

    # -- tunnels

    async def _open_tunnel(self, request: ServerRequest) -> None:
        """Splice the WebSocket of a desktop with one to its user's proxy; bytes pass unread."""
        if not requests_websocket(request.head):
            raise NotFound("This path accepts only WebSocket connections of desktops.")
        grant = await self._authenticator.authenticate(request)
        grant.require_scope(SERVE)
        require_websocket(request)
        release = self._reserve_tunnel(request, grant)
        connections = await self._proxy_access.connect(
            grant, TUNNEL.is_new_request, TUNNEL.timeout(request.head)
        )
        scopes = TUNNEL.required_scopes(grant, request.head)
        proxy_id = self._proxy_access.proxy_id_of(grant)
        sealed = self._direct_requests.authorize(proxy_id, grant, is_tunnel=True)
        head = request_to_tunnel(request.head, self._proxy_access.sign(grant, scopes))
        head = RequestHead(head.method, head.target, (*head.headers, (SEALED_GRANT, sealed)))
        unregister = self._active_requests.add(proxy_id, grant, request.abort)
        request.add_observer(lambda _: unregister())
        upgraded = partial(self._splice_tunnel, request, grant, release)
        request.relay_to(connections.upgrade(head, request, upgraded))

    def _reserve_tunnel(self, request: ServerRequest, grant: AccessGrant) -> Callable[[], None]:
        """Count a tunnel, and a request, as its user's; raises TooManyRequests.

        The returned function releases both. If the request ends without an upgrade, both are
        released then.
        """
        release = self._user_limits.admit_tunnel(self._proxy_access.proxy_id_of(grant), grant)

        def request_ended(outcome: Outcome) -> None:
            if outcome is not Outcome.UPGRADED:
                release()

        request.add_observer(request_ended)
        return release

    def _splice_tunnel(
        self,
        request: ServerRequest,
        grant: AccessGrant,
        release: Callable[[], None],
        upstream: Transport,
        head: ResponseHead,
        received_early: bytes,
    ) -> None:
        """Splice both connections: the proxy has responded with 101 (Switching Protocols).

        At the end of its access the proxy ends the tunnel. It may be of an older version, or not
        respond.
        """
        downstream, received = request.hijack()
        abort = Timeout(self._clock, partial(_abort_both, downstream, upstream))

        def end_access(_: CtllmError) -> None:
            abort.start(REVOKED_TUNNEL_GRACE)

        proxy_id = self._proxy_access.proxy_id_of(grant)
        unregister = self._active_requests.add(proxy_id, grant, end_access, is_tunnel=True)

        def closed() -> None:
            unregister()
            release()
            request.release_connection()

        to_client = switching_protocols(head) + received_early
        splice(downstream, upstream, self._clock, to_client, received, closed)


def _abort_both(downstream: Transport, upstream: Transport) -> None:
    downstream.abortConnection()
    upstream.abortConnection()
