"""API keys for programs: kept on the desktop, their hashes leased to the cloud while it runs."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.auth.api_keys import generate_key, hash_key
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.credential_file import CredentialFile, Credentials
from ctllm.errors import BadRequest, CtllmError, Unauthorized
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds that a lease lasts, and between renewals: two may fail before keys stop working.
LEASE_SECONDS = 180
RENEWAL_INTERVAL = 60.0
#: Seconds between looks at whether keys were made or revoked.
POLL_INTERVAL = 1.0
#: Seconds until the next attempt after one that failed.
RETRY_DELAY = 2 * POLL_INTERVAL


def create_api_key(file: CredentialFile, name: str, manage: bool = False) -> str:
    """Make (and keep) a key called `name`; BadRequest if there is one, or no sign-in.

    It may use models; with `manage` it may change them too.
    """

    def change(known: Credentials) -> Credentials:
        if known.login is None:
            raise BadRequest("sign in first, with: ctllm login")
        if name in known.api_keys:
            raise BadRequest(f"there is a key called {name!r} already")
        keys = {**known.api_keys, name: generate_key(known.login.user_id)}
        managing = (*known.manage_keys, name) if manage else known.manage_keys
        return replace(known, api_keys=keys, manage_keys=managing)

    return file.update(change).api_keys[name]


def revoke_api_key(file: CredentialFile, name: str) -> None:
    """Forget the key called `name`; raises BadRequest if there is none."""

    def change(known: Credentials) -> Credentials:
        if name not in known.api_keys:
            raise BadRequest(f"there is no key called {name!r}")
        keys = {other: key for other, key in known.api_keys.items() if other != name}
        managing = tuple(other for other in known.manage_keys if other != name)
        return replace(known, api_keys=keys, manage_keys=managing)

    file.update(change)


class ApiKeyLease(Service):
    """Tells the cloud which keys count: at start, when they change, and before the lease ends."""

    _log = Logger()

    def __init__(self, session: CloudSession, reactor: Any) -> None:
        self._session = session
        self._reactor = reactor
        self._poller = PeriodicCall(self._poll, reactor, "telling the cloud which keys count")
        self._leased: Credentials | None = None
        self._attempted: Credentials | None = None
        self._renew_at = 0.0

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._poller.start(POLL_INTERVAL)

    def stopService(self) -> None:
        """The lease runs out by itself."""
        super().stopService()
        self._poller.stop()

    @property
    def is_current(self) -> bool:
        """Whether the cloud knows the keys that there are."""
        return self._leased is not None and self._leased == self._session.credentials

    def renew_now(self) -> None:
        """The connection is new, and the cloud may be: it may know no keys."""
        self._renew_at = 0.0

    async def _poll(self) -> None:
        try:
            credentials = self._session.credentials
        except CtllmError:
            return  # the bridge says so
        if credentials.login is None:
            return
        if credentials != self._attempted or self._reactor.seconds() >= self._renew_at:
            await self._renew(credentials)

    async def _renew(self, credentials: Credentials) -> None:
        hashes = sorted(hash_key(key) for key in credentials.api_keys.values())
        manage = sorted(
            hash_key(key)
            for name, key in credentials.api_keys.items()
            if name in credentials.manage_keys
        )
        self._attempted = credentials
        self._renew_at = self._reactor.seconds() + RETRY_DELAY
        try:
            token = await self._session.access_token()
            await self._session.client().lease_keys(
                token, credentials.desktop_id, hashes, LEASE_SECONDS, manage
            )
        except Unauthorized:
            self._renew_at = self._reactor.seconds() + RENEWAL_INTERVAL  # the bridge says so
        except CtllmError as error:
            self._log.info("keys could not be told to the cloud: {error}", error=error.message)
        else:
            self._leased = credentials
            self._renew_at = self._reactor.seconds() + RENEWAL_INTERVAL
