"""The provider's consent for the session of a browser: sealed in its file, renewed and revoked.

The provider rotates refresh tokens: each may be used once, and using one again ends the sign-in.
SessionRenewer calls `renew` once at a time for each session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ctllm.cloud.browser_login.interfaces import LoginProvider, ProviderLogin
from ctllm.cloud.browser_login.sealed_tokens import TokenSealer
from ctllm.cloud.identity import Session
from ctllm.cloud.session_renewer import RenewedConsent
from ctllm.errors import Unauthorized

#: The longest that a consent counts before the provider is asked again, in seconds, whatever the
#: lifetime of its tokens: so long a session goes on while the provider is down, and so long a
#: removal from a group may take to be noticed.
MAX_CONSENT = 3600.0


class ProviderRenewals:
    """Implements ProviderRenewal of SessionRenewer. `now` returns epoch seconds."""

    def __init__(
        self,
        providers: Mapping[str, LoginProvider],
        sealer: TokenSealer,
        now: Callable[[], float],
        max_consent: float = MAX_CONSENT,
    ) -> None:
        self._providers = providers
        self._sealer = sealer
        self._now = now
        self._max_consent = max_consent

    def consent(self, provider: str, login: ProviderLogin) -> RenewedConsent:
        """Return `login` as it is stored.

        Without a refresh token the provider cannot be asked, so its token counts until it expires.
        """
        grant = login.grant
        if not login.refresh_token:
            return RenewedConsent(grant, "")
        expires = min(grant.expires_at, self._now() + self._max_consent)
        sealed = self._sealer.seal(f"{provider} {login.refresh_token}", grant.user.id)
        return RenewedConsent(replace(grant, expires_at=expires), sealed)

    async def renew(self, session: Session) -> RenewedConsent:
        """Ask the provider of `session`; raises CtllmError as ProviderRenewal says."""
        provider, refresh_token = self._unseal(session)
        if provider not in self._providers or not refresh_token:
            raise Unauthorized("Your sign-in with the provider has expired. Sign in again.")
        login = await self._providers[provider].refresh(refresh_token)
        return self.consent(provider, login)

    async def revoke(self, session: Session) -> None:
        """Revoke the refresh token of `session` at its provider, if it has one."""
        provider, refresh_token = self._unseal(session)
        if provider in self._providers and refresh_token:
            await self._providers[provider].revoke(refresh_token)

    def _unseal(self, session: Session) -> tuple[str, str]:
        """Return the provider and the refresh token; nothing if there is none that can be read."""
        sealed = session.proof.sealed_refresh if session.proof else ""
        text = self._sealer.unseal(sealed, session.user.id) or ""
        provider, _, refresh_token = text.partition(" ")
        return provider, refresh_token
