"""Renews what the provider of a login confirms: its token is refreshed, and given to the cloud.

A provider ends a login whose refresh token is used twice (RFC 9700, section 4.14.2). So the
processes of a desktop take turns, and the next refresh token is stored before anything else is done
with the response. If the process is killed in between, which takes milliseconds, or if the response
is lost, the provider may have consumed a refresh token whose successor nobody knows. No protocol
rules that out. Then the next renewal is refused, and the user logs in again: there is no loop.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self, cast

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.credential_file import Credentials, Login, LoginProvider, describe_end
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import LoginChange, LoginStore
from ctllm.desktop.oauth.tokens import (
    GrantRefused,
    OAuthClientId,
    parse_refresh_token,
    parse_tokens,
    refresh_request,
)
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.errors import (
    BadGateway,
    CtllmError,
    Forbidden,
    ProviderTokenRequired,
    Unauthorized,
    UserDisabled,
)
from ctllm.reactor.deferred_tools import Waiters
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service

#: Seconds before its expiry at which a provider token is renewed: some failures can pass until
#: then.
RENEW_BEFORE_EXPIRY = 120.0
#: Seconds until the next attempt after a failure; they double, up to a limit.
FIRST_RETRY_DELAY = 5.0
MAX_RETRY_DELAY = 300.0
#: How often in a row the cloud may reject fresh tokens of the provider before the login ends.
MAX_REJECTIONS = 5
#: Seconds to wait at the end of the process for a renewal that the provider is answering.
STOP_TIMEOUT = 10.0
#: The most characters of the reason for the end of a login.
MAX_REASON_LENGTH = 500

_NOT_RENEWABLE = (
    "The provider gave this desktop no refresh token, so the login ended with its first token. The "
    "cloud's sysadmin must add offline_access to the provider's scope."
)

#: Gives a provider token to the cloud, or asks it without one; raises what the cloud answers.
AskCloud = Callable[[Login, LoginSecrets, str], Awaitable[object]]


@dataclass(frozen=True)
class _Renewed:
    """The tokens of a renewal. `error` is what is wrong with all but the refresh token."""

    replaced: LoginSecrets
    secrets: LoginSecrets
    token: str = field(repr=False)
    error: BadGateway | None = None

    @classmethod
    def parse(
        cls, provider: LoginProvider, known: LoginSecrets, status: int, body: bytes, now: float
    ) -> Self:
        """Read a response of the token endpoint; raises GrantRefused and BadGateway."""
        try:
            tokens = parse_tokens(status, body, provider.token, now)
        except BadGateway as error:
            successor = parse_refresh_token(status, body)
            if not successor:
                raise
            return cls(known, replace(known, provider_refresh_token=successor), "", error)
        # RFC 6749, section 6: without a new refresh token, the old one goes on.
        successor = tokens.refresh_token or known.provider_refresh_token
        expires_at = tokens.expires_at
        secrets = replace(known, provider_refresh_token=successor, provider_expires_at=expires_at)
        return cls(known, secrets, tokens.token)


class ProviderRenewal(Service):
    """Renews the provider token of the login in `logins`, once for all who wait for it.

    `ask_cloud` requests an access token of the cloud. `wall_clock` returns epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        logins: LoginStore,
        oauth: OAuthClient,
        ask_cloud: AskCloud,
        clock: Clock,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._logins = logins
        self._oauth = oauth
        self._ask_cloud = ask_cloud
        self._clock = clock
        self._wall_clock = wall_clock
        self._running: Deferred[None] | None = None
        self._waiters: Waiters[None] = Waiters()
        self._unsaved: _Renewed | None = None
        self._is_consuming = False  # a refresh token is sent, and its successor not yet stored
        self._failures = self._rejections = 0
        self._retry_at = 0.0
        self._last_error, self._was_refused = "", False
        self._login_id = ""  # to which the failures belong

    def is_due(self, secrets: LoginSecrets) -> bool:
        """Return whether the provider token has expired, or is about to."""
        return self._wall_clock() >= secrets.provider_expires_at - RENEW_BEFORE_EXPIRY

    def has_expired(self, secrets: LoginSecrets) -> bool:
        """Return whether the provider token has expired."""
        return self._wall_clock() >= secrets.provider_expires_at

    async def renew(self, login: Login, secrets: LoginSecrets) -> None:
        """Renew the token of `login`, unless somebody did since `secrets` were read.

        Raises Unauthorized once the login has ended, and another CtllmError while that is not
        known; then the next attempt is made after a delay. A caller that is cancelled does not
        cancel the renewal.
        """
        if self._login_id != login.id:
            self._login_id, self._rejections = login.id, 0
            self._succeeded()
        if self._last_error and self._clock.seconds() < self._retry_at:
            raise (Unauthorized if self._was_refused else BadGateway)(self._last_error)
        waiting = self._waiters.wait()
        if self._running is None:
            self._running = Deferred.fromCoroutine(self._renew(login, secrets))
            self._running.addBoth(self._finished)
        await waiting

    def accepted(self) -> None:
        """The cloud issued a token: it accepts what the provider confirmed last."""
        self._rejections = 0

    def rejected(self, login: Login, error: CtllmError) -> CtllmError:
        """Return the error to raise when the cloud forgot the token that it has just accepted.

        The next renewal is made after a delay, as after a failure.
        """
        reason = self._count_rejection(login, error)
        self._failed(reason)
        return reason

    def stopService(self) -> Deferred[None] | None:
        """Stop: a refresh token that is being consumed is waited for, for some seconds."""
        super().stopService()
        running = self._running
        if running is None:
            return None
        if not self._is_consuming:
            running.cancel()
            return None
        stopping = self._waiters.wait()
        stopping.addTimeout(STOP_TIMEOUT, cast(IReactorTime, self._clock))
        return stopping.addErrback(lambda _: None)

    def end_login(self, login: Login, error: CtllmError) -> Unauthorized:
        """Store that `login` has ended, and why; return the error to raise.

        From then on nothing is sent to the provider or the cloud, by no process.
        """
        reason = sanitize_line(error.message, MAX_REASON_LENGTH)

        def change(known: Credentials) -> Credentials:
            if known.login is None or known.login.id != login.id:
                return known
            return replace(known, login=replace(known.login, ended=reason))

        self._logins.file.update(change)
        self._log.info("The login has ended: {reason}", reason=reason)
        return Unauthorized(describe_end(replace(login, ended=reason)))

    # -- one renewal

    async def _renew(self, login: Login, secrets: LoginSecrets) -> None:
        async with self._logins.exclusive() as change:
            stored, known = await self._logins.load()
            provider = stored.provider
            if stored.id != login.id or known != secrets or provider is None or stored.ended:
                return  # somebody renewed it, or logged in or out meanwhile
            if not known.provider_refresh_token:
                raise self.end_login(stored, Unauthorized(_NOT_RENEWABLE))
            self._is_consuming = True
            try:
                renewed = await self._refresh(change, stored, provider, known)
            except GrantRefused as refused:
                raise self.end_login(stored, refused) from refused
            finally:
                self._is_consuming = False
            if renewed.error is not None:
                raise renewed.error
            await self._present(stored, renewed.secrets, renewed.token)

    async def _refresh(
        self, change: LoginChange, login: Login, provider: LoginProvider, known: LoginSecrets
    ) -> _Renewed:
        """Use the refresh token, which the provider does not accept again; store the next one.

        If it cannot be stored, the next attempt stores the same one.
        """
        if self._unsaved is None or self._unsaved.replaced != known:
            await change.prepare()
            request = refresh_request(
                oauth_client_id(provider), provider.token_endpoint, known.provider_refresh_token
            )
            status, body = await self._oauth.post(request)
            now = self._wall_clock()
            self._unsaved = _Renewed.parse(provider, known, status, body, now)
        renewed = self._unsaved
        await change.save(login, renewed.secrets)
        self._unsaved = None
        return renewed

    async def _present(self, login: Login, secrets: LoginSecrets, token: str) -> None:
        """Give the token to the cloud while other processes wait, which need not do so then."""
        try:
            await self._ask_cloud(login, secrets, token)
        except ProviderTokenRequired as error:
            raise self._count_rejection(login, error) from error
        except UserDisabled as error:
            raise Unauthorized(error.message) from error  # the session goes on once it is enabled
        except Forbidden as error:
            raise self.end_login(login, error) from error
        except Unauthorized as error:
            # Either the session has ended, or the cloud cannot verify this token: not yet, perhaps.
            if await self._is_session_active(login, secrets):
                raise self._count_rejection(login, error) from error
            raise self.end_login(login, error) from error

    async def _is_session_active(self, login: Login, secrets: LoginSecrets) -> bool:
        try:
            await self._ask_cloud(login, secrets, "")
        except ProviderTokenRequired:
            return True
        except Unauthorized:
            return False
        return True

    def _count_rejection(self, login: Login, error: CtllmError) -> CtllmError:
        """Return the error to raise for a fresh token that the cloud does not accept.

        The cloud may be unable to verify it for a while, so only the last one ends the login.
        """
        self._rejections += 1
        if self._rejections >= MAX_REJECTIONS:
            return self.end_login(login, error)
        return BadGateway(f"The cloud did not accept the provider's token: {error.message}")

    # -- its end

    def _finished(self, result: Failure | None) -> None:
        self._running = None
        if not isinstance(result, Failure):
            self._succeeded()
            self._waiters.succeed(None)
            return
        error = result.value
        if isinstance(error, CancelledError):
            error = BadGateway("The renewal of the login was cancelled.")
        elif not isinstance(error, CtllmError):
            self._log.failure("Renewing the login failed with an internal error", result)
            error = CtllmError(f"Internal error: {error}")
        self._failed(error)
        self._waiters.fail(error)

    def _succeeded(self) -> None:
        self._failures = 0
        self._last_error, self._was_refused = "", False

    def _failed(self, error: CtllmError) -> None:
        delay = min(FIRST_RETRY_DELAY * 2 ** min(self._failures, 10), MAX_RETRY_DELAY)
        self._failures += 1
        self._last_error, self._was_refused = error.message, isinstance(error, Unauthorized)
        self._retry_at = self._clock.seconds() + delay


def oauth_client_id(provider: LoginProvider) -> OAuthClientId:
    """Return how this desktop names itself to the provider of its login."""
    return OAuthClientId(provider.client_id, provider.client_secret, provider.uses_post)
