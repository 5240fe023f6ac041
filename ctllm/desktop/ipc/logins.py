"""Logging this desktop in and out, for clients of the IPC and for the page."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from ctllm.desktop.cloud_client import (
    CloudClient,
    parse_cloud_url,
    parse_invite_link,
    require_https,
)
from ctllm.desktop.cloud_login import find_providers, log_in_with_invite, log_out
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.credential_file import Login
from ctllm.desktop.ipc.provider_login import PendingLogin
from ctllm.desktop.oauth.provider import choose_provider
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.ipc.messages import LoginBegun, LoginEnded, ProviderChoice


class Logins:
    """The login of this desktop. `client_for` returns a client of a cloud's URL."""

    _log = Logger()

    def __init__(
        self,
        session: CloudSession,
        client_for: Callable[[str], CloudClient],
        oauth: OAuthClient,
        pending: PendingLogin,
    ) -> None:
        self._session = session
        self._client_for = client_for
        self._oauth = oauth
        self._pending = pending

    async def log_in_with_invite(self, link: str) -> Login:
        """Log in with an invite link; raises CtllmError."""
        url, invite = parse_invite_link(link)
        require_https(url)
        login = await log_in_with_invite(
            self._session.logins, self._client_for, self._oauth, url, invite,
            lambda message: self._log.warn("{message}", message=message),
        )  # fmt: skip
        self._log.info("Logged in to {url} as {name}", url=url, name=login.user_name)
        return login

    async def begin(
        self,
        cloud_url: str,
        provider: str,
        on_ended: Callable[[LoginEnded], None],
        *,
        opens_browser: bool = True,
    ) -> LoginBegun:
        """Begin a login with a provider of a cloud; return what the user has to do.

        `on_ended` gets the result, unless the user has to choose a provider first. Raises
        CtllmError.
        """
        url = parse_cloud_url(cloud_url)
        require_https(url)
        providers = await find_providers(self._client_for(url))
        if not provider and len(providers) > 1:
            choices = tuple(ProviderChoice(each.name, each.label) for each in providers)
            return LoginBegun("choose", choices)
        chosen = choose_provider(providers, provider)
        return await self._pending.begin(url, chosen, on_ended, opens_browser=opens_browser)

    def cancel(self) -> None:
        """Give up the login that `begin` began, if there is one."""
        self._pending.cancel()

    async def log_out(self) -> Login:
        """Log out and return the login that ended; raises CtllmError."""
        return await log_out(self._session.logins, self._client_for, self._oauth)
