"""The desktop's session with its cloud: access tokens, refreshed before they expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.desktop.cloud_client import CloudClient, UnexplainedRefusal
from ctllm.desktop.credential_file import Credentials, Login, Update, describe_end
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import LoginStore
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.desktop.provider_renewal import ProviderRenewal
from ctllm.errors import (
    BadConfiguration,
    BadGateway,
    CtllmError,
    Forbidden,
    ProviderTokenRequired,
    Unauthorized,
    UserDisabled,
)
from ctllm.ipc.messages import NOT_LOGGED_IN
from ctllm.reactor.interfaces import Clock

#: Seconds before its expiry at which an access token is refreshed.
RENEW_BEFORE_EXPIRY = 60.0
#: Seconds before its expiry until which a token is used while there is no other one.
LAST_USE_BEFORE_EXPIRY = 5.0
#: Seconds for which the cloud is not asked again after it has refused a disabled user.
REFUSAL_PAUSE = 30.0


@dataclass(frozen=True)
class _AccessToken:
    """An access token of `login`. `expires_at` is a time of the session's clock."""

    login: Login
    access_token: str = field(repr=False)
    expires_at: float

    def is_usable(self, login: Login, now: float, margin: float) -> bool:
        """Whether it belongs to `login` and does not expire within `margin` seconds."""
        return self.login.id == login.id and self.expires_at - now >= margin


