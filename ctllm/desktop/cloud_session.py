"""The desktop's session with its cloud: access tokens, refreshed before they expire."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from ctllm.desktop.cloud_client import CloudClient, TokenResponse
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login
from ctllm.errors import BadConfiguration, BadRequest, Unauthorized
from ctllm.reactor.interfaces import Clock

#: Seconds before its expiry at which an access token is refreshed.
RENEW_BEFORE_EXPIRY = 60.0


class CloudSession:
    """Access tokens for the cloud that this desktop is logged in to.

    `client_factory` returns a client of a cloud's URL. `cloud_url` replaces the URL of the login,
    for a cloud that is reached at another one.
    """

    _log = Logger()

    def __init__(
        self,
        file: CredentialFile,
        client_factory: Callable[[str], CloudClient],
        clock: Clock,
        cloud_url: str = "",
    ) -> None:
        self.file = file
        self._cloud_url = cloud_url
        self._client_factory = client_factory
        self._clock = clock
        self._tokens: dict[
            str, tuple[TokenResponse, float]
        ] = {}  # by scope, with the time of expiry
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
                self._tokens.clear()
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
        known, until = self._tokens.get(scope, (None, 0.0))
        if known is not None and until - self._clock.seconds() >= RENEW_BEFORE_EXPIRY:
            return known.access_token
        token = await self.client().refresh_access_token(login.refresh_token, scope)
        if self.login == login:  # else it belongs to an earlier login
            self._tokens[scope] = token, self._clock.seconds() + token.expires_in
        return token.access_token


async def log_out(file: CredentialFile, client_factory: Callable[[str], CloudClient]) -> Login:
    """End the session and forget the login, which is returned; raises BadRequest without one.

    The login is forgotten even if the cloud cannot be reached.
    """
    known = file.load()
    if known.login is None:
        raise BadRequest("This desktop is not logged in.")
    try:
        await client_factory(known.login.cloud_url).log_out(known.login.refresh_token)
    finally:
        file.update(lambda now: now if now.login != known.login else Credentials(now.desktop_id))
    return known.login


async def log_in(file: CredentialFile, client: CloudClient, invite: str) -> Login:
    """Redeem an invite and store the login; API keys are kept if it is the same user."""
    token = await client.redeem_invite(invite)
    login = Login(client.url, token.user.id, token.user.name, token.refresh_token)

    def change(known: Credentials) -> Credentials:
        same = known.login is not None and known.login.user_id == login.user_id
        return Credentials(known.desktop_id, login, known.api_keys if same else ())

    file.update(change)
    return login
