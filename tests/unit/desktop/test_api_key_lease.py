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
from tests.unit.desktop.test_cloud_session import ANN, BOB, Case


class Making(Case):
    """The file keeps them."""

    def test_made(self) -> None:
        """It is its owner's, it is kept, and no other is touched."""
        self.save(ANN, old="k")
        key = create_api_key(self.file, "new")
        self.assertEqual(parse_owner_tag(key), owner_tag(ANN.user_id))
        self.assertEqual(self.file.load(), Credentials("d" * 32, ANN, {"old": "k", "new": key}))

    def test_refused(self) -> None:
        """Without a sign-in, or where there is one of that name; nothing changes."""
        self.save(None)
        self.assertRaises(BadRequest, create_api_key, self.file, "new")
        self.save(ANN, old="k")
        self.assertRaises(BadRequest, create_api_key, self.file, "old")
        self.assertEqual(self.file.load().api_keys, {"old": "k"})

    def test_revoked(self) -> None:
        """It is gone, the others stay; one that is not there is told."""
        self.save(ANN, one="1", two="2")
        revoke_api_key(self.file, "one")
        self.assertEqual(self.file.load(), Credentials("d" * 32, ANN, {"two": "2"}))
        self.assertRaises(BadRequest, revoke_api_key, self.file, "one")

    def test_managing(self) -> None:
        """Only keys that were asked for so may change models; the name's next owner may not."""
        self.save(ANN)
        create_api_key(self.file, "plain")
        create_api_key(self.file, "wide", manage=True)
        self.assertEqual(self.file.load().manage_keys, ("wide",))
        revoke_api_key(self.file, "wide")
        create_api_key(self.file, "wide")
        self.assertEqual(self.file.load().manage_keys, ())


class Session:
    """What the lease needs of one."""

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


class Leasing(SynchronousTestCase):
    """The cloud is told."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.session = Session()
        session: Any = self.session
        self.lease = ApiKeyLease(session, self.clock)
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.lease.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / POLL_INTERVAL)):
            self.clock.advance(POLL_INTERVAL)

    def test_at_once(self) -> None:
        """Hashes, not keys."""
        self.assertFalse(self.lease.is_current)
        self.lease.startService()
        self.assertEqual(self.session.told, [[hash_key("1")]])
        self.assertTrue(self.lease.is_current)

    def test_which_may_manage(self) -> None:
        """They are told apart by their hashes."""
        self.session.known = Credentials("d" * 32, ANN, {"one": "1", "two": "2"}, ("two",))
        self.lease.startService()
        self.assertEqual(self.session.told, [sorted([hash_key("1"), hash_key("2")])])
        self.assertEqual(self.session.managing, [hash_key("2")])

    def test_renewed(self) -> None:
        """Often enough that one failure does no harm, and no more often."""
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL * 3)
        self.assertEqual(len(self.session.told), 4)
        self.assertLess(RENEWAL_INTERVAL * 2, LEASE_SECONDS)

    def test_changes_are_told_at_once(self) -> None:
        """A new key works, and a revoked one stops working, within a look."""
        self.lease.startService()
        self.session.known = Credentials("d" * 32, ANN, {"one": "1", "two": "2"})
        self.assertFalse(self.lease.is_current)
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told[-1], sorted([hash_key("1"), hash_key("2")]))
        self.session.known = Credentials("d" * 32, ANN, {})
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told[-1], [])

    def test_a_new_connection(self) -> None:
        """The cloud may have been restarted, and know none."""
        self.lease.startService()
        self.lease.renew_now()
        self.wait(POLL_INTERVAL)
        self.assertEqual(len(self.session.told), 2)

    def test_failures_are_tried_again_soon(self) -> None:
        """Until it is told; but not with every look."""
        self.session.refusal = BadGateway("not now")
        self.lease.startService()
        self.wait(20)
        self.assertFalse(self.lease.is_current)
        self.assertLess(self.session.asked, 13)
        self.session.refusal = None
        self.wait(2 * POLL_INTERVAL)
        self.assertTrue(self.lease.is_current)

    def test_a_sign_in_that_is_over(self) -> None:
        """The cloud is not asked again and again; a new sign-in is told at once."""
        self.session.no_token = Unauthorized("signed out")
        self.lease.startService()
        self.wait(RENEWAL_INTERVAL - POLL_INTERVAL)
        self.assertEqual(self.session.asked, 1)
        self.session.no_token = None
        self.session.known = Credentials("d" * 32, BOB, {})
        self.wait(POLL_INTERVAL)
        self.assertEqual(self.session.told, [[]])

    def test_signed_out(self) -> None:
        """There is nobody to tell."""
        self.session.known = Credentials("d" * 32)
        self.lease.startService()
        self.wait(10)
        self.assertEqual(self.session.asked, 0)

    def test_a_file_that_cannot_be_read(self) -> None:
        """It is looked at again; the bridge is who says so, once."""
        good, self.session.known = self.session.known, BadConfiguration("broken")
        self.lease.startService()
        self.wait(3)
        self.assertEqual(self.session.told, [])
        self.session.known = good
        self.wait(POLL_INTERVAL)
        self.assertTrue(self.lease.is_current)

    def test_stopped_while_telling(self) -> None:
        """The telling is cancelled, in silence."""
        self.session.waiting = Deferred()
        self.lease.startService()
        self.lease.stopService()
        self.assertEqual(self.session.told, [])
        self.assertEqual(self.flushLoggedErrors(), [])
