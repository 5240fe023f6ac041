"""The lease of API keys to the cloud: renewed while the desktop runs, withdrawn when it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import KeyChanges, KeyRecord, KeyReport, KeyUse, record_key
from ctllm.desktop.api_key_lease import (
    IDLE_LEASE_SECONDS,
    IDLE_RENEWAL_INTERVAL,
    LEASE_SECONDS,
    POLL_INTERVAL,
    RENEWAL_INTERVAL,
    WITHDRAWAL_TIMEOUT,
    ApiKeyLease,
)
from ctllm.desktop.cloud_client import LeaseResponse
from ctllm.desktop.credential_file import ApiKey, Credentials, Login, name_key
from ctllm.desktop.key_usage import KeyUsage, KeyUsageFile
from ctllm.errors import BadConfiguration, BadGateway, BadRequest, CtllmError, Unauthorized
from tests.unit.desktop.test_cloud_session import ANN, BOB

ONE = name_key("one", record_key("1"))
TWO = name_key("two", record_key("2", "manage", 1000, ("llama*",), 5))


class FakeSession:
    """What the lease needs of a `CloudSession`."""

    def __init__(self) -> None:
        self.known: Credentials | CtllmError = self.with_keys(ONE)
        self.told: list[list[KeyRecord]] = []
        self.asked = 0
        self.withdrawn = 0
        self.uses: tuple[KeyUse, ...] = ()
        self.no_token: CtllmError | None = None
        self.refusal: CtllmError | None = None
        self.waiting: Deferred[None] | None = None
        self.is_older_cloud = False
        self.reports: list[KeyReport | None] = []
        self.changes = KeyChanges()

    def with_keys(self, *keys: ApiKey) -> Credentials:
        return Credentials("d" * 32, ANN, keys)

    @property
    def credentials(self) -> Credentials:
        if isinstance(self.known, CtllmError):
            raise self.known
        return self.known

    async def access_token(self) -> str:
        self.asked += 1
        if self.no_token is not None:
            raise self.no_token
        return "token"

    def client(self) -> Any:
        return self

    async def lease_keys(
        self,
        token: str,
        desktop: str,
        keys: Sequence[KeyRecord],
        seconds: int,
        report: KeyReport | None = None,
    ) -> LeaseResponse:
        expected = LEASE_SECONDS if keys else IDLE_LEASE_SECONDS
        assert (token, desktop, seconds) == ("token", "d" * 32, expected)
        await self.respond()
        if self.is_older_cloud and report is not None:
            raise BadRequest("Object contains unknown field `report`")
        self.told.append(list(keys))
        self.reports.append(report)
        return LeaseResponse(self.uses, self.changes)

    async def withdraw_keys(self, token: str, desktop: str) -> tuple[KeyUse, ...]:
        assert (token, desktop) == ("token", "d" * 32)
        await self.respond()
        self.withdrawn += 1
        return self.uses

    async def respond(self) -> None:
        if self.waiting is not None:
            await self.waiting
        if self.refusal is not None:
            raise self.refusal


class LeaseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.session = FakeSession()
        session: Any = self.session
        self.usage = KeyUsageFile(Path(self.mktemp()))
        self.time = 900.0
        self.lease = ApiKeyLease(session, self.clock, KeyUsage(self.usage), lambda: self.time)
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.session.waiting = self.session.refusal = None
        self.lease.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / POLL_INTERVAL)):
            self.clock.advance(POLL_INTERVAL)

    def test_leases_records_at_the_start(self) -> None:
        self.assertFalse(self.lease.is_current)
        self.session.known = self.session.with_keys(ONE, TWO)
        self.lease.startService()
        self.assertEqual(self.session.told, [[ONE.record, TWO.record]])
        self.assertTrue(self.lease.is_current)

    def test_waits_until_the_cloud_knows_the_current_keys(self) -> None:
        self.lease.startService()
        self.session.known = self.session.with_keys(ONE, TWO)
        self.session.refusal = BadGateway("no")
        refused, waiting = (
            Deferred.fromCoroutine(self.lease.wait_until_current(seconds)) for seconds in (1, 9)
        )
        self.wait(1)
        self.assertFalse(self.successResultOf(refused))
        self.assertNoResult(waiting)
        self.session.refusal = None
        self.wait(3)
        self.assertTrue(self.successResultOf(waiting))
        at_once = Deferred.fromCoroutine(self.lease.wait_until_current(1))
        self.assertTrue(self.successResultOf(at_once))

    def test_leases_no_expired_keys(self) -> None:
        self.session.known = self.session.with_keys(ONE, TWO)
        self.lease.startService()
        self.time = 1000.0
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told[-1], [ONE.record])

    def test_a_desktop_without_keys_announces_that_once(self) -> None:
        """So it revokes those that it had, and costs nothing afterwards."""
        self.session.known = self.session.with_keys()
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL * 3)
        self.assertEqual(self.session.told, [[]])
        self.lease.renew_now()
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told, [[], []])

    def test_a_change_of_something_else_is_not_announced(self) -> None:
        self.lease.startService()
        self.session.known = self.session.with_keys(name_key("renamed", ONE.record, 5))
        self.wait(POLL_INTERVAL)
        self.assertEqual(len(self.session.told), 1)
        self.assertTrue(self.lease.is_current)

    def test_stores_the_use_that_the_cloud_reports(self) -> None:
        self.session.uses = (KeyUse(ONE.id, 123, "192.0.2.0/24", 4), KeyUse("f" * 16, 1))
        self.lease.startService()
        self.assertEqual(list(self.usage.load().values()), [self.session.uses[0]])

    # -- stopping

    def test_stopping_withdraws_the_lease_and_stores_the_last_use(self) -> None:
        self.lease.startService()
        self.session.uses = (KeyUse(ONE.id, 123, "", 4),)
        self.assertIsNone(self.successResultOf(self.stopping()))
        self.assertEqual(self.session.withdrawn, 1)
        self.assertEqual(list(self.usage.load()), [ONE.id])

    def stopping(self) -> Deferred[None]:
        stopping = self.lease.stopService()
        assert stopping is not None
        return stopping

    def test_stopping_waits_for_a_cloud_that_hangs_only_so_long(self) -> None:
        self.lease.startService()
        self.session.waiting = Deferred()
        stopping = self.stopping()
        self.assertNoResult(stopping)
        self.clock.advance(WITHDRAWAL_TIMEOUT)
        self.assertIsNone(self.successResultOf(stopping))

    def test_stopping_goes_on_when_the_cloud_refuses(self) -> None:
        self.lease.startService()
        for refusal in (BadGateway("gone"), Unauthorized("logged out")):
            self.session.refusal = refusal
            self.assertIsNone(self.successResultOf(self.stopping()))

    def test_stopping_without_keys_asks_nothing(self) -> None:
        self.session.known = self.session.with_keys()
        self.lease.startService()
        self.assertIsNone(self.lease.stopService())
        self.assertEqual(self.session.withdrawn, 0)

    # -- renewals

    def test_renews_before_the_lease_expires(self) -> None:
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL * 3)
        self.assertEqual(len(self.session.told), 4)
        self.assertLess(RENEWAL_INTERVAL * 2, LEASE_SECONDS)

    def test_renews_when_keys_change(self) -> None:
        self.lease.startService()
        self.session.known = self.session.with_keys(ONE, TWO)
        self.assertFalse(self.lease.is_current)
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told[-1], [ONE.record, TWO.record])
        self.session.known = self.session.with_keys()
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told[-1], [])

    def test_renew_now_renews_at_the_next_poll(self) -> None:
        self.lease.startService()
        self.lease.renew_now()
        self.wait(POLL_INTERVAL)
        self.assertEqual(len(self.session.told), 2)

    def test_retries_a_failed_renewal_after_a_delay(self) -> None:
        self.session.refusal = BadGateway("not now")
        self.lease.startService()
        self.wait(20)
        self.assertFalse(self.lease.is_current)
        self.assertLess(self.session.asked, 13)
        self.session.refusal = None
        self.wait(2 * POLL_INTERVAL)
        self.assertTrue(self.lease.is_current)

    def test_a_rejected_login_is_not_retried_until_it_changes(self) -> None:
        self.session.no_token = Unauthorized("signed out")
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL - POLL_INTERVAL)
        self.assertEqual(self.session.asked, 1)
        self.session.no_token = None
        self.session.known = Credentials("d" * 32, BOB)
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told, [[]])

    def test_does_nothing_without_a_login(self) -> None:
        self.session.known = Credentials("d" * 32)
        self.lease.startService()
        self.wait(10)
        self.assertEqual(self.session.asked, 0)

    def test_goes_on_after_a_file_that_cannot_be_read(self) -> None:
        good, self.session.known = self.session.known, BadConfiguration("broken")
        self.lease.startService()
        self.wait(3)
        self.assertEqual(self.session.told, [])
        self.session.known = good
        self.wait(POLL_INTERVAL)
        self.assertTrue(self.lease.is_current)

    def test_stop_cancels_a_renewal_silently(self) -> None:
        self.session.waiting = Deferred()
        self.lease.startService()
        self.lease.stopService()
        self.assertEqual(self.session.told, [])
        self.assertEqual(self.flushLoggedErrors(), [])


class FakeRemoteKeys:
    """Records what it is to do."""

    def __init__(self) -> None:
        self.applied: list[KeyChanges] = []
        self.tells_at_once = False

    def report(self, known: Credentials, uses: Mapping[str, KeyUse]) -> KeyReport:
        return KeyReport(True)

    def apply(self, login: Login, changes: KeyChanges) -> bool:
        assert login in (ANN, BOB)
        self.applied.append(changes)
        return self.tells_at_once


class RemoteKeyTests(LeaseTests):
    """The same of a desktop that stores keys of the page, and how it does."""

    def setUp(self) -> None:
        super().setUp()
        self.remote_keys = FakeRemoteKeys()
        self.lease = ApiKeyLease(
            cast(Any, self.session),
            self.clock,
            KeyUsage(self.usage),
            lambda: self.time,
            cast(Any, self.remote_keys),
        )

    def test_a_desktop_without_keys_announces_that_once(self) -> None:
        """It does so again and again, as the page may create one."""
        self.session.known = self.session.with_keys()
        self.lease.startService()
        self.wait(2 * IDLE_RENEWAL_INTERVAL)
        self.assertEqual(self.session.told, [[], [], []])
        self.assertLess(2 * IDLE_RENEWAL_INTERVAL, IDLE_LEASE_SECONDS)

    def test_each_response_is_applied(self) -> None:
        """It repeats what the desktop has not done yet."""
        self.session.changes = KeyChanges(removed=(ONE.id,))
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL)
        self.assertEqual(self.session.reports, [KeyReport(True)] * 2)
        self.assertEqual(self.remote_keys.applied, [self.session.changes] * 2)

    def test_what_was_done_is_told_at_once(self) -> None:
        """With the next poll."""
        self.remote_keys.tells_at_once = True
        self.lease.startService()
        self.wait(POLL_INTERVAL)
        self.assertEqual(len(self.session.told), 2)

    def test_a_cloud_of_an_earlier_version_is_told_the_keys_alone(self) -> None:
        """Until the next reconnect, as it may have been upgraded."""
        self.session.is_older_cloud = True
        self.lease.startService()
        self.assertEqual(self.session.reports, [None])
        self.assertTrue(self.lease.is_current)
        self.wait(RENEWAL_INTERVAL)
        self.assertEqual(self.session.reports, [None] * 2)
        self.assertEqual(self.remote_keys.applied, [])
        self.session.is_older_cloud = False
        self.lease.renew_now()
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.reports[2:], [KeyReport(True)])

    def test_a_desktop_without_keys_costs_an_earlier_cloud_nothing(self) -> None:
        """It waits for no keys."""
        self.session.known = self.session.with_keys()
        self.session.is_older_cloud = True
        self.lease.startService()
        self.wait(3 * IDLE_RENEWAL_INTERVAL)
        self.assertEqual(self.session.told, [[]])
