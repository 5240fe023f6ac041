"""`ctllm.cloud.identity.api_key_leases`: API keys are valid while a desktop leases them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ctllm.auth.api_keys import KeyRecord, KeyUse, generate_key, record_key
from ctllm.cloud.identity import (
    AccessGrant,
    ApiKeyLeases,
    CompositeTokenVerifier,
    PrivateDirectory,
    UnconfirmedRevocations,
)
from ctllm.cloud.identity.api_key_leases import LAPSE_GRACE
from ctllm.errors import BadRequest, Forbidden, Unauthorized
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    MALLORY,
    START,
    USE_SCOPES,
    VerifierCase,
)

SERVING = AccessGrant(ALICE, frozenset({"use", "serve"}), START + 600, START, ("d",), tier="gold")
STRANGER = AccessGrant(MALLORY, frozenset({"use", "serve"}), START + 600, START)


class LeasesCase(VerifierCase):
    """Leases with a key of Alice."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = PrivateDirectory(Path(self.mktemp()))
        self.leases = self.make_leases()
        self.key = generate_key(ALICE.id)
        self.record = record_key(self.key)

    def make_leases(self) -> ApiKeyLeases:
        """Make them as a start of the cloud does: of what is on disk."""
        revocations = UnconfirmedRevocations(self.directory, b"instance secret", self.now)
        return ApiKeyLeases(revocations, self.now)

    def grant(self, key: str = "") -> AccessGrant:
        return self.grant_of(self.leases.verify(key or self.key))

    def refused(self, key: str = "") -> None:
        self.assert_refused(self.leases.verify(key or self.key))


