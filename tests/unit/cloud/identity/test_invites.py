"""`ctllm.cloud.identity.invites`: an invite authenticates one user, once."""

from __future__ import annotations

from ctllm.cloud.identity import (
    Invites,
    PrivateDirectory,
)
from ctllm.errors import BadRequest, Unauthorized
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    START,
    InterferingDirectory,
    StoreCase,
)


class InvitesTests(StoreCase):
    """Invites."""

    def setUp(self) -> None:
        super().setUp()
        self.invites = Invites(self.directory, self.now)

    def assert_refused(self, secret: str) -> None:
        error = self.assertRaises(Unauthorized, self.invites.redeem, secret)
        self.assertIn("ctllm invite", error.message)

    def test_an_invite_can_be_redeemed_once(self) -> None:
        secret = self.invites.create("alice")
        self.assertEqual(self.invites.redeem(secret), ALICE)
        self.assert_refused(secret)

    def test_redeems_an_invite_of_another_process(self) -> None:
        secret = Invites(PrivateDirectory(self.path), self.now).create("alice")
        self.assertEqual(self.invites.redeem(secret), ALICE)

    def test_only_one_of_two_concurrent_redemptions_succeeds(self) -> None:
        secret = self.invites.create("alice")
        directory, won = InterferingDirectory(self.path), []
        directory.interfere = lambda: won.append(self.invites.redeem(secret))
        self.assertRaises(Unauthorized, Invites(directory, self.now).redeem, secret)
        self.assertEqual(won, [ALICE])

    def test_an_invite_expires_after_15_minutes_and_is_removed_when_used(self) -> None:
        secrets = [self.invites.create(name) for name in ("alice", "bob")]
        self.time = START + 899
        self.invites.redeem(secrets[0])
        self.time = START + 900
        self.assert_refused(secrets[1])
        self.assertEqual(self.files(), [])

    def test_files_do_not_have_the_secret(self) -> None:
        secret = self.invites.create("alice")
        (file,) = self.files()
        self.assertNotIn(secret, file.name)
        self.assertNotIn(secret.encode(), file.read_bytes())

    def test_refuses_other_text_including_file_names_and_paths(self) -> None:
        self.invites.create("alice")
        (file,) = self.files()
        for guess in ("", file.name, file.stem, "../cloud/" + file.name, "\udcff", "x" * 100_000):
            self.assert_refused(guess)

    def test_user_names_are_lowercased_and_validated(self) -> None:
        for name, folded in (("Alice", "alice"), ("a.b_c@d-e", "a.b_c@d-e"), ("0" * 64, "0" * 64)):
            self.assertEqual(self.invites.redeem(self.invites.create(name)).subject, folded)
        for bad in ("", "0" * 65, ".a", "-a", "a b", "a/b", "a|b", "a\n", "\u212aim", "straße"):
            error = self.assertRaises(BadRequest, self.invites.create, bad)
            self.assertIn("1 to 64", error.message)
        self.assertEqual(self.files(), [])

    def test_a_damaged_invite_is_refused_and_removed(self) -> None:
        for content in (b"", b"\xff", b"[]", b"null", b'{"name": 1, "expires": 9e9}'):
            secret = self.invites.create("alice")
            self.files()[0].write_bytes(content)
            self.assert_refused(secret)
            self.assertEqual(self.invites.remove_expired(), 1)
        self.assertEqual(self.files(), [])

    def test_remove_expired_leaves_valid_invites_and_other_files(self) -> None:
        self.invites.create("alice")
        self.time = START + 900
        secret = self.invites.create("bob")
        (self.path / "README").write_text("mine")
        self.assertEqual(self.invites.remove_expired(), 1)
        self.invites.redeem(secret)
        self.assertEqual([file.name for file in self.files()], ["README"])
