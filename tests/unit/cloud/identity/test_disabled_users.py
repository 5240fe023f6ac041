"""`ctllm.cloud.identity.disabled_users`: a user is disabled while a file says so."""

from __future__ import annotations

from ctllm.cloud.identity import DisabledUsers, PrivateDirectory, user_hash
from ctllm.errors import UserDisabled
from tests.unit.cloud.identity.identity_case import ALICE, MALLORY, StoreCase

SECRET = bytes(32)


class DisabledUsersTests(StoreCase):
    """Disabled users, in a running cloud and in a command."""

    def setUp(self) -> None:
        super().setUp()
        self.cloud = DisabledUsers(self.directory, SECRET, self.now)
        self.command = DisabledUsers(PrivateDirectory(self.path), SECRET, self.now)

    def test_disabling_is_reported_once_and_holds_until_the_user_is_enabled(self) -> None:
        self.assertEqual(self.cloud.read_changes(), [])
        self.command.disable(MALLORY.id)
        hash_of_mallory = user_hash(SECRET, MALLORY.id)
        self.assertEqual(self.cloud.read_changes(), [hash_of_mallory])
        for _ in range(2):
            self.assertRaises(UserDisabled, self.cloud.check, MALLORY)
            self.assertEqual(self.cloud.read_changes(), [])
        self.cloud.check(ALICE)
        self.assertTrue(self.command.enable(MALLORY.id))
        self.assertFalse(self.command.enable(MALLORY.id))
        self.assertEqual(self.cloud.read_changes(), [])
        self.cloud.check(MALLORY)
        self.assertFalse(self.cloud.is_disabled(hash_of_mallory))

    def test_a_damaged_or_empty_file_disables_too(self) -> None:
        self.command.disable(MALLORY.id)
        (file,) = self.files()
        file.write_bytes(b"")
        self.cloud.read_changes()
        self.assertRaises(UserDisabled, self.cloud.check, MALLORY)

    def test_files_name_no_user(self) -> None:
        self.command.disable(MALLORY.id)
        (file,) = self.files()
        self.assertNotIn("mallory", file.name + file.read_text())
