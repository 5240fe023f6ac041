"""Tells a reverse proxy (nginx, `auth_request`) to which streaming proxy it may send a request.

nginx sends the head of each request that may belong to a streaming proxy. The response is one of:

- 204, with the address of the streaming proxy, the head that it shall receive (an envelope), and
  the headers of CORS for the response. The streaming proxy runs by then.
- 403: the cloud itself responds to this request, maybe with a refusal. nginx sends it to the
  cloud's listener, with the ticket of the refusal if there is one.

It is never 401, which nginx's configuration takes for a cloud that does not run.

nginx's connections to the cloud are kept, and each has the questions about many clients: what is
said of a connection holds for none of them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from twisted.internet.defer import CancelledError

from ctllm.cloud.direct_requests import DirectRequests
from ctllm.cloud.identity import AccessGrant
from ctllm.cloud.limits.users import UserLimits
from ctllm.cloud.origin_policy import OriginPolicy
from ctllm.cloud.proxy_access import ProxyAccess
from ctllm.cloud.refusals import Refusal, Refusals
from ctllm.cloud.relay_rules import (
    OLLAMA,
    RESUMPTION,
    TUNNEL,
    RelayRule,
    is_for_cloud,
    relay_rule,
    resumed_id,
)
from ctllm.cloud.request_authenticator import RequestAuthenticator
from ctllm.errors import CtllmError
from ctllm.http.cors import is_preflight
from ctllm.http.credentials import without_signature_time
from ctllm.http.header_policy import (
    ENVELOPE,
    REFUSAL,
    SEALED_GRANT,
    UPSTREAM,
    refuse_renamed_headers,
    request_to_proxy,
    request_to_tunnel,
    take_client_connection,
    take_request_id,
)
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.request_envelope import seal_envelope
from ctllm.http.request_log import RequestLog
from ctllm.http.request_timeout import deduct_elapsed
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.server.upgrade import requests_websocket, require_websocket
from ctllm.ollama.endpoints import canonical_request
from ctllm.reactor.interfaces import Clock
from ctllm.web_ui.page_files import PageFiles

#: Bytes of an envelope: nginx has 16 KiB for the head of a response. Requests with larger heads are
#: relayed by the cloud. The draft has neither assertion nor grant.
MAX_DRAFT, MAX_ENVELOPE = 8 * 1024, 14 * 1024
#: How many times as long as a head its envelope is at most: JSON writes a control character in six
#: bytes, base64 three bytes in four.
MAX_GROWTH = 8
#: Tells nginx to let the connection become a WebSocket.
UPGRADE = b"Ctllm-Upgrade"

_TO_CLOUD = 403
#: The outcome that the log has of a request which a streaming proxy goes on with.
_AUTHORIZED = "authorized"


@dataclass(frozen=True, slots=True)
class _Route:
    """Where a request goes, and with which head."""

    address: str
    envelope: bytes
    is_tunnel: bool

    def headers(self) -> Headers:
        upgrade = ((UPGRADE, b"websocket"),) if self.is_tunnel else ()
        return ((UPSTREAM, self.address.encode()), (ENVELOPE, self.envelope), *upgrade)


class AuthRequestHandler:
    """The handler of nginx's subrequests. Nobody else may reach its listener."""

    def __init__(
        self,
        authenticator: RequestAuthenticator,
        proxy_access: ProxyAccess,
        origin_policy: OriginPolicy,
        user_limits: UserLimits,
        direct_requests: DirectRequests,
        refusals: Refusals,
        page_files: PageFiles,
        request_log: RequestLog,
        clock: Clock,
    ) -> None:
        self._authenticator = authenticator
        self._proxy_access = proxy_access
        self._origin_policy = origin_policy
        self._user_limits = user_limits
        self._direct_requests = direct_requests
        self._refusals = refusals
        self._page_files = page_files
        self._request_log = request_log
        self._clock = clock

    async def __call__(self, request: ServerRequest) -> None:
        """Respond to a subrequest. The client's errors raise nothing."""
        received = self._clock.seconds()
        given_id, head = take_request_id(request.head)
        head = request.head = canonical_request(take_client_connection(head))
        id = resumed_id(head) or given_id or secrets.token_bytes(16)
        try:
            route = await self._find_route(request, id, received)
        except CtllmError as error:
            self._log(id, head, error.status, Outcome.REFUSED, received)
            self._refuse(request, error)
        except CancelledError:
            self._log(id, head, 0, Outcome.CLIENT_DISCONNECTED, received)
            raise
        else:
            self._respond(request, route)
            if route is not None:
                self._log(id, head, 0, _AUTHORIZED, received)
        finally:
            self._authenticator.forget(request)

    def _log(
        self, id: bytes, head: RequestHead, status: int, outcome: str, received: float
    ) -> None:
        if self._request_log.is_enabled:
            self._request_log.write(id, head, status, outcome, received)

    def _refuse(self, request: ServerRequest, error: CtllmError) -> None:
        refusal = Refusal(error, self._authenticator.grant_of(request))
        request.respond(_TO_CLOUD, None, ((REFUSAL, self._refusals.add(refusal)),))

    def _respond(self, request: ServerRequest, route: _Route | None) -> None:
        if route is None:
            request.respond(_TO_CLOUD)
        else:
            cors = self._origin_policy.response_headers(request.head)
            request.respond(204, None, (*route.headers(), *cors))

    async def _find_route(
        self, request: ServerRequest, id: bytes, received: float
    ) -> _Route | None:
        """Return the route to a streaming proxy, if there is one; raises CtllmError."""
        head = request.head
        rule = relay_rule(head)
        if rule is None or self._is_for_cloud(rule, request):
            return None
        refuse_renamed_headers(head.headers)
        return await self._authorize(request, rule, id, received)

    def _is_for_cloud(self, rule: RelayRule, request: ServerRequest) -> bool:
        """Whether the cloud responds itself, or has to relay the request because of its size."""
        head = request.head
        if is_preflight(head) or self._page_files.serves(head):
            return True
        if requests_websocket(head) is not (rule is TUNNEL):
            return rule is not RESUMPTION
        if rule is OLLAMA and is_for_cloud(head):
            return True
        if MAX_GROWTH * len(request.raw_head) <= MAX_DRAFT:
            return False
        return len(seal_envelope(_forwarded(rule, head, b"", b""))) > MAX_DRAFT

    async def _authorize(
        self, request: ServerRequest, rule: RelayRule, id: bytes, received: float
    ) -> _Route | None:
        head = request.head
        if rule is TUNNEL:
            self._origin_policy.require_allowed_origin(head)
        grant = await self._authenticator.authenticate(request)
        grant.require_scope(rule.scope)
        scopes = rule.required_scopes(grant, head)
        proxy_id = self._proxy_access.proxy_id_of(grant)
        self._count(request, rule, proxy_id, grant)
        await self._proxy_access.connect(grant, rule.is_new_request, rule.timeout(head))
        address = self._proxy_access.direct_address(grant)
        if not address:
            return None  # its version accepts requests of the cloud only
        assertion = self._proxy_access.sign(grant, scopes, is_direct=True)
        forwarded = _forwarded(rule, head, assertion, id)
        forwarded = deduct_elapsed(forwarded, self._clock.seconds() - received)
        sealed = self._direct_requests.authorize(proxy_id, grant, rule is TUNNEL)
        headers = (*forwarded.headers, (SEALED_GRANT, sealed))
        envelope = seal_envelope(RequestHead(forwarded.method, forwarded.target, headers))
        return _Route(address, envelope, rule is TUNNEL) if len(envelope) <= MAX_ENVELOPE else None

    def _count(
        self, request: ServerRequest, rule: RelayRule, proxy_id: str, grant: AccessGrant
    ) -> None:
        """Count a request as its user's until this one is answered; raises TooManyRequests.

        From then on the streaming proxy counts it.
        """
        if rule is TUNNEL:
            require_websocket(request)
            admit = self._user_limits.admit_tunnel
        else:
            admit = self._user_limits.admit_request
        release = admit(proxy_id, grant)
        request.add_observer(lambda _: release())


def _forwarded(rule: RelayRule, head: RequestHead, assertion: bytes, id: bytes) -> RequestHead:
    """Return what a streaming proxy receives of `head`."""
    if rule is TUNNEL:
        return request_to_tunnel(head, assertion)
    return request_to_proxy(without_signature_time(head), assertion, id)
