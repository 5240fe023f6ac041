"""Authenticates each request to the cloud and relays it to the streaming proxy of its user.

Requests to the cloud's own API and web page are handled here; all others belong to Ollama's API.
Bodies are relayed unread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.identity import (
    CONVERSATIONS,
    MANAGE,
    SERVE,
    USE,
    AccessGrant,
    ApiKeyLeases,
    AssertionSigner,
    CompositeTokenVerifier,
    is_api_key,
    is_machine,
)
from ctllm.cloud.limits.attempts import is_costly
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.limits.users import UserLimits
from ctllm.cloud.machines import MachineVerifier
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.errors import (
    CtllmError,
    Forbidden,
    NoCredentials,
    NotFound,
    SignInRequired,
    Unauthorized,
)
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client_address import truncate_address
from ctllm.http.cors import CorsPolicy, is_preflight, requests_api_key
from ctllm.http.credentials import (
    presented_signature,
    presented_tokens,
    without_signature_time,
)
from ctllm.http.header_policy import (
    refuse_renamed_headers,
    request_to_proxy,
    request_to_tunnel,
    switching_protocols,
)
from ctllm.http.message.head import Headers, RequestHead, ResponseHead, get_header
from ctllm.http.origins import OLLAMA_ORIGINS, origin_matcher
from ctllm.http.request_timeout import deduct_elapsed
from ctllm.http.same_site import has_one_origin, is_own_origin
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.server.upgrade import (
    refuse_websocket,
    requests_websocket,
    require_websocket,
)
from ctllm.http.splice import splice
from ctllm.ollama.endpoints import (
    Scope,
    canonical_request,
    describe_request,
    find_endpoint,
    refusal_error,
)
from ctllm.reactor.interfaces import Clock, Transport
from ctllm.reactor.timeout import Timeout
from ctllm.web_ui.page_files import PageFiles

API_KEY_REQUIRED = (
    "An API key is needed, as `Authorization: Bearer KEY` or as `x-api-key: KEY`. "
    "Create one on a desktop with: ctllm keys add NAME"
)
OLLAMA_AUTH_REQUIRED = (
    "The ollama command must sign its requests to use this server. Set OLLAMA_AUTH=1 beside "
    "OLLAMA_HOST, then run `ollama signin` once. A ctllm desktop on this machine needs neither: "
    "use its endpoint, OLLAMA_HOST=127.0.0.1:11435"
)
#: Seconds after a revocation in which the user's proxy may close its tunnels in order. After them
#: the gateway aborts both connections.
REVOKED_TUNNEL_GRACE = 1.0

Verification = Callable[[], Awaitable[AccessGrant]]
"""Verifies one credential; raises Unauthorized."""

RequiredScopes = Callable[[AccessGrant, RequestHead], frozenset[str]]
"""Returns the scopes with which a request is relayed; raises CtllmError if it may not be."""

_USE = frozenset((USE,))


class Gateway:
    """The handler of every HTTP request to the cloud.

    `proxy_id_of` returns the id of a user's proxy.
    """

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
        user_limits: UserLimits,
        guard: CredentialGuard,
        active_requests: ActiveRequests,
        machine_verifier: MachineVerifier,
        api_key_leases: ApiKeyLeases,
        page_files: PageFiles,
    ) -> None:
        self._token_verifier = token_verifier
        self._machine_verifier = machine_verifier
        self._api_key_leases = api_key_leases
        self._assertion_signer = assertion_signer
        self._proxy_id_of = proxy_id_of
        self._proxies = proxies
        self._api = api
        self._page_files = page_files
        self._metrics = metrics
        self._clock = clock
        self._user_limits = user_limits
        self._guard = guard
        self._grants: dict[ServerRequest, AccessGrant] = {}  # of requests that are being handled
        self._active_requests = active_requests
        self._configured_origins = CorsPolicy(origin_matcher(origins))
        self._local_origins = CorsPolicy(origin_matcher(OLLAMA_ORIGINS), credentials=False)

    async def __call__(self, request: ServerRequest) -> None:
        """Respond to `request`; raises CtllmError."""
        try:
            await self._handle(request)
        except CtllmError as error:
            refusal = self._guard.refuse(request, self._grants.get(request), error)
            if refusal is error:
                raise
            raise refusal from error
        finally:
            self._grants.pop(request, None)

    async def _handle(self, request: ServerRequest) -> None:
        head = request.head = canonical_request(request.head)
        refuse_renamed_headers(head.headers)
        if requests_websocket(head):
            self._require_allowed_origin(head)
        if is_preflight(head):
            request.respond(204, None, self._cors_policy_for(head).preflight_headers(head))
        elif self._page_files.serves(head):
            self._page_files.respond(request)
        elif head.path == b"/ws/tunnel":
            await self._open_tunnel(request)
        elif head.path.startswith(b"/ctllm/exchanges/"):
            await self._relay_request(request, _scopes_to_resume, resumes=True)
        elif head.path.startswith(b"/ctllm/desktop/"):
            await self._relay_request(request, _scopes_for_resources)
        elif head.path == b"/health" or head.path.startswith((b"/ctllm/", b"/ws/")):
            await self._handle_management(request)
        else:
            refuse_websocket(head)
            if not presented_tokens(head) and not _is_signed(head):
                self._respond_without_token(request)
            elif (head.method, head.path) == (b"POST", b"/api/me") and _is_signed(head):
                await self._describe_machine(request)
            else:
                await self._relay_request(request, _required_scopes)

    def response_headers(self, head: RequestHead) -> Headers:
        """Return the headers that every response to `head` has: those of CORS and `Connection`.

        A refused WebSocket handshake closes its connection: a reverse proxy must not reuse it for
        another user's request.
        """
        try:
            headers = self._cors_policy_for(head).response_headers(head)
        except CtllmError:
            headers = ()
        if head.path == b"/ws/tunnel" and requests_websocket(head):
            headers = (*headers, (b"Connection", b"close"))
        return headers

    def _cors_policy_for(self, head: RequestHead) -> CorsPolicy:
        """Return the CORS policy for `head`.

        Like Ollama, the gateway lets web pages on the client's own machine use models. They must
        send an API key and no cookie.
        """
        is_own_path = head.path.startswith((b"/ctllm/", b"/ws/"))
        if is_own_path or self._configured_origins.response_headers(head):
            return self._configured_origins
        if is_preflight(head):
            has_key = requests_api_key(head)
        else:
            has_cookie = get_header(head.headers, b"cookie") is not None
            has_key = not has_cookie and bool(presented_tokens(head))
        return self._local_origins if has_key else self._configured_origins

    def _require_allowed_origin(self, head: RequestHead) -> None:
        """Raise Forbidden for the WebSocket of a page of another site.

        CORS does not apply to WebSockets: browsers open them for every page, and send its origin.
        """
        is_listed = bool(self._configured_origins.response_headers(head))
        if is_own_origin(head) or (is_listed and has_one_origin(head)):
            return
        raise Forbidden(
            "Web pages of this origin may not open WebSockets to this cloud. Its owner can add the "
            "origin to cloud.cors_origins."
        )

    # -- authentication

    async def authenticate(self, request: ServerRequest) -> AccessGrant:
        """Return the grant of the first valid credential of `request`; raises Unauthorized."""
        error: CtllmError = NoCredentials(API_KEY_REQUIRED)
        for credential, costs, verify in self._verifications(request):
            try:
                if costs:
                    self._guard.admit(request, credential)
                grant = await verify()
            except CtllmError as refused:
                if isinstance(refused, Unauthorized) and not isinstance(refused, SignInRequired):
                    refused.challenge_error = "invalid_token"
                if isinstance(error, Unauthorized):  # any other error says more
                    error = refused
            else:
                self._authenticated(request, credential, grant)
                return grant
        raise error

    def _authenticated(self, request: ServerRequest, credential: str, grant: AccessGrant) -> None:
        self._grants[request] = grant
        self._guard.accept(request, credential, grant)
        self._machine_verifier.observe(grant)
        if is_api_key(grant):
            address = truncate_address(request.client_address)
            self._api_key_leases.record_use(grant, address)
        request.mark_authenticated()

    def _verifications(self, request: ServerRequest) -> Iterator[tuple[str, bool, Verification]]:
        """Return the credentials of `request`: its tokens, then the key of its signature.

        Beside each is whether its check costs cryptography, and the check.
        """
        for token in presented_tokens(request.head):
            yield token, is_costly(token), partial(self._token_verifier.verify, token)
        signature = presented_signature(request.head)
        if signature:
            key = signature.partition(":")[0]
            yield key, True, partial(self._verify_signature, request, signature)

    async def _verify_signature(self, request: ServerRequest, signature: str) -> AccessGrant:
        return self._machine_verifier.verify(request.head, signature, request.client_address)

    async def _describe_machine(self, request: ServerRequest) -> None:
        """Respond to `ollama signin`, which asks who uses this machine."""
        grant = await self.authenticate(request)
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
            grant = await self.authenticate(request)
            grant.require_scope(MANAGE)
            release = self._user_limits.admit_own_request(self._proxy_id_of(grant), grant)
            request.add_observer(lambda _: release())
            return grant

        await self._api.handle(request, authenticate)

    # -- requests for Ollama

    async def _relay_request(
        self, request: ServerRequest, required_scopes: RequiredScopes, resumes: bool = False
    ) -> None:
        """Relay `request` to the proxy of its user, or the resumption of an earlier one."""
        received = self._clock.seconds()
        grant = await self.authenticate(request)
        grant.require_scope(USE)
        scopes = required_scopes(grant, request.head)
        self._reserve_request(request, grant)
        connections, assertion = await self._connect_proxy(
            grant, scopes, is_new_request=not resumes
        )
        self._metrics.request_started()
        unregister = self._active_requests.add(self._proxy_id_of(grant), grant, request.abort)
        request.add_observer(partial(self._request_finished, unregister))
        head = request_to_proxy(without_signature_time(request.head), assertion)
        head = deduct_elapsed(head, self._clock.seconds() - received)
        request.relay_to(connections.start_request(head, request))

    def _reserve_request(self, request: ServerRequest, grant: AccessGrant) -> None:
        """Count `request` as its user's, until it ends; raises TooManyRequests."""
        release = self._user_limits.admit_request(self._proxy_id_of(grant), grant)
        request.add_observer(lambda _: release())

    def _request_finished(self, unregister: Callable[[], None], outcome: Outcome) -> None:
        unregister()
        self._metrics.request_finished(outcome)

    async def _connect_proxy(
        self, grant: AccessGrant, scopes: frozenset[str], is_new_request: bool
    ) -> tuple[ConnectionPool, bytes]:
        """Return connections to the user's proxy, started if needed, and a session assertion."""
        proxy_id, limits = self._proxy_id_of(grant), self._user_limits.tiers.limits_of(grant)
        try:
            connections = await self._proxies.ensure_running(
                proxy_id, is_new_request, limits.spawner
            )
        finally:  # the user may have been revoked in the meantime
            self._token_verifier.check_active(grant)
        max_desktops = limits.max_desktops if SERVE in scopes else 0
        assertion = self._assertion_signer.sign(proxy_id, scopes, grant.models, max_desktops)
        return connections, assertion.encode()

    # -- tunnels

    async def _open_tunnel(self, request: ServerRequest) -> None:
        """Splice the WebSocket of a desktop with one to its user's proxy; bytes pass unread."""
        if not requests_websocket(request.head):
            raise NotFound("This path accepts only WebSocket connections of desktops.")
        grant = await self.authenticate(request)
        grant.require_scope(SERVE)
        require_websocket(request)
        release = self._reserve_tunnel(request, grant)
        connections, assertion = await self._connect_proxy(
            grant, frozenset((USE, SERVE)), is_new_request=False
        )
        head = request_to_tunnel(request.head, assertion)
        unregister = self._active_requests.add(self._proxy_id_of(grant), grant, request.abort)
        request.add_observer(lambda _: unregister())
        upgraded = partial(self._splice_tunnel, request, grant, release)
        request.relay_to(connections.upgrade(head, request, upgraded))

    def _reserve_tunnel(self, request: ServerRequest, grant: AccessGrant) -> Callable[[], None]:
        """Count a tunnel, and a request, as its user's; raises TooManyRequests.

        The returned function releases both. If the request ends without an upgrade, both are
        released then.
        """
        release = self._user_limits.admit_tunnel(self._proxy_id_of(grant), grant)

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
        """Splice both connections: the proxy has responded with 101 (Switching Protocols)."""
        downstream, received = request.hijack()
        abort = Timeout(self._clock, partial(_abort_both, downstream, upstream))
        unregister = self._active_requests.add(
            self._proxy_id_of(grant),
            grant,
            lambda _: abort.start(REVOKED_TUNNEL_GRACE),
            is_tunnel=True,
        )

        def closed() -> None:
            unregister()
            release()
            request.release_connection()

        to_client = switching_protocols(head) + received_early
        splice(downstream, upstream, self._clock, to_client, received, closed)


