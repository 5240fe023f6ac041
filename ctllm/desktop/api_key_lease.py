"""API keys for programs: kept on the desktop, their hashes leased to the cloud while it runs."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.logger import Logger

from ctllm.auth.api_keys import key_hash, new_key
from ctllm.desktop.cloud_session import Session
from ctllm.desktop.credential_file import CredentialFile, Credentials
from ctllm.errors import BadRequest, CtllmError, Unauthorized
from ctllm.reactor.periodic import PeriodicCall

#: Seconds that a lease lasts, and between renewals: two may fail before keys stop working.
LEASE = 180
RENEWAL = 60.0
#: Seconds between looks at whether keys were made or revoked.
LOOK = 1.0
#: Seconds until the next attempt after one that failed.
AGAIN = 2 * LOOK


def make_key(file: CredentialFile, name: str, manage: bool = False) -> str:
    """Make (and keep) a key called `name`; BadRequest if there is one, or no sign-in.

    It may use models; with `manage` it may change them too.
    """

    def change(known: Credentials) -> Credentials:
        if known.sign_in is None:
            raise BadRequest("sign in first, with: ctllm login")
        if name in known.keys:
            raise BadRequest(f"there is a key called {name!r} already")
        keys = {**known.keys, name: new_key(known.sign_in.user_id)}
        managing = (*known.managing, name) if manage else known.managing
        return replace(known, keys=keys, managing=managing)

    return file.update(change).keys[name]


def revoke_key(file: CredentialFile, name: str) -> None:
    """Forget the key called `name`; raises BadRequest if there is none."""

    def change(known: Credentials) -> Credentials:
        if name not in known.keys:
            raise BadRequest(f"there is no key called {name!r}")
        keys = {other: key for other, key in known.keys.items() if other != name}
        managing = tuple(other for other in known.managing if other != name)
        return replace(known, keys=keys, managing=managing)

    file.update(change)


class KeyLease(Service):
    """Tells the cloud which keys count: at start, when they change, and before the lease ends."""

    _log = Logger()

    def __init__(self, session: Session, reactor: Any) -> None:
        self._session = session
        self._reactor = reactor
        self._loop = PeriodicCall(self._look, reactor, "telling the cloud which keys count")
        self._told: Credentials | None = None
        self._tried: Credentials | None = None
        self._due = 0.0

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop.start(LOOK)

    def stopService(self) -> None:
        """The lease runs out by itself."""
        super().stopService()
        self._loop.stop()

    @property
    def told(self) -> bool:
        """Whether the cloud knows the keys that there are."""
        return self._told is not None and self._told == self._session.credentials

    def again(self) -> None:
        """The connection is new, and the cloud may be: it may know no keys."""
        self._due = 0.0

    async def _look(self) -> None:
        try:
            credentials = self._session.credentials
        except CtllmError:
            return  # the bridge says so
        if credentials.sign_in is None:
            return
        if credentials != self._tried or self._reactor.seconds() >= self._due:
            await self._tell(credentials)

    async def _tell(self, credentials: Credentials) -> None:
        hashes = sorted(key_hash(key) for key in credentials.keys.values())
        manage = sorted(
            key_hash(key) for name, key in credentials.keys.items() if name in credentials.managing
        )
        self._tried = credentials
        self._due = self._reactor.seconds() + AGAIN
        try:
            token = await self._session.token()
            await self._session.client().lease_keys(
                token, credentials.desktop_id, hashes, LEASE, manage
            )
        except Unauthorized:
            self._due = self._reactor.seconds() + RENEWAL  # the bridge says so
        except CtllmError as error:
            self._log.info("keys could not be told to the cloud: {error}", error=error.message)
        else:
            self._told = credentials
            self._due = self._reactor.seconds() + RENEWAL
