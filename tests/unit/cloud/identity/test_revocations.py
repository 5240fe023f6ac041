"""`ctllm.cloud.identity.revocations`: the files that `ctllm revoke` writes and the cloud reads."""

from __future__ import annotations

from unittest import mock

from ctllm.cloud.identity import (
    PrivateDirectory,
    Revocations,
)
from ctllm.errors import BadConfiguration, Unauthorized
from tests.unit.cloud.gateway_case import ANN, BOB, INSTANCE_SECRET
from tests.unit.cloud.identity.identity_case import (
    StoreCase,
)


class RevocationsTests(StoreCase):
    """Revocations."""

    def setUp(self) -> None:
        super().setUp()
        self.revocations = Revocations(self.directory, INSTANCE_SECRET, self.now)
        self.command = Revocations(PrivateDirectory(self.path), INSTANCE_SECRET, self.now)

    def test_revokes_authentications_of_one_user_up_to_now(self) -> None:
        self.command.revoke(ANN)
        self.assertFalse(self.revocations.is_revoked(ANN, self.time))
        (name,) = self.revocations.read_changes()
        self.assertEqual(self.revocations.read_changes(), [])
        self.assertEqual(self.revocations.not_before(name), self.time)
        self.revocations.check(ANN, self.time + 0.001)
        self.revocations.check(BOB, self.time)
        for before in (0.0, self.time - 0.001, self.time):
            self.assertRaises(Unauthorized, self.revocations.check, ANN, before)

    def test_files_do_not_name_the_user(self) -> None:
        self.command.revoke(ANN)
        (file,) = self.files()
        self.assertRegex(file.name, r"\A[0-9a-f]{32}\.json\Z")
        self.assertNotIn(ANN.subject.encode(), file.read_bytes())

    def test_a_later_revocation_counts_and_an_earlier_does_not(self) -> None:
        self.command.revoke(ANN)
        self.revocations.read_changes()
        self.time += 10
        self.command.revoke(ANN)
        self.assertEqual(len(self.revocations.read_changes()), 1)
        self.assertTrue(self.revocations.is_revoked(ANN, self.time))
        self.time -= 20
        self.command.revoke(ANN)
        self.assertEqual(self.revocations.read_changes(), [])
        self.assertTrue(self.revocations.is_revoked(ANN, self.time + 20))

    def test_a_damaged_file_revokes_up_to_the_time_of_reading(self) -> None:
        self.command.revoke(ANN)
        self.files()[0].write_bytes(b"{")
        self.assertEqual(len(self.revocations.read_changes()), 1)
        self.assertTrue(self.revocations.is_revoked(ANN, self.time))

    def test_reads_an_unreadable_file_again(self) -> None:
        self.command.revoke(ANN)
        self.command.revoke(BOB)
        blocked = sorted(file.name for file in self.files())[0]
        read = self.directory.read

        def refusing(name: str) -> bytes | None:
            if name == blocked:
                raise BadConfiguration("Cannot read it.")
            return read(name)

        with mock.patch.object(self.directory, "read", refusing):
            self.assertEqual(len(self.revocations.read_changes()), 1)
            self.assertEqual(self.revocations.read_changes(), [])
        self.assertEqual(len(self.revocations.read_changes()), 1)