def _is_signed(head: RequestHead) -> bool:
    """Whether `ollama` signed `head`, and that shall authorize it.

    `HEAD /` detects a server. A refusal of it would have no body to explain it.
    """
    is_detection = (head.method, head.path) == (b"HEAD", b"/")
    return not is_detection and bool(presented_signature(head))


def _abort_both(downstream: Transport, upstream: Transport) -> None:
    downstream.abortConnection()
    upstream.abortConnection()


def _scopes_to_resume(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    return _USE


def _scopes_for_resources(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    """Return the scopes for a resource of a desktop; raises Forbidden."""
    refuse_websocket(head)
    if CONVERSATIONS not in grant.scopes:
        raise Forbidden(
            "Only the chat page may use the conversations of a desktop. API keys, machines and "
            "programs may not."
        )
    return frozenset((USE, MANAGE, CONVERSATIONS))


def _required_scopes(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    """Return the scopes that `head` needs and `grant` has; raises Forbidden or MethodNotAllowed.

    A path that is not in the table of Ollama's endpoints needs the scope `manage`. The desktop
    decides whether it relays it (`desktop.allowed_requests`).
    """
    endpoint = find_endpoint(head)
    if endpoint is not None and endpoint.scope is Scope.USE:
        return _USE
    if MANAGE in grant.scopes:
        return frozenset((USE, MANAGE))
    if endpoint is not None and endpoint.scope is Scope.MANAGE:
        if is_machine(grant):
            raise Forbidden(
                f"{describe_request(head)} changes models, which this machine may not do. To "
                "change that, remove it in the settings of the page, and run `ollama signin` again."
            )
        raise Forbidden(
            f"{describe_request(head)} changes models and needs the scope manage, which this key "
            "does not have. Create a key that has it with: ctllm keys add NAME --scope manage"
        )
    raise refusal_error(
        head,
        f"{describe_request(head)} is not relayed: it is not one of the endpoints that every key "
        "may use. It needs a key created with `ctllm keys add NAME --scope manage`, and an entry "
        "in desktop.allowed_requests on the machine with Ollama.",
    )