class CloudSession:
    """Access tokens for the cloud that this desktop is logged in to.

    `client_factory` returns a client of a cloud's URL. `cloud_url` replaces the URL of the login,
    for a cloud that is reached at another one. `oauth` asks providers; `wall_clock` returns epoch
    seconds.
    """

    _log = Logger()

    def __init__(
        self,
        logins: LoginStore,
        client_factory: Callable[[str], CloudClient],
        clock: Clock,
        cloud_url: str = "",
        *,
        oauth: OAuthClient | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.logins = logins
        self.renewal = ProviderRenewal(
            logins, oauth or OAuthClient(clock), self._request_token, clock, wall_clock=wall_clock
        )
        self.file = logins.file
        self._cloud_url = cloud_url
        self._client_factory = client_factory
        self._clock = clock
        self._tokens: dict[str, _AccessToken] = {}  # by scope
        self._refusal = ("", "", 0.0)  # of a login by the cloud, until a time of the clock
        self._loaded_version = -1
        self._read_error = ""
        self._credentials = Credentials("")

    @property
    def credentials(self) -> Credentials:
        """The credentials on disk, which other processes change.

        While the file cannot be read, these are the last ones, so that requests go on.
        """
        version = self.file.version()
        if version != self._loaded_version or not version:
            try:
                self._credentials = self.file.load()
            except BadConfiguration as error:
                self._report_unreadable(error.message)
            else:
                self._loaded_version, self._read_error = version, ""
        return self._credentials

    def _report_unreadable(self, error: str) -> None:
        if error != self._read_error:
            self._read_error = error
            self._log.error("{error}", error=error)

    @property
    def login(self) -> Login:
        """The current login; raises Unauthorized without one."""
        found = self.credentials.login
        if found is None:
            reason = self._read_error or self.file.damage
            raise Unauthorized(reason or NOT_LOGGED_IN)
        if found.ended:
            raise Unauthorized(describe_end(found))
        if self._cloud_url:
            return msgspec.structs.replace(found, cloud_url=self._cloud_url)
        return found

    def client(self) -> CloudClient:
        """Return a client of the cloud; raises Unauthorized without a login."""
        return self._client_factory(self.login.cloud_url)

    def credentials_version(self) -> int:
        """Return a number that changes with the credentials."""
        return self.file.version()

    def discard_tokens(self) -> None:
        """Forget the access tokens: the cloud rejected one, or they may have expired."""
        self._tokens.clear()

    async def access_token(self, scope: str = "") -> str:
        """Return an access token that is still valid; raises Unauthorized once the session ended.

        With a `scope`, the token has only that one.
        """
        if token := self._known_token(scope, RENEW_BEFORE_EXPIRY):
            return token
        login_id, refusal, until = self._refusal
        if login_id == self.login.id and self._now < until:
            raise Unauthorized(refusal)
        try:
            return await self._renew(scope)
        except Unauthorized:
            raise
        except CtllmError:
            # The cloud or the provider may be reachable again in time.
            if token := self._known_token(scope, LAST_USE_BEFORE_EXPIRY):
                return token
            raise

    def _known_token(self, scope: str, margin: float) -> str:
        """Return a token that is valid for `margin` seconds, or an empty string."""
        known, login = self._tokens.get(scope), self.login
        is_usable = known is not None and known.is_usable(login, self._now, margin)
        return known.access_token if known is not None and is_usable else ""

    @property
    def _now(self) -> float:
        return self._clock.seconds()

    async def _renew(self, scope: str) -> str:
        login, secrets = await self.logins.load()
        if login.provider is not None and self.renewal.is_due(secrets):
            await self._renew_provider_token(login, secrets)
            if token := self._known_token(scope, RENEW_BEFORE_EXPIRY):
                return token  # which the cloud issued when it got the provider's
            login, secrets = await self.logins.load()
        try:
            return await self._ask_cloud(login, secrets, scope)
        except ProviderTokenRequired:
            # Its clock is ahead of this one's, or it did not get the last token.
            await self.renewal.renew(login, secrets)
        if token := self._known_token(scope, RENEW_BEFORE_EXPIRY):
            return token  # which the cloud issued when it got the provider's
        login, secrets = await self.logins.load()
        try:
            return await self._ask_cloud(login, secrets, scope)
        except ProviderTokenRequired as error:
            raise self.renewal.rejected(login, error) from error

    async def _renew_provider_token(self, login: Login, secrets: LoginSecrets) -> None:
        """Renew it before it expires; until then, a failure that may pass is none."""
        try:
            await self.renewal.renew(login, secrets)
        except Unauthorized:
            raise
        except CtllmError:
            if self.renewal.has_expired(secrets):
                raise

    async def _ask_cloud(self, login: Login, secrets: LoginSecrets, scope: str) -> str:
        """Request an access token; raises Unauthorized once the session has ended."""
        try:
            token = await self._request_token(login, secrets, "", scope)
        except ProviderTokenRequired:
            raise
        except UserDisabled as error:
            # The session goes on once the user is enabled.
            self._refusal = login.id, error.message, self._now + REFUSAL_PAUSE
            raise Unauthorized(error.message) from error
        except (Unauthorized, Forbidden) as error:
            if login.provider is None:
                raise Unauthorized(error.message) from error
            raise self.renewal.end_login(login, error) from error
        self.renewal.accepted()
        return token

    async def _request_token(
        self, login: Login, secrets: LoginSecrets, provider_token: str, scope: str = ""
    ) -> str:
        """Request an access token, and remember it."""
        client = self._client_factory(self._cloud_url or login.cloud_url)
        try:
            token = await client.refresh_access_token(secrets.refresh_token, scope, provider_token)
        except UnexplainedRefusal as error:
            if login.provider is None:
                raise
            raise BadGateway(error.message) from error  # it must not end the login
        expires_at = self._now + token.expires_in
        self._tokens[scope] = _AccessToken(login, token.access_token, expires_at)
        return token.access_token


async def log_in(logins: LoginStore, client: CloudClient, invite: str) -> Login:
    """Redeem an invite and store the login; API keys are kept if it is the same user.

    The invite is not used up if the tokens could not be stored.
    """
    async with logins.exclusive() as change:
        await change.prepare(is_attended=True)
        token = await client.redeem_invite(invite)
        login = Login(client.url, token.user.id, token.user.name, token_hex(8))
        tokens = LoginSecrets(token.refresh_token)
        try:
            await change.save(login, tokens, keep_keys_of_same_user(login))
        except CtllmError as error:
            # Nobody has the session's token. If it cannot be ended either, it expires unused.
            with suppress(CtllmError):
                await client.log_out(token.refresh_token)
            raise error
    return login


def keep_keys_of_same_user(login: Login) -> Update:
    """Return the change of the credentials for `login`: API keys of another user are dropped.

    So are those that another cloud has added: whoever runs it may know them, and two clouds with
    the same provider have the same users.
    """

    def change(known: Credentials) -> Credentials:
        if known.login is None or known.login.user_id != login.user_id:
            return replace(known, api_keys=())
        kept = tuple(key for key in known.api_keys if key.added_by in ("", login.cloud_url))
        return replace(known, api_keys=kept)

    return change
