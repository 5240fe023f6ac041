"""The tokens of a desktop's login: what a store of secrets holds for it."""

from __future__ import annotations

import msgspec


class LoginSecrets(msgspec.Struct, frozen=True, omit_defaults=True):
    """The refresh token of the session at the cloud; with a provider, also the provider's.

    `provider_expires_at` is when the last token of the provider expires, in epoch seconds.
    """

    refresh_token: str = msgspec.field(name="refresh")
    provider_refresh_token: str = msgspec.field(default="", name="provider_refresh")
    provider_expires_at: float = msgspec.field(default=0.0, name="provider_expires")

    def __repr__(self) -> str:
        """Tell no token: this may be in a traceback or a log."""
        return "LoginSecrets(…)"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Tell no token, in rich's tracebacks either."""
        return []
