"""The provider's consent for the session of a browser: sealed in its file, renewed and revoked.

The provider rotates refresh tokens: each may be used once, and using one again ends the sign-in.
SessionRenewer calls `renew` once at a time for each session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ctllm.cloud.browser_login.interfaces import LoginProvider, ProviderLogin
from ctllm.cloud.identity import Session
from ctllm.cloud.identity.sealed_tokens import TokenSealer
from ctllm.cloud.session_renewer import RenewedConsent
from ctllm.errors import Unauthorized

#: Seconds after which the first renewal of a session asks the provider again, unless its token
#: expires before: so long a removal from a group may take to be noticed.
ASK_INTERVAL = 600.0
#: Seconds before the expiry of a token from which it is asked.
ASK_BEFORE = 60.0
#: Seconds for which a session goes on after the provider's last answer while it is down.
OUTAGE_GRACE = 3600.0


class ProviderRenewals:
    """Implements ProviderRenewal of SessionRenewer. `now` returns epoch seconds."""

    def __init__(
        self,
        providers: Mapping[str, LoginProvider],
        sealer: TokenSealer,
        now: Callable[[], float],
    ) -> None:
        self._providers = providers
        self._sealer = sealer
        self._now = now

    def consent(self, provider: str, login: ProviderLogin) -> RenewedConsent:
        """Return `login` as it is stored.

        Without a refresh token the provider cannot be asked, so its token counts until it expires.
        """
        grant = login.grant
        if not login.refresh_token:
            return RenewedConsent(grant, "")
        now = self._now()
        sealed = self._sealer.seal(f"{provider} {login.refresh_token}", grant.user.id)
        ask_at = min(grant.expires_at - ASK_BEFORE, now + ASK_INTERVAL)
        return RenewedConsent(replace(grant, expires_at=now + OUTAGE_GRACE), sealed, ask_at)

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
