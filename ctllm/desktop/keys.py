"""API keys for programs: kept on the desktop, their hashes leased to the cloud while it runs."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ctllm.desktop.credentials import CredentialFile, Credentials
from ctllm.desktop.session import Session
from ctllm.errors import BadRequest, CtllmError, Unauthenticated
from ctllm.wire.keys import key_hash, new_key

#: Seconds that a lease lasts, and between renewals: two may fail before keys stop working.
LEASE = 180
RENEWAL = 60.0
#: Seconds between looks at whether keys were made or revoked.
LOOK = 1.0


def make_key(file: CredentialFile, name: str, manage: bool = False) -> str:
    """Make (and keep) a key called `name`; BadRequest if there is one, or no sign-in.

    It may use models; with `manage` it may change them too.
    """
    known = file.load()
    if known.sign_in is None:
        raise BadRequest("sign in first, with: ctllm login LINK")
    if name in known.keys:
        raise BadRequest(f"there is a key called {name!r} already")
    key = new_key(known.sign_in.user_id)
    managing = (*known.managing, name) if manage else known.managing
    keys = {**known.keys, name: key}
    file.save(Credentials(known.desktop_id, known.sign_in, keys, managing))
    return key


def revoke_key(file: CredentialFile, name: str) -> None:
    """Forget the key called `name`; raises BadRequest if there is none."""
    known = file.load()
    if name not in known.keys:
        raise BadRequest(f"there is no key called {name!r}")
    kept = {other: key for other, key in known.keys.items() if other != name}
    managing = tuple(other for other in known.managing if other != name)
    file.save(Credentials(known.desktop_id, known.sign_in, kept, managing))


class KeyLease(Service):
    """Tells the cloud which keys count: at start, when they change, and before the lease ends."""

    _log = Logger()

    def __init__(self, session: Session, reactor: Any) -> None:
        self._session = session
        self._reactor = reactor
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._told: Credentials | None = None
        self._tried: Credentials | None = None
        self._due = 0.0
        self._telling: Deferred[Any] | None = None

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop.start(LOOK).addErrback(
            lambda reason: self._log.failure("keys are not told any more", reason)
        )

    def stopService(self) -> None:
        """The lease runs out by itself."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._telling is not None:
            self._telling.cancel()

    @property
    def told(self) -> bool:
        """Whether the cloud knows the keys that there are."""
        return self._told is not None and self._told == self._session.credentials

    def again(self) -> None:
        """The connection is new, and the cloud may be: it may know no keys."""
        self._due = 0.0

    def _look(self) -> Deferred[Any] | None:
        try:
            credentials = self._session.credentials
        except CtllmError:
            return None  # the bridge says so
        if credentials.sign_in is None:
            return None
        if credentials == self._tried and self._reactor.seconds() < self._due:
            return None
        telling = self._telling = Deferred.fromCoroutine(self._tell(credentials))
        return telling.addErrback(lambda reason: reason.trap(CancelledError) and None)

    async def _tell(self, credentials: Credentials) -> None:
        hashes = sorted(key_hash(key) for key in credentials.keys.values())
        manage = sorted(
            key_hash(key) for name, key in credentials.keys.items() if name in credentials.managing
        )
        self._tried = credentials
        self._due = self._reactor.seconds() + RENEWAL
        try:
            token = await self._session.token()
            await self._session.client().lease_keys(
                token, credentials.desktop_id, hashes, LEASE, manage
            )
            self._told = credentials
        except Unauthenticated:
            return  # the bridge says so
        except CtllmError as error:
            self._due = self._reactor.seconds() + 2 * LOOK
            self._log.info("keys could not be told to the cloud: {error}", error=error.message)
