"""Keeps the tokens of the login where they belong while the desktop runs."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.desktop.login_store import LoginStore
from ctllm.errors import CtllmError, Unauthorized
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds between two looks at the credentials file.
POLL_INTERVAL = 10.0
#: Seconds after which a better store is tried again, though nothing changed.
RETRY_INTERVAL = 300.0


class LoginMaintenance(Service):
    """Asks once, at the start, to unlock the tokens; later moves them to the best store.

    The start does not wait for that: until somebody answers, the desktop is not connected.
    """

    _log = Logger()

    def __init__(
        self,
        logins: LoginStore,
        clock: Clock,
        *,
        poll_interval: float = POLL_INTERVAL,
        retry_interval: float = RETRY_INTERVAL,
    ) -> None:
        self._logins = logins
        self._clock = clock
        self._poll_interval = poll_interval
        self._retry_interval = retry_interval
        self._poller = PeriodicCall(self._settle_if_due, clock, "choosing the store of the tokens")
        self._unlocking: Deferred[None] | None = None
        self._settled_version = -1
        self._retry_at = 0.0

    def startService(self) -> None:
        """Unlock the tokens, then start to look."""
        super().startService()
        self._unlocking = Deferred.fromCoroutine(self._unlock())
        self._unlocking.addErrback(self._failed)

    def stopService(self) -> None:
        """Stop, and end a dialog that is open."""
        super().stopService()
        self._poller.stop()
        if self._unlocking is not None:
            self._unlocking.cancel()

    async def _unlock(self) -> None:
        try:
            await self._logins.load(may_prompt=True)
        except Unauthorized:
            pass  # the bridge reports it
        except CtllmError as error:
            self._log.warn("Cannot read this desktop's tokens: {error}", error=error.message)
        self._poller.start(self._poll_interval)

    def _failed(self, reason: Failure) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("Reading this desktop's tokens failed", reason)

    async def _settle_if_due(self) -> None:
        version, now = self._logins.file.version(), self._clock.seconds()
        if version == self._settled_version and now < self._retry_at:
            return
        self._retry_at = now + self._retry_interval
        try:
            await self._logins.settle()
        finally:
            self._settled_version = self._logins.file.version()