class ApiKeyLeasesTests(LeasesCase):
    """Leases of desktops."""

    def test_a_leased_key_has_what_its_record_says(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.assertTrue(self.leases.matches(self.key))
        plain = replace(
            SERVING,
            scopes=USE_SCOPES,
            expires_at=START + 60,
            credential_id=f"key:{self.record.id}",
        )
        self.assertEqual(self.grant(), plain)
        limited = record_key(self.key, "manage", int(START) + 30, ("llama*",), 5)
        self.leases.lease(SERVING, "d1", [limited], 60)
        self.assertEqual(
            self.grant(),
            replace(
                plain,
                scopes=frozenset({"use", "manage"}),
                expires_at=START + 30,
                models=("llama*",),
                requests_per_minute=5,
            ),
        )

    def test_refuses_a_key_that_is_not_leased(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 60)
        for text in (
            generate_key(ALICE.id),
            generate_key(MALLORY.id),
            self.record.digest,
            self.record.id,
            self.key[:-1] + ("A" if self.key[-1] != "A" else "B"),
            self.key + "A",
            "ctllm-k-",
            "\udcff",
        ):
            self.refused(text)

    def test_refuses_another_key_with_the_id_of_a_leased_one(self) -> None:
        """The id alone is nothing: the digest decides."""
        other = generate_key(ALICE.id)
        forged = record_key(self.key)
        self.leases.lease(
            SERVING, "d1", [KeyRecord(record_key(other).id, forged.salt, forged.digest)], 60
        )
        self.refused(other)
        self.refused()

    def test_an_expired_key_is_refused_and_told_so(self) -> None:
        self.leases.lease(SERVING, "d1", [record_key(self.key, expires=int(START) + 5)], 60)
        self.grant()
        self.time = START + 5
        self.assertIn("has expired", self.assert_refused(self.leases.verify(self.key)))

    def test_a_key_expires_with_its_lease(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.time = START + 59
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.time = START + 118
        self.grant()
        self.time = START + 119
        self.refused()

    def test_the_next_lease_without_a_key_revokes_it(self) -> None:
        both = CompositeTokenVerifier([self.leases])
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.grant_of(both.verify(self.key))
        self.leases.lease(SERVING, "d1", [], 60)
        self.assert_refused(both.verify(self.key))

    def test_withdrawing_stops_the_keys_at_once(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.leases.withdraw(STRANGER, "d1")
        self.leases.withdraw(SERVING, "d2")
        self.grant()
        self.leases.withdraw(SERVING, "d1")
        self.refused()
        self.assertEqual(len(self.leases), 0)
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.grant()

    def test_another_users_lease_of_the_same_record_has_no_effect(self) -> None:
        self.leases.lease(STRANGER, "d1", [self.record], 60)
        self.refused()
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.assertEqual(self.grant().user, ALICE)
        self.leases.lease(STRANGER, "d1", [], 60)
        self.leases.withdraw(STRANGER, "d1")
        self.leases.remove_where(lambda each: each.user == MALLORY)
        self.assertEqual(self.grant().user, ALICE)

    def test_refuses_a_key_with_another_owner_tag(self) -> None:
        foreign = generate_key(MALLORY.id)
        self.leases.lease(SERVING, "d1", [record_key(foreign)], 60)
        self.refused(foreign)

    def test_removes_only_the_leases_of_one_desktop(self) -> None:
        other = generate_key(ALICE.id)
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.leases.lease(replace(SERVING, session_ids=("e",)), "d2", [record_key(other)], 60)
        self.leases.remove_where(lambda each: each.session_ids == ("d",))
        self.refused()
        self.grant(other)

    def test_a_key_leased_by_two_desktops_is_valid_until_both_leases_end(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 10)
        self.leases.lease(SERVING, "d2", [self.record], 60)
        self.time = START + 30
        self.grant()

    def test_a_lease_over_the_limit_leaves_the_earlier_one(self) -> None:
        many = [KeyRecord(f"{n:016x}", "0" * 32, "0" * 64) for n in range(101)]
        self.leases.lease(SERVING, "d1", [*many[:99], self.record], 60)
        self.assertRaises(BadRequest, self.leases.lease, SERVING, "d1", many, 60)
        self.grant()

    def test_limits_the_desktops_of_one_user(self) -> None:
        """An expired lease makes room for another."""
        for n in range(32):
            self.leases.lease(SERVING, f"d{n}", [], 60 + n)
        self.assertRaises(Forbidden, self.leases.lease, SERVING, "new", [], 60)
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.leases.lease(STRANGER, "new", [], 60)
        self.time = START + 60
        self.leases.lease(SERVING, "new", [self.record], 60)
        self.grant()

    def test_remembers_few_desktops_that_stopped(self) -> None:
        """Whoever leases and withdraws under a thousand ids uses no more memory for it."""
        self.leases.lease(SERVING, "d1", [self.record], 600)
        for n in range(1000):
            self.leases.lease(SERVING, f"d-{n}", [record_key(str(n))], 60)
            self.leases.withdraw(SERVING, f"d-{n}")
        self.grant()
        remembered = 0
        for n in range(1000):
            grant = replace(SERVING, credential_id=f"key:{record_key(str(n)).id}")
            try:
                self.leases.check_active(grant)
            except Unauthorized:
                continue
            remembered += 1
        self.assertLessEqual(remembered, 64)


class EndOfKeysTests(LeasesCase):
    """Which requests in progress end, and when."""

    def setUp(self) -> None:
        super().setUp()
        self.ended: list[AccessGrant] = []
        self.leases.add_observer(self.ended.append)
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.in_progress = self.grant()

    def holds(self) -> bool:
        try:
            self.leases.check_active(self.in_progress)
        except Unauthorized:
            return False
        return True

    def test_other_credentials_are_not_concerned(self) -> None:
        self.leases.check_active(SERVING)
        self.leases.check_active(replace(SERVING, credential_id="machine:1"))

    def test_a_revoked_key_ends_what_it_began_and_tells_the_observers(self) -> None:
        self.assertTrue(self.holds())
        self.leases.lease(SERVING, "d1", [record_key("other")], 60)
        self.assertFalse(self.holds())
        self.assertEqual(self.ended, [SERVING])
        self.leases.lease(SERVING, "d1", [], 60)
        self.assertEqual(self.ended, [SERVING, SERVING])
        self.leases.lease(SERVING, "d1", [], 60)
        self.assertEqual(len(self.ended), 2)

    def test_a_key_that_another_desktop_has_too_goes_on(self) -> None:
        self.leases.lease(SERVING, "d2", [self.record], 60)
        self.leases.lease(SERVING, "d1", [], 60)
        self.assertTrue(self.holds())
        self.assertEqual(self.ended, [])

    def test_a_desktop_that_restarts_does_not_end_what_its_keys_began(self) -> None:
        """Another desktop may be responding."""
        for stop in (lambda: self.leases.withdraw(SERVING, "d1"), self.expire):
            stop()
            self.refused()
            self.assertTrue(self.holds())
            self.leases.lease(SERVING, "d1", [self.record], 60)
            self.assertTrue(self.holds())
        self.assertEqual(self.ended, [])

    def expire(self) -> None:
        self.time += 61
        self.leases.remove_expired()

    def test_a_key_removed_while_its_desktop_is_stopped_ends_when_it_starts(self) -> None:
        self.leases.withdraw(SERVING, "d1")
        self.assertTrue(self.holds())
        self.leases.lease(SERVING, "d1", [], 60)
        self.assertFalse(self.holds())
        self.assertEqual(self.ended, [SERVING])

    def test_what_the_keys_of_a_lost_desktop_began_ends_after_the_grace(self) -> None:
        self.expire()
        self.time += LAPSE_GRACE - 1
        self.leases.remove_expired()
        self.assertTrue(self.holds())
        self.time += 1
        self.leases.remove_expired()
        self.assertFalse(self.holds())
        self.assertEqual(self.ended, [SERVING])

    def test_expiry_of_a_key_does_not_cut_a_response(self) -> None:
        self.leases.lease(SERVING, "d1", [record_key(self.key, expires=int(START) + 1)], 60)
        self.time = START + 2
        self.refused()
        self.assertTrue(self.holds())

    def test_another_user_cannot_keep_a_revoked_key_alive(self) -> None:
        self.leases.lease(STRANGER, "d1", [self.record], 60)
        self.leases.lease(SERVING, "d1", [], 60)
        self.assertFalse(self.holds())


class KeyUseTests(LeasesCase):
    """What a desktop learns of the use of its keys."""

    def test_a_lease_returns_the_use_since_the_last_one(self) -> None:
        self.assertEqual(self.leases.lease(SERVING, "d1", [self.record], 60), [])
        grant = self.grant()
        self.leases.record_use(grant, "192.0.2.0/24")
        self.time += 7
        self.leases.record_use(grant, "2001:db8::/48")
        use = KeyUse(self.record.id, int(self.time), "2001:db8::/48", 2)
        self.assertEqual(self.leases.lease(SERVING, "d1", [self.record], 60), [use])
        self.assertEqual(self.leases.lease(SERVING, "d1", [self.record], 60), [])
        self.leases.record_use(grant, "")
        self.assertEqual(len(self.leases.withdraw(SERVING, "d1")), 1)
        self.assertEqual(self.leases.withdraw(SERVING, "d1"), [])

    def test_use_of_an_expired_lease_is_reported_with_the_next(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.leases.record_use(self.grant(), "")
        self.time += 61
        self.leases.remove_expired()
        self.assertEqual(len(self.leases.lease(SERVING, "d1", [self.record], 60)), 1)

    def test_use_is_told_to_the_owners_desktop_only(self) -> None:
        self.leases.lease(SERVING, "d1", [self.record], 60)
        self.leases.lease(STRANGER, "d1", [self.record], 60)
        self.leases.record_use(self.grant(), "")
        self.assertEqual(self.leases.lease(STRANGER, "d1", [self.record], 60), [])
        self.assertEqual(len(self.leases.lease(SERVING, "d1", [], 60)), 1)
