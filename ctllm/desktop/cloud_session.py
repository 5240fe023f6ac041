"""This desktop's sign-in: short tokens, renewed before they end, as long as the sign-in lasts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from ctllm.desktop.cloud_client import CloudClient, TokenResponse
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login
from ctllm.errors import BadConfiguration, BadRequest, Unauthorized
from ctllm.reactor.interfaces import Clock

#: A token is renewed when less than this is left of it, in seconds.
RENEW_BEFORE_EXPIRY = 60.0


class CloudSession:
    """Tokens for the cloud. `client_for` makes a client for the URL that was signed in to."""

    _log = Logger()

    def __init__(
        self,
        file: CredentialFile,
        client_factory: Callable[[str], CloudClient],
        clock: Clock,
        cloud_url: str = "",
    ) -> None:
        self.file = file
        self._cloud_url = cloud_url  # another way to the same cloud than the link had
        self._client_factory = client_factory
        self._clock = clock
        self._tokens: dict[str, tuple[TokenResponse, float]] = {}  # by scope, with when each ends
        self._loaded_version = -1
        self._read_error = ""  # why the file cannot be read
        self._credentials = Credentials("")

    @property
    def credentials(self) -> Credentials:
        """What is on disk now, for `ctllm login` is another process.

        While that cannot be read, it is what was there last: no request fails for want of it.
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

    def _report_unreadable(self, why: str) -> None:
        if why != self._read_error:
            self._read_error = why
            self._log.error("{why}", why=why)

    @property
    def login(self) -> Login:
        """Where this desktop is signed in; raises Unauthenticated if nowhere."""
        found = self.credentials.login
        if found is None:
            why = self._read_error or self.file.damage
            raise Unauthorized(why or "this desktop is not signed in; run: ctllm login")
        if self._cloud_url:
            return msgspec.structs.replace(found, cloud_url=self._cloud_url)
        return found

    def client(self) -> CloudClient:
        """The cloud that this desktop is signed in to; raises Unauthenticated."""
        return self._client_factory(self.login.cloud_url)

    def credentials_version(self) -> int:
        """Changes when somebody signs in or out, or makes a key."""
        return self.file.version()

    def discard_tokens(self) -> None:
        """Get another token next time: this one may have been refused."""
        self._tokens.clear()

    async def access_token(self, scope: str = "") -> str:
        """An access token good for a while; raises Unauthenticated when the sign-in is over.

        With a `scope`, the token has no other.
        """
        login = self.login
        known, until = self._tokens.get(scope, (None, 0.0))
        if known is not None and until - self._clock.seconds() >= RENEW_BEFORE_EXPIRY:
            return known.token
        token = await self.client().refresh_access_token(login.refresh_token, scope)
        if self.login == login:  # else it is no token for the cloud that is asked next
            self._tokens[scope] = token, self._clock.seconds() + token.expires_in
        return token.token


async def log_out(file: CredentialFile, client_factory: Callable[[str], CloudClient]) -> Login:
    """End the sign-in, here whatever the cloud says; gives it. Raises BadRequest without one."""
    known = file.load()
    if known.login is None:
        raise BadRequest("this desktop is not signed in")
    try:
        await client_factory(known.login.cloud_url).log_out(known.login.refresh_token)
    finally:
        file.update(lambda now: now if now.login != known.login else Credentials(now.desktop_id))
    return known.login


async def log_in(file: CredentialFile, client: CloudClient, invite: str) -> Login:
    """Redeem an invitation and keep the sign-in; the keys that were made stay as they are."""
    token = await client.redeem_invite(invite)
    login = Login(client.url, token.user.id, token.user.name, token.refresh)

    def change(known: Credentials) -> Credentials:
        same = known.login is not None and known.login.user_id == login.user_id
        keys, managing = (known.api_keys, known.manage_keys) if same else ({}, ())
        return Credentials(known.desktop_id, login, keys, managing)

    file.update(change)
    return login
