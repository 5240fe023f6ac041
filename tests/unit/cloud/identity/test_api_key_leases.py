"""`ctllm.cloud.identity.api_key_leases`: API keys are valid while a desktop leases them."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import generate_key, hash_key, owner_tag, parse_owner_tag
from ctllm.cloud.identity import (
    AccessGrant,
    ApiKeyLeases,
    CompositeTokenVerifier,
)
from ctllm.errors import BadRequest, Forbidden
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    MALLORY,
    START,
    USE_SCOPES,
    VerifierCase,
)

SERVING = AccessGrant(ALICE, frozenset({"use", "serve"}), START + 600, START, ("d",))
STRANGER = AccessGrant(MALLORY, frozenset({"use", "serve"}), START + 600, START)


class ApiKeyFormatTests(SynchronousTestCase):
    """The format of an API key (`ctllm.auth.api_keys`)."""

    def test_a_key_has_a_prefix_and_the_owner_tag(self) -> None:
        key = generate_key(ALICE.id)
        self.assertTrue(key.startswith(f"ctllm-k-{owner_tag(ALICE.id)}-"))
        self.assertEqual(parse_owner_tag(key), owner_tag(ALICE.id))
        self.assertNotEqual(key, generate_key(ALICE.id))

    def test_other_text_has_no_owner_tag(self) -> None:
        key = generate_key(ALICE.id)
        longer = key.replace("-k-", "-k-0")
        for text in ("", "ctllm-k-", key[:-1], key + "a", key + "\n", key.upper(), longer):
            self.assertIsNone(parse_owner_tag(text))


class ApiKeyLeasesTests(VerifierCase):
    """Leases of desktops."""

    def setUp(self) -> None:
        super().setUp()
        self.leases = ApiKeyLeases(self.now)
        self.key = generate_key(ALICE.id)
        self.digest = hash_key(self.key)

    def test_a_leased_key_has_the_scope_use_only(self) -> None:
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.assertTrue(self.leases.matches(self.key))
        grant = AccessGrant(ALICE, USE_SCOPES, START + 60, START, ("d",))
        self.assertEqual(self.grant_of(self.leases.verify(self.key)), grant)

    def test_refuses_a_key_that_is_not_leased(self) -> None:
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        for text in (
            generate_key(ALICE.id),
            generate_key(MALLORY.id),
            self.digest,
            "ctllm-k-",
            "\udcff",
        ):
            self.assert_refused(self.leases.verify(text))

    def test_keys_in_manage_hashes_have_the_scope_manage(self) -> None:
        other = generate_key(ALICE.id)
        self.leases.lease(SERVING, "d1", [self.digest], 60, [self.digest, hash_key(other)])
        grant = self.grant_of(self.leases.verify(self.key))
        self.assertEqual(grant.scopes, frozenset({"use", "manage"}))
        self.assert_refused(self.leases.verify(other))
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.assertEqual(self.grant_of(self.leases.verify(self.key)).scopes, USE_SCOPES)

    def test_a_key_expires_with_its_lease(self) -> None:
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.time = START + 59
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.time = START + 118
        self.grant_of(self.leases.verify(self.key))
        self.time = START + 119
        self.assert_refused(self.leases.verify(self.key))

    def test_the_next_lease_without_a_hash_revokes_the_key(self) -> None:
        both = CompositeTokenVerifier([self.leases])
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.grant_of(both.verify(self.key))
        self.leases.lease(SERVING, "d1", [], 60)
        self.assert_refused(both.verify(self.key))

    def test_another_users_lease_of_the_same_hash_has_no_effect(self) -> None:
        self.leases.lease(STRANGER, "d1", [self.digest], 60)
        self.assert_refused(self.leases.verify(self.key))
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.assertEqual(self.grant_of(self.leases.verify(self.key)).user, ALICE)
        self.leases.lease(STRANGER, "d1", [], 60)
        self.leases.remove_where(lambda each: each.user == MALLORY)
        self.assertEqual(self.grant_of(self.leases.verify(self.key)).user, ALICE)

    def test_refuses_a_key_with_another_owner_tag(self) -> None:
        foreign = generate_key(MALLORY.id)
        self.leases.lease(SERVING, "d1", [hash_key(foreign)], 60)
        self.assert_refused(self.leases.verify(foreign))

    def test_removes_only_the_leases_of_one_desktop(self) -> None:
        other = generate_key(ALICE.id)
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.leases.lease(replace(SERVING, session_ids=("e",)), "d2", [hash_key(other)], 60)
        self.leases.remove_where(lambda each: each.session_ids == ("d",))
        self.assert_refused(self.leases.verify(self.key))
        self.grant_of(self.leases.verify(other))

    def test_a_key_leased_by_two_desktops_is_valid_until_both_leases_end(self) -> None:
        self.leases.lease(SERVING, "d1", [self.digest], 10)
        self.leases.lease(SERVING, "d2", [self.digest], 60)
        self.time = START + 30
        self.grant_of(self.leases.verify(self.key))

    def test_a_lease_over_the_limit_leaves_the_earlier_one(self) -> None:
        many = [f"{n:064x}" for n in range(101)]
        self.leases.lease(SERVING, "d1", [*many[:99], self.digest], 60)
        self.assertRaises(BadRequest, self.leases.lease, SERVING, "d1", many, 60)
        self.grant_of(self.leases.verify(self.key))

    def test_refuses_malformed_hashes(self) -> None:
        for text in ("", "A" * 64, "0" * 63, "0" * 64 + "\n", self.key):
            self.assertRaises(BadRequest, self.leases.lease, SERVING, "d1", [text], 60)

    def test_limits_the_desktops_of_one_user(self) -> None:
        """An expired lease makes room for another."""
        for n in range(32):
            self.leases.lease(SERVING, f"d{n}", [], 60 + n)
        self.assertRaises(Forbidden, self.leases.lease, SERVING, "new", [], 60)
        self.leases.lease(SERVING, "d1", [self.digest], 60)
        self.leases.lease(STRANGER, "new", [], 60)
        self.time = START + 60
        self.leases.lease(SERVING, "new", [self.digest], 60)
        self.grant_of(self.leases.verify(self.key))
