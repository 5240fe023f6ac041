"""This desktop's sign-in: short tokens, renewed before they end, as long as the sign-in lasts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from ctllm.desktop.cloud_client import CloudClient, Token
from ctllm.desktop.credential_file import CredentialFile, Credentials, SignIn
from ctllm.errors import BadConfiguration, BadRequest, Unauthorized
from ctllm.reactor.interfaces import Clock

#: A token is renewed when less than this is left of it, in seconds.
EARLY = 60.0


class Session:
    """Tokens for the cloud. `client_for` makes a client for the URL that was signed in to."""

    _log = Logger()

    def __init__(
        self,
        file: CredentialFile,
        client_for: Callable[[str], CloudClient],
        clock: Clock,
        cloud_url: str = "",
    ) -> None:
        self.file = file
        self._cloud_url = cloud_url  # another way to the same cloud than the link had
        self._client_for = client_for
        self._clock = clock
        self._tokens: dict[str, tuple[Token, float]] = {}  # by scope, with when each ends
        self._version = -1
        self._trouble = ""  # why the file cannot be read
        self._credentials = Credentials("")

    @property
    def credentials(self) -> Credentials:
        """What is on disk now, for `ctllm login` is another process.

        While that cannot be read, it is what was there last: no request fails for want of it.
        """
        version = self.file.version()
        if version != self._version or not version:
            try:
                self._credentials = self.file.load()
            except BadConfiguration as error:
                self._cannot_read(error.message)
            else:
                self._version, self._trouble = version, ""
                self._tokens.clear()
        return self._credentials

    def _cannot_read(self, why: str) -> None:
        if why != self._trouble:
            self._trouble = why
            self._log.error("{why}", why=why)

    @property
    def sign_in(self) -> SignIn:
        """Where this desktop is signed in; raises Unauthenticated if nowhere."""
        found = self.credentials.sign_in
        if found is None:
            why = self._trouble or self.file.damage
            raise Unauthorized(why or "this desktop is not signed in; run: ctllm login")
        if self._cloud_url:
            return msgspec.structs.replace(found, cloud_url=self._cloud_url)
        return found

    def client(self) -> CloudClient:
        """The cloud that this desktop is signed in to; raises Unauthenticated."""
        return self._client_for(self.sign_in.cloud_url)

    def version(self) -> int:
        """Changes when somebody signs in or out, or makes a key."""
        return self.file.version()

    def distrust(self) -> None:
        """Get another token next time: this one may have been refused."""
        self._tokens.clear()

    async def token(self, scope: str = "") -> str:
        """An access token good for a while; raises Unauthenticated when the sign-in is over.

        With a `scope`, the token has no other.
        """
        sign_in = self.sign_in
        known, until = self._tokens.get(scope, (None, 0.0))
        if known is not None and until - self._clock.seconds() >= EARLY:
            return known.token
        token = await self.client().renew(sign_in.refresh, scope)
        if self.sign_in == sign_in:  # else it is no token for the cloud that is asked next
            self._tokens[scope] = token, self._clock.seconds() + token.expires_in
        return token.token


async def log_out(file: CredentialFile, client_for: Callable[[str], CloudClient]) -> SignIn:
    """End the sign-in, here whatever the cloud says; gives it. Raises BadRequest without one."""
    known = file.load()
    if known.sign_in is None:
        raise BadRequest("this desktop is not signed in")
    try:
        await client_for(known.sign_in.cloud_url).sign_out(known.sign_in.refresh)
    finally:
        file.update(
            lambda now: now if now.sign_in != known.sign_in else Credentials(now.desktop_id)
        )
    return known.sign_in


async def log_in(file: CredentialFile, client: CloudClient, invite: str) -> SignIn:
    """Redeem an invitation and keep the sign-in; the keys that were made stay as they are."""
    token = await client.redeem(invite)
    sign_in = SignIn(client.url, token.user.id, token.user.name, token.refresh)

    def change(known: Credentials) -> Credentials:
        same = known.sign_in is not None and known.sign_in.user_id == sign_in.user_id
        keys, managing = (known.keys, known.managing) if same else ({}, ())
        return Credentials(known.desktop_id, sign_in, keys, managing)

    file.update(change)
    return sign_in
