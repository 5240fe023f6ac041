"""The tokens of a desktop's login: what a store of secrets holds for it."""

from __future__ import annotations

import msgspec


class LoginSecrets(msgspec.Struct, frozen=True):
    """The refresh token of the session at the cloud; with a provider, also the provider's."""

    refresh_token: str = msgspec.field(name="refresh")
    provider_refresh_token: str = msgspec.field(default="", name="provider_refresh")

    def __repr__(self) -> str:
        """Tell no token: this may be in a traceback or a log."""
        return "LoginSecrets(…)"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Tell no token, in rich's tracebacks either."""
        return []
