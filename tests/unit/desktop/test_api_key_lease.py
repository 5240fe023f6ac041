"""API keys: made and revoked on the desktop, leased to the cloud."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import hash_key, owner_tag, parse_owner_tag
from ctllm.desktop.api_key_lease import (
    LEASE_SECONDS,
    POLL_INTERVAL,
    RENEWAL_INTERVAL,
    ApiKeyLease,
    create_api_key,
    revoke_api_key,
)
from ctllm.desktop.credential_file import Credentials
from ctllm.errors import BadConfiguration, BadGateway, BadRequest, CtllmError, Unauthorized
from tests.unit.desktop.test_cloud_session import ANN, BOB, CloudSessionCase


class CreateApiKeyTests(CloudSessionCase):
    def test_stores_a_key_of_the_user(self) -> None:
        self.save(ANN, old="k")
        key = create_api_key(self.file, "new")
        self.assertEqual(parse_owner_tag(key), owner_tag(ANN.user_id))
        self.assertEqual(self.file.load(), Credentials("d" * 32, ANN, {"old": "k", "new": key}))

    def test_refuses_without_login_or_with_a_used_name(self) -> None:
        self.save(None)
        self.assertRaises(BadRequest, create_api_key, self.file, "new")
        self.save(ANN, old="k")
        self.assertRaises(BadRequest, create_api_key, self.file, "old")
        self.assertEqual(self.file.load().api_keys, {"old": "k"})

    def test_revoke_deletes_that_key_only(self) -> None:
        self.save(ANN, one="1", two="2")
        revoke_api_key(self.file, "one")
        self.assertEqual(self.file.load(), Credentials("d" * 32, ANN, {"two": "2"}))
        self.assertRaises(BadRequest, revoke_api_key, self.file, "one")

    def test_manage_keys_are_only_those_created_so(self) -> None:
        self.save(ANN)
        create_api_key(self.file, "plain")
        create_api_key(self.file, "wide", manage=True)
        self.assertEqual(self.file.load().manage_keys, ("wide",))
        revoke_api_key(self.file, "wide")
        create_api_key(self.file, "wide")
        self.assertEqual(self.file.load().manage_keys, ())


class FakeSession:
    """What the lease needs of a `CloudSession`."""

    def __init__(self) -> None:
        self.known: Credentials | CtllmError = Credentials("d" * 32, ANN, {"one": "1"})
        self.told: list[list[str]] = []
        self.asked = 0
        self.no_token: CtllmError | None = None
        self.refusal: CtllmError | None = None
        self.waiting: Deferred[None] | None = None

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
        self, token: str, desktop: str, hashes: list[str], seconds: int, manage: list[str]
    ) -> None:
        assert (token, desktop, seconds) == ("token", "d" * 32, LEASE_SECONDS)
        if self.waiting is not None:
            await self.waiting
        if self.refusal is not None:
            raise self.refusal
        self.told.append(hashes)
        self.managing = manage


class LeaseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.session = FakeSession()
        session: Any = self.session
        self.lease = ApiKeyLease(session, self.clock)
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.lease.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / POLL_INTERVAL)):
            self.clock.advance(POLL_INTERVAL)

    def test_leases_hashes_at_the_start(self) -> None:
        self.assertFalse(self.lease.is_current)
        self.lease.startService()
        self.assertEqual(self.session.told, [[hash_key("1")]])
        self.assertTrue(self.lease.is_current)

    def test_lease_has_the_hashes_of_manage_keys(self) -> None:
        self.session.known = Credentials("d" * 32, ANN, {"one": "1", "two": "2"}, ("two",))
        self.lease.startService()
        self.assertEqual(self.session.told, [sorted([hash_key("1"), hash_key("2")])])
        self.assertEqual(self.session.managing, [hash_key("2")])

    def test_renews_before_the_lease_expires(self) -> None:
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL * 3)
        self.assertEqual(len(self.session.told), 4)
        self.assertLess(RENEWAL_INTERVAL * 2, LEASE_SECONDS)

    def test_renews_when_keys_change(self) -> None:
        self.lease.startService()
        self.session.known = Credentials("d" * 32, ANN, {"one": "1", "two": "2"})
        self.assertFalse(self.lease.is_current)
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told[-1], sorted([hash_key("1"), hash_key("2")]))
        self.session.known = Credentials("d" * 32, ANN, {})
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
        self.session.known = Credentials("d" * 32, BOB, {})
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
