"""Leases the records of this desktop's API keys to the cloud while it runs.

The response to each lease has the keys that were created and revoked on the page (`RemoteKeys`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.auth.api_keys import KeyChanges, KeyRecord, KeyReport
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.credential_file import Credentials, Login
from ctllm.desktop.key_usage import KeyUsage
from ctllm.desktop.remote_keys import RemoteKeys
from ctllm.errors import BadRequest, CtllmError, Unauthorized
from ctllm.reactor.deferred_tools import Waiters, run_with_timeout
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds that a lease lasts, and between two renewals: two may fail before keys stop working.
LEASE_SECONDS = 75
RENEWAL_INTERVAL = 25.0
#: The same of a desktop without keys, which only waits for those that the page creates.
IDLE_LEASE_SECONDS = 180
IDLE_RENEWAL_INTERVAL = 60.0
#: Seconds between two checks of whether keys were created or revoked.
POLL_INTERVAL = 1.0
#: Seconds after a failed renewal.
RETRY_DELAY = 2 * POLL_INTERVAL
#: Seconds in which the lease is withdrawn when the desktop stops. After them it is left to expire.
WITHDRAWAL_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class _Announcement:
    """What the cloud is told: for which login, and which keys."""

    desktop_id: str
    login: Login
    keys: tuple[KeyRecord, ...]


class ApiKeyLease(Service):
    """Renews the lease: at the start, when the keys change, and before it expires.

    A desktop without keys announces that more rarely; without `remote_keys`, or in a cloud of an
    earlier version, once. `now` returns epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        session: CloudSession,
        clock: Clock,
        usage: KeyUsage,
        now: Callable[[], float] = time.time,
        remote_keys: RemoteKeys | None = None,
    ) -> None:
        self._remote_keys = remote_keys
        self._has_older_cloud = False
        self._session = session
        self._clock = clock
        self._usage = usage
        self._now = now
        self._poller = PeriodicCall(self._poll, clock, "leasing the API keys")
        self._leased: _Announcement | None = None
        self._attempted: _Announcement | None = None
        self._renew_at = 0.0
        self._leases: Waiters[None] = Waiters()

    def startService(self) -> None:
        """Start to renew."""
        super().startService()
        self._poller.start(POLL_INTERVAL)

    def stopService(self) -> Deferred[None] | None:
        """Stop renewing, and withdraw the lease: the keys stop working at once."""
        super().stopService()
        self._poller.stop()
        self._usage.save(self._clock.seconds())
        if self._leased is None or not self._leased.keys:
            return None
        withdrawal = Deferred.fromCoroutine(self._withdraw(self._leased))
        withdrawal.addTimeout(WITHDRAWAL_TIMEOUT, cast(IReactorTime, self._clock))
        return withdrawal.addErrback(self._withdrawal_failed)

    @property
    def is_current(self) -> bool:
        """Whether the cloud has a lease of the current keys."""
        return self._leased is not None and self._leased == self._announcement()

    async def wait_until_current(self, timeout: float) -> bool:
        """Return whether the cloud has a lease of the current keys, `timeout` seconds from now.

        Returns as soon as it has. Raises CtllmError.
        """
        with suppress(TimeoutError):
            await run_with_timeout(self._clock, timeout, self._wait_for_lease())
        return self.is_current

    async def _wait_for_lease(self) -> None:
        while not self.is_current:
            await self._leases.wait()

    def renew_now(self) -> None:
        """Renew at the next poll: after a reconnect the cloud may have restarted without leases."""
        self._renew_at = 0.0
        self._has_older_cloud = False

    def _announcement(self) -> _Announcement | None:
        """Return what the cloud should know; None without a login. Raises CtllmError."""
        known: Credentials = self._session.credentials
        if known.login is None:
            return None
        now = self._now()
        keys = tuple(key.record for key in known.api_keys if not key.is_expired(now))
        return _Announcement(known.desktop_id, known.login, keys)

    async def _poll(self) -> None:
        try:
            announcement = self._announcement()
        except CtllmError:
            return  # the bridge reports the error
        if announcement is None:
            return
        if announcement != self._attempted or self._clock.seconds() >= self._renew_at:
            await self._renew(announcement)

    async def _renew(self, announcement: _Announcement) -> None:
        self._attempted = announcement
        self._renew_at = self._clock.seconds() + RETRY_DELAY
        try:
            await self._lease(announcement, self._report())
        except Unauthorized:
            # The bridge reports the error.
            self._renew_at = self._clock.seconds() + RENEWAL_INTERVAL
        except CtllmError as error:
            self._log.info("Cannot lease API keys to the cloud: {error}", error=error.message)

    def _report(self) -> KeyReport | None:
        """Return what the cloud is told for the page; None if it could not understand that."""
        if self._remote_keys is None or self._has_older_cloud:
            return None
        return self._remote_keys.report(self._session.credentials, self._usage.known())

    async def _lease(self, announcement: _Announcement, report: KeyReport | None) -> None:
        keys, desktop_id = announcement.keys, announcement.desktop_id
        token = await self._session.access_token()
        client = self._session.client()
        seconds = LEASE_SECONDS if keys else IDLE_LEASE_SECONDS
        try:
            response = await client.lease_keys(token, desktop_id, keys, seconds, report)
        except BadRequest:
            if report is None:
                raise
            self._has_older_cloud = True  # until the next reconnect: it may be upgraded
            report = None
            response = await client.lease_keys(token, desktop_id, keys, seconds)
        self._leased = announcement
        self._renew_at = self._clock.seconds() + self._interval(bool(keys), report is not None)
        if report is not None and self._apply(announcement.login, response.changes):
            self._renew_at = self._clock.seconds()
        # Also of a key that the response has added: the cloud tells each use once.
        known = {key.id for key in (*keys, *self._session.credentials.api_keys)}
        self._usage.add(response.usage, frozenset(known), self._clock.seconds())
        self._leases.succeed(None)

    def _apply(self, login: Login, changes: KeyChanges) -> bool:
        return self._remote_keys is not None and self._remote_keys.apply(login, changes)

    def _interval(self, has_keys: bool, is_reporting: bool) -> float:
        if has_keys:
            return RENEWAL_INTERVAL
        return IDLE_RENEWAL_INTERVAL if is_reporting else math.inf

    async def _withdraw(self, leased: _Announcement) -> None:
        token = await self._session.access_token()
        uses = await self._session.client().withdraw_keys(token, leased.desktop_id)
        self._usage.add(uses, frozenset(key.id for key in leased.keys), self._clock.seconds())
        self._usage.save(self._clock.seconds())

    def _withdrawal_failed(self, reason: Failure) -> None:
        if not isinstance(reason.value, TimeoutError | CancelledError | CtllmError):
            self._log.failure("Cannot withdraw the lease of the API keys", reason)
