"""What signing in a browser needs: the providers, and a session for whom they authenticated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ctllm.cloud.browser_login.messages import Callback
from ctllm.cloud.browser_login.transactions import LoginTransaction
from ctllm.cloud.identity import AccessGrant
from ctllm.http.message.head import Headers, RequestHead


@dataclass(frozen=True, slots=True)
class ProviderLogin:
    """Whom a provider authenticated: the grant of its token, and a refresh token or nothing."""

    grant: AccessGrant
    refresh_token: str = field(repr=False)


class LoginProvider(Protocol):
    """A provider at which the cloud is a client. Each call raises CtllmError.

    Unauthorized is for what the provider or the cloud refuses, GroupNotAllowed for a user who may
    not sign in; another error means that the provider cannot be asked now.
    """

    async def authorization_url(self, transaction: LoginTransaction, fresh: bool) -> str:
        """Return the URL that signs in a person; with `fresh`, also one who is signed in there."""

    async def redeem(self, transaction: LoginTransaction, callback: Callback) -> ProviderLogin:
        """Redeem the code of a callback, and verify all that it gives."""

    async def refresh(self, refresh_token: str) -> ProviderLogin:
        """Use a refresh token, once. The result has the next one."""

    async def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token, if the provider supports that."""


class BrowserSessions(Protocol):
    """Creates the sessions of browsers. Implemented by SessionApi."""

    def create_browser_session(
        self, head: RequestHead, grant: AccessGrant, sealed_refresh: str, ask_at: float
    ) -> Headers:
        """Create a session; return the header with its cookie. Raises CtllmError."""
