"""`ctllm.cloud.user_accounts`: what is stored of users, and what commands do with it."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.request_signatures import PublicKey
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.identity import (
    AccessGrant,
    Authentication,
    DisabledUsers,
    Invites,
    KnownUsers,
    Machines,
    PrivateDirectory,
    ProviderProof,
    Revocations,
    Sessions,
    User,
    load_signing_keys,
    user_hash,
)
from ctllm.cloud.user_accounts import Removed, UserAccounts
from ctllm.errors import BadRequest, NotFound, UserDisabled

START = 1_700_000_000.0
ISSUER = "https://login.example"
ANN = User("ctllm", "ann", "ann")
EVE = User(ISSUER, "auth0|eve@home.example", "Eve")
OTHER_EVE = User("https://other.example", "eve", "eve")


class UserAccountsCase(SynchronousTestCase):
    """A cloud's directory with three users, of whom two have one name."""

    def setUp(self) -> None:
        self.time = START
        self.state_dir = Path(self.mktemp())
        self.state = PrivateDirectory(self.state_dir / "cloud")
        self.secret = load_signing_keys(self.state).instance_secret
        self.known = KnownUsers(self.state.subdirectory("users"), self.secret, self.now)
        self.sessions = Sessions(self.state.subdirectory("sessions"), self.now)
        self.invites = Invites(self.state.subdirectory("invites"), self.now)
        self.machines = Machines(self.state.subdirectory("machines"), self.now)
        for user in (ANN, EVE, OTHER_EVE):
            self.known.record(user)
        self.time += 60
        self.refresh = self.log_in(EVE, "sealed-secret")
        self.time += 1

    def now(self) -> float:
        return self.time

    def log_in(self, user: User, sealed: str = "") -> str:
        proof = ProviderProof(self.time + 60, sealed)
        return self.sessions.create(Authentication(user, self.time), "browser", proof)

    def accounts(self) -> UserAccounts:
        """As a command opens them."""
        return UserAccounts(self.state, self.now)

    def add_machine(self, user: User, name: str) -> None:
        key = PublicKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
        grant = AccessGrant(user, frozenset({"use"}), self.time + 60, self.time)
        self.machines.register(key, grant, name, frozenset({"use"}))

    def audit(self, user: User) -> None:
        log = AuditLog(self.state_dir, self.now, lambda id: user_hash(self.secret, id))
        log.record_identity("session.created", user.id, address="192.0.2.77")


class ListTests(UserAccountsCase):
    """The list of users."""

    def test_lists_users_with_their_sessions_and_state(self) -> None:
        self.log_in(EVE)
        self.log_in(ANN)
        accounts = self.accounts()
        accounts.disable(ANN)
        listed = [
            (each.user.id, each.sessions, each.is_disabled) for each in self.accounts().list_all()
        ]
        self.assertEqual(listed, [(ANN.id, 1, True), (EVE.id, 2, False), (OTHER_EVE.id, 0, False)])
        self.assertEqual({each.first_seen for each in accounts.list_all()}, {START})

    def test_counts_no_session_that_expired_or_was_revoked(self) -> None:
        Revocations(self.state.subdirectory("revocations"), self.secret, self.now).revoke(EVE)
        (eve,) = (each for each in self.accounts().list_all() if each.user == EVE)
        self.assertEqual(eve.sessions, 0)
        self.time += 1
        self.log_in(EVE)
        self.time += 31 * 86400
        self.assertEqual({each.sessions for each in self.accounts().list_all()}, {0})

    def test_lists_who_signed_in_before_users_were_recorded_and_who_is_invited(self) -> None:
        self.log_in(User("ctllm", "old", "old"))
        self.invites.create("new")
        names = [each.user.name for each in self.accounts().list_all()]
        self.assertEqual(names, ["ann", "Eve", "eve", "new", "old"])


class ResolveTests(UserAccountsCase):
    """Which user a command means."""

    def test_accepts_names_in_any_case_and_ids(self) -> None:
        accounts = self.accounts()
        self.assertEqual(accounts.resolve("Ann"), ANN)
        for user in (ANN, EVE, OTHER_EVE):
            self.assertEqual(accounts.resolve(user.id), user)

    def test_accepts_a_subject_such_as_an_email_address(self) -> None:
        accounts = self.accounts()
        mail = User(ISSUER, "max@home.example", "Max")
        self.known.record(mail)
        self.assertEqual(accounts.resolve("max@home.example"), mail)
        both = self.assertRaises(BadRequest, accounts.resolve, OTHER_EVE.subject)
        self.assertIn(EVE.id, both.message)

    def test_an_ambiguous_name_is_refused_with_the_ids(self) -> None:
        error = self.assertRaises(BadRequest, self.accounts().resolve, "eve")
        self.assertIn(EVE.id, error.message)
        self.assertIn(OTHER_EVE.id, error.message)
        self.assertNotIn(ANN.id, error.message)

    def test_an_unknown_name_is_refused_and_an_unknown_id_is_not(self) -> None:
        accounts = self.accounts()
        self.assertIn("ctllm users", self.assertRaises(NotFound, accounts.resolve, "bob").message)
        self.assertEqual(accounts.resolve("ctllm|Bob").id, "ctllm|bob")
        self.assertEqual(accounts.resolve(f"{ISSUER}|a|b").id, f"{ISSUER}|a|b")
        for invalid in ("|x", "ctllm|", f"{ISSUER}|", "ctllm|a b"):
            self.assertRaises(BadRequest, accounts.resolve, invalid)


