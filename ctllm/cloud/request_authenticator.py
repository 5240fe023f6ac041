"""Authenticates requests: finds the first valid credential of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from ctllm.cloud.identity import AccessGrant, ApiKeyLeases, CompositeTokenVerifier, is_api_key
from ctllm.cloud.limits.attempts import is_costly
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.machines import MachineVerifier
from ctllm.errors import CtllmError, NoCredentials, SignInRequired, Unauthorized
from ctllm.http.client_address import truncate_address
from ctllm.http.credentials import presented_signature, presented_tokens
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.interfaces import Clock

API_KEY_REQUIRED = (
    "An API key is needed, as `Authorization: Bearer KEY` or as `x-api-key: KEY`. "
    "Create one on a desktop with: ctllm keys add NAME"
)

Verification = Callable[[], Awaitable[AccessGrant]]
"""Verifies one credential; raises Unauthorized."""


#: Seconds between two checks of an API key that desktops may be about to lease again.
LEASE_POLL_INTERVAL = 0.25


class RequestAuthenticator:
    """Verifies the credentials of requests, and records the use of those that are good.

    `is_recovering` tells whether desktops that are connected may be about to lease their API keys
    again, because the cloud has been restarted. Until then an unknown key waits.
    """

    def __init__(
        self,
        token_verifier: CompositeTokenVerifier,
        machine_verifier: MachineVerifier,
        api_key_leases: ApiKeyLeases,
        guard: CredentialGuard,
        clock: Clock,
        is_recovering: Callable[[], bool] = lambda: False,
    ) -> None:
        self._token_verifier = token_verifier
        self._machine_verifier = machine_verifier
        self._api_key_leases = api_key_leases
        self._guard = guard
        self._clock = clock
        self._is_recovering = is_recovering
        self._grants: dict[ServerRequest, AccessGrant] = {}  # of requests that are being handled

    def grant_of(self, request: ServerRequest) -> AccessGrant | None:
        """Return the grant of a request that was authenticated, and is still being handled."""
        return self._grants.get(request)

    def forget(self, request: ServerRequest) -> None:
        """Forget a request that was handled."""
        self._grants.pop(request, None)

    def check_active(self, grant: AccessGrant) -> None:
        """Raise Unauthorized or UserDisabled for a grant that has ended since."""
        self._token_verifier.check_active(grant)

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
            yield token, is_costly(token), partial(self._verify_token, token)
        signature = presented_signature(request.head)
        if signature:
            key = signature.partition(":")[0]
            yield key, True, partial(self._verify_signature, request, signature)

    async def _verify_token(self, token: str) -> AccessGrant:
        while True:
            try:
                return await self._token_verifier.verify(token)
            except Unauthorized:
                if not self._api_key_leases.matches(token) or not self._is_recovering():
                    raise
            await sleep(self._clock, LEASE_POLL_INTERVAL)

    async def _verify_signature(self, request: ServerRequest, signature: str) -> AccessGrant:
        return self._machine_verifier.verify(request.head, signature, request.client_address)
