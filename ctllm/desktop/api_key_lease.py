"""API keys: stored on the desktop, with their hashes leased to the cloud while it runs."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.auth.api_keys import generate_key, hash_key
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.credential_file import CredentialFile, Credentials
from ctllm.errors import BadRequest, CtllmError, Unauthorized
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds that a lease lasts, and between two renewals: two may fail before keys stop working.
LEASE_SECONDS = 180
RENEWAL_INTERVAL = 60.0
#: Seconds between two checks of whether keys were created or revoked.
POLL_INTERVAL = 1.0
#: Seconds after a failed renewal.
RETRY_DELAY = 2 * POLL_INTERVAL


def create_api_key(file: CredentialFile, name: str, manage: bool = False) -> str:
    """Create, store and return an API key; with `manage` it may also change models.

    Raises BadRequest if there is one of that name, or no login.
    """

    def change(known: Credentials) -> Credentials:
        if known.login is None:
            raise BadRequest("This desktop is not logged in. Run `ctllm login`.")
        if name in known.api_keys:
            raise BadRequest(f"There is already an API key called {name!r}.")
        keys = {**known.api_keys, name: generate_key(known.login.user_id)}
        managing = (*known.manage_keys, name) if manage else known.manage_keys
        return replace(known, api_keys=keys, manage_keys=managing)

    return file.update(change).api_keys[name]


def revoke_api_key(file: CredentialFile, name: str) -> None:
    """Delete the API key called `name`; raises BadRequest if there is none."""

    def change(known: Credentials) -> Credentials:
        if name not in known.api_keys:
            raise BadRequest(f"There is no API key called {name!r}.")
        keys = {other: key for other, key in known.api_keys.items() if other != name}
        managing = tuple(other for other in known.manage_keys if other != name)
        return replace(known, api_keys=keys, manage_keys=managing)

    file.update(change)


class ApiKeyLease(Service):
    """Renews the lease: at the start, when the keys change, and before it expires."""

    _log = Logger()

    def __init__(self, session: CloudSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._poller = PeriodicCall(self._poll, clock, "leasing the API keys")
        self._leased: Credentials | None = None
        self._attempted: Credentials | None = None
        self._renew_at = 0.0

    def startService(self) -> None:
        """Start to renew."""
        super().startService()
        self._poller.start(POLL_INTERVAL)

    def stopService(self) -> None:
        """Stop renewing; the lease expires by itself."""
        super().stopService()
        self._poller.stop()

    @property
    def is_current(self) -> bool:
        """Whether the cloud has a lease of the current keys."""
        return self._leased is not None and self._leased == self._session.credentials

    def renew_now(self) -> None:
        """Renew at the next poll: after a reconnect the cloud may have restarted without leases."""
        self._renew_at = 0.0

    async def _poll(self) -> None:
        try:
            credentials = self._session.credentials
        except CtllmError:
            return  # the bridge reports the error
        if credentials.login is None:
            return
        if credentials != self._attempted or self._clock.seconds() >= self._renew_at:
            await self._renew(credentials)

    async def _renew(self, credentials: Credentials) -> None:
        hashes = sorted(hash_key(key) for key in credentials.api_keys.values())
        manage = sorted(
            hash_key(key)
            for name, key in credentials.api_keys.items()
            if name in credentials.manage_keys
        )
        self._attempted = credentials
        self._renew_at = self._clock.seconds() + RETRY_DELAY
        try:
            token = await self._session.access_token()
            await self._session.client().lease_keys(
                token, credentials.desktop_id, hashes, LEASE_SECONDS, manage
            )
        except Unauthorized:
            self._renew_at = (
                self._clock.seconds() + RENEWAL_INTERVAL
            )  # the bridge reports the error
        except CtllmError as error:
            self._log.info("Cannot lease API keys to the cloud: {error}", error=error.message)
        else:
            self._leased = credentials
            self._renew_at = self._clock.seconds() + RENEWAL_INTERVAL
