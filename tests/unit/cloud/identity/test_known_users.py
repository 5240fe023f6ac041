"""`ctllm.cloud.identity.known_users`: who has signed in, written rarely."""

from __future__ import annotations

from unittest import mock

from ctllm.cloud.identity import KnownUser, KnownUsers, PrivateDirectory, User
from ctllm.cloud.identity.known_users import CHECK_INTERVAL, WRITE_INTERVAL
from ctllm.errors import ServiceUnavailable
from tests.unit.cloud.identity.identity_case import ALICE, MALLORY, START, StoreCase

SECRET = bytes(32)


class KnownUsersTests(StoreCase):
    """Known users."""

    def setUp(self) -> None:
        super().setUp()
        self.users = KnownUsers(self.directory, SECRET, self.now)

    def count_reads(self) -> int:
        with mock.patch.object(PrivateDirectory, "read", side_effect=self.directory.read) as read:
            self.users.record(ALICE)
        return read.call_count

    def test_remembers_the_first_time_and_the_last_to_within_an_hour(self) -> None:
        self.users.record(ALICE)
        self.assertEqual(self.users.list_all(), [KnownUser(ALICE, START, START)])
        self.time += WRITE_INTERVAL - 1
        self.users.record(ALICE)
        self.assertEqual(self.users.find(ALICE.id), KnownUser(ALICE, START, START))
        self.time += CHECK_INTERVAL
        self.users.record(ALICE)
        self.assertEqual(self.users.find(ALICE.id), KnownUser(ALICE, START, self.time))
        self.assertIsNone(self.users.find(MALLORY.id))

    def test_the_path_of_a_request_touches_no_file(self) -> None:
        self.users.record(ALICE)
        self.assertEqual(self.count_reads(), 0)
        self.time += CHECK_INTERVAL
        self.assertEqual(self.count_reads(), 1)
        self.assertEqual(self.count_reads(), 0)

    def test_the_name_follows_the_user(self) -> None:
        self.users.record(ALICE)
        renamed = User(ALICE.issuer, ALICE.subject, "Alice")
        self.users.record(renamed)
        (known,) = self.users.list_all()
        self.assertEqual((known.user.name, known.first_seen), ("Alice", START))

    def test_a_forgotten_user_is_known_again_after_a_sign_in(self) -> None:
        self.users.record(ALICE)
        self.assertTrue(KnownUsers(self.directory, SECRET, self.now).remove(ALICE.id))
        self.users.record(ALICE)
        self.assertEqual(self.users.list_all(), [])
        self.users.record(ALICE, is_sign_in=True)
        self.assertEqual(len(self.users.list_all()), 1)

    def test_a_full_disk_stops_no_request(self) -> None:
        with mock.patch.object(
            PrivateDirectory, "replace", side_effect=ServiceUnavailable("Full.")
        ):
            self.users.record(ALICE)
        self.assertEqual(self.users.list_all(), [])

    def test_a_damaged_file_is_replaced(self) -> None:
        self.users.record(ALICE)
        (file,) = self.files()
        file.write_bytes(b"{")
        self.assertEqual(self.users.list_all(), [])
        self.users.record(ALICE, is_sign_in=True)
        self.assertEqual(len(self.users.list_all()), 1)

    def test_file_names_do_not_tell_the_user(self) -> None:
        self.users.record(ALICE)
        self.assertNotIn("alice", self.files()[0].name)
