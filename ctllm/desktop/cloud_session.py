"""The desktop's session with its cloud: access tokens, refreshed before they expire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.desktop.cloud_client import CloudClient
from ctllm.desktop.credential_file import Credentials, Login, Update
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import LoginStore
from ctllm.errors import BadConfiguration, BadRequest, Unauthorized
from ctllm.reactor.interfaces import Clock

#: Seconds before its expiry at which an access token is refreshed.
RENEW_BEFORE_EXPIRY = 60.0


@dataclass(frozen=True)
class _AccessToken:
    """An access token of `login`. `expires_at` is a time of the session's clock."""

    login: Login
    access_token: str = field(repr=False)
    expires_at: float

    def is_usable(self, login: Login, now: float) -> bool:
        """Whether it belongs to `login` and is not about to expire."""
        return self.login.id == login.id and self.expires_at - now >= RENEW_BEFORE_EXPIRY


class CloudSession:
    """Access tokens for the cloud that this desktop is logged in to.

    `client_factory` returns a client of a cloud's URL. `cloud_url` replaces the URL of the login,
    for a cloud that is reached at another one.
    """

    _log = Logger()

    def __init__(
        self,
        logins: LoginStore,
        client_factory: Callable[[str], CloudClient],
        clock: Clock,
        cloud_url: str = "",
    ) -> None:
        self.logins = logins
        self.file = logins.file
        self._cloud_url = cloud_url
        self._client_factory = client_factory
        self._clock = clock
        self._tokens: dict[str, _AccessToken] = {}  # by scope
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
            raise Unauthorized(reason or "This desktop is not logged in. Run `ctllm login`.")
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
        login = self.login
        known = self._tokens.get(scope)
        if known is not None and known.is_usable(login, self._clock.seconds()):
            return known.access_token
        stored, secrets = await self.logins.load()
        client = self._client_factory(self._cloud_url or stored.cloud_url)
        token = await client.refresh_access_token(secrets.refresh_token, scope)
        expires_at = self._clock.seconds() + token.expires_in
        self._tokens[scope] = _AccessToken(stored, token.access_token, expires_at)
        return token.access_token


async def log_out(logins: LoginStore, client_factory: Callable[[str], CloudClient]) -> Login:
    """End the session and forget the login, which is returned; raises BadRequest without one.

    The login is forgotten even if the cloud cannot be reached, or its tokens cannot be read.
    """
    login = logins.file.load().login
    if login is None:
        raise BadRequest("This desktop is not logged in.")
    try:
        stored, secrets = await logins.load(may_prompt=True)
        if stored == login:
            await client_factory(login.cloud_url).log_out(secrets.refresh_token)
    finally:
        async with logins.exclusive() as change:
            await change.forget(login)
    return login


async def log_in(logins: LoginStore, client: CloudClient, invite: str) -> Login:
    """Redeem an invite and store the login; API keys are kept if it is the same user.

    The invite is not used up if the tokens could not be stored.
    """
    async with logins.exclusive() as change:
        await change.prepare()
        token = await client.redeem_invite(invite)
        login = Login(client.url, token.user.id, token.user.name, token_hex(8))
        await change.save(login, LoginSecrets(token.refresh_token), keep_keys_of_same_user(login))
    return login


def keep_keys_of_same_user(login: Login) -> Update:
    """Return the change of the credentials for `login`: API keys of another user are dropped."""

    def change(known: Credentials) -> Credentials:
        if known.login is not None and known.login.user_id == login.user_id:
            return known
        return replace(known, api_keys=())

    return change