class EndAccessTests(UserAccountsCase):
    """Revoking, disabling and enabling."""

    def test_revoking_ends_what_one_user_has(self) -> None:
        self.invites.create("ann")
        self.add_machine(EVE, "laptop")
        self.add_machine(OTHER_EVE, "laptop")
        kept = self.log_in(OTHER_EVE)
        self.assertEqual(self.accounts().revoke(EVE), Removed(sessions=1, machines=1))
        self.assertEqual(self.accounts().revoke(ANN), Removed(invites=1))
        self.sessions.read(kept)
        self.assertEqual([each.user for each in self.machines.list_all()], [OTHER_EVE])

    def test_disabling_and_enabling_are_seen_by_a_running_cloud(self) -> None:
        cloud = DisabledUsers(self.state.subdirectory("disabled-users"), self.secret, self.now)
        self.accounts().disable(EVE)
        cloud.read_changes()
        self.assertRaises(UserDisabled, cloud.check, EVE)
        cloud.check(OTHER_EVE)
        self.assertTrue(self.accounts().enable(EVE))
        self.assertFalse(self.accounts().enable(EVE))
        cloud.read_changes()
        cloud.check(EVE)


class PrivacyTests(UserAccountsCase):
    """Forgetting and exporting."""

    def stored(self) -> str:
        """All names and contents of files of the cloud."""
        files = [each for each in self.state_dir.rglob("*") if each.is_file()]
        return "\n".join(str(each) + each.read_bytes().decode("latin-1") for each in files)

    def test_forgetting_leaves_no_name_subject_or_address(self) -> None:
        self.add_machine(EVE, "Eves laptop")
        self.audit(EVE)
        words = ("Eve", "auth0", "eve@home.example", "Eves laptop")
        before = self.stored()
        for word in words:
            self.assertIn(word, before)
        waited: list[str] = []
        removed = self.accounts().forget(EVE, lambda: waited.append(self.stored()))
        self.assertEqual(removed, Removed(sessions=1, machines=1))
        self.assertIn("Eve", waited[0])  # until the cloud has ended the access
        after = self.stored()
        for word in (*words, "192.0.2.77"):
            self.assertNotIn(word, after)
        self.assertIn("ann", after)
        self.assertIn(OTHER_EVE.subject, after)

    def test_a_forgotten_user_stays_revoked_and_disabled(self) -> None:
        self.accounts().disable(EVE)
        self.accounts().forget(EVE)
        revocations = Revocations(self.state.subdirectory("revocations"), self.secret, self.now)
        revocations.read_changes()
        self.assertTrue(revocations.is_revoked(EVE, self.time))
        self.assertTrue(self.accounts().enable(EVE))

    def test_an_export_has_all_of_one_user_and_no_secret(self) -> None:
        self.add_machine(EVE, "laptop")
        for user in (EVE, ANN):
            self.audit(user)
        exported = self.accounts().export(EVE)
        text = json.dumps(exported)
        self.assertEqual((exported["id"], exported["name"]), (EVE.id, "Eve"))
        self.assertEqual(exported["first_seen"], "2023-11-14T22:13:20+00:00")
        self.assertEqual([each["client"] for each in exported["sessions"]], ["browser"])
        self.assertEqual([each["name"] for each in exported["machines"]], ["laptop"])
        self.assertEqual([each["event"] for each in exported["audit"]], ["session.created"])
        for secret in ("sealed-secret", self.refresh, self.secret.hex(), OTHER_EVE.issuer):
            self.assertNotIn(secret, text)

    def test_an_export_of_a_built_in_user_has_the_invites(self) -> None:
        secret = self.invites.create("ann")
        self.invites.create("bob")
        exported = self.accounts().export(ANN)
        self.assertEqual(len(exported["invites"]), 1)
        self.assertNotIn(secret, json.dumps(exported))

    def test_lines_of_the_audit_log_that_are_cut_off_are_skipped(self) -> None:
        self.audit(EVE)
        with (self.state.path / "audit.jsonl").open("ab") as file:
            file.write(b'\n{"time":"2023\n')
        self.audit(EVE)
        self.assertEqual(len(self.accounts().export(EVE)["audit"]), 2)
