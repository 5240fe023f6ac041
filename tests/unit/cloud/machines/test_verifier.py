"""The grants of requests that a machine signs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.request_signatures import PublicKey
from ctllm.auth.session_assertions import ISSUER, MANAGE, USE
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.identity import AccessGrant, MachineRequests, Machines, PrivateDirectory, User
from ctllm.cloud.machines import MachineVerifier
from ctllm.errors import CtllmError, SignInRequired, Unauthorized, UserDisabled
from ctllm.http.message.head import RequestHead
from tests.ollama_key import OllamaKey

ANN = User(ISSUER, "ann", "Ann")


class MachineVerifierTests(SynchronousTestCase):
    """A verifier, and one machine of ann."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        now = self.clock.seconds
        self.machines = Machines(PrivateDirectory(Path(self.mktemp())), now)
        self.requests = MachineRequests(now)
        self.inactive: CtllmError | None = None
        self.verifier = MachineVerifier(
            self.machines, self.requests, self.check_active, AuditLog(), "https://c.example/", now
        )
        self.key = OllamaKey()
        self.person = AccessGrant(ANN, frozenset({USE, MANAGE}), now() + 600, now(), tier="gold")
        key = PublicKey(self.key.raw)
        self.machines.register(key, self.person, "laptop", frozenset({USE}))

    def check_active(self, grant: AccessGrant) -> None:
        if self.inactive is not None:
            raise self.inactive

    def verify(self, key: OllamaKey | None = None) -> AccessGrant:
        ts = int(self.clock.seconds())
        credentials = (key or self.key).sign("GET", "/api/tags", ts)
        head = RequestHead(b"GET", f"/api/tags?ts={ts}".encode())
        return self.verifier.verify(head, credentials, "192.0.2.7")

    def test_a_grant_is_that_of_the_machine(self) -> None:
        grant = self.verify()
        self.assertEqual((grant.user, grant.scopes, grant.tier), (ANN, {USE}, "gold"))
        self.assertEqual(grant.credential_id, f"machine:{self.key.id}")
        self.assertGreater(grant.expires_at, self.clock.seconds())

    def test_the_tier_follows_that_of_the_users_sessions(self) -> None:
        self.verifier.observe(replace(self.person, tier="silver"))
        self.assertEqual(self.verify().tier, "silver")
        self.verifier.observe(replace(self.person, tier=""))
        self.assertEqual(self.verify().tier, "")

    def test_the_tier_does_not_follow_keys_machines_and_others(self) -> None:
        self.verifier.observe(replace(self.person, tier="silver", credential_id="k"))
        self.verifier.observe(replace(self.verify(), tier="silver"))
        self.verifier.observe(replace(self.person, tier="silver", user=User(ISSUER, "bob", "Bob")))
        self.assertEqual(self.verify().tier, "gold")

    def test_who_has_to_sign_in_again_gets_a_link(self) -> None:
        self.inactive = Unauthorized("Revoked.")
        error = self.assertRaises(SignInRequired, self.verify)
        self.assertTrue(error.signin_url.startswith("https://c.example/#machine="))

    def test_a_disabled_user_gets_no_link(self) -> None:
        self.inactive = UserDisabled("Disabled.")
        self.assertRaises(UserDisabled, self.verify)
        self.assertEqual(len(self.requests), 0)

    def test_only_a_good_request_counts_as_a_use(self) -> None:
        self.inactive = Unauthorized("Revoked.")
        self.assertRaises(SignInRequired, self.verify)
        self.assertRaises(SignInRequired, self.verify, OllamaKey())
        [machine] = self.machines.of_user(ANN).values()
        self.assertEqual(machine.last_used, 0)
        self.inactive = None
        self.verify()
        [machine] = self.machines.of_user(ANN).values()
        self.assertEqual(machine.last_used, self.clock.seconds())
