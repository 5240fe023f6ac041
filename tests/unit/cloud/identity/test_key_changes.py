"""`ctllm.cloud.identity.key_changes`, in leases: keys that the page creates and revokes."""

from __future__ import annotations

import errno
from unittest import mock

import msgspec

from ctllm.auth.api_keys import (
    MAX_KEYS,
    KeyDescription,
    KeyRefusal,
    KeyReport,
    NamedKeyRecord,
    generate_key,
    owner_tag,
    record_key,
)
from ctllm.cloud.identity import AccessGrant, UnconfirmedRevocations
from ctllm.cloud.identity.key_changes import FAILURE_SECONDS, MAX_REMOVALS, REMOVAL_SECONDS
from ctllm.cloud.identity.unconfirmed_revocations import MAX_DESKTOPS
from ctllm.errors import (
    BadConfiguration,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    ServiceUnavailable,
)
from tests.unit.cloud.identity.identity_case import ALICE
from tests.unit.cloud.identity.test_api_key_leases import SERVING, STRANGER, LeasesCase

ACCEPTING = KeyReport(True)


class KeyChangesCase(LeasesCase):
    """A desktop of Alice that stores keys of the page, and has one of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.ended: list[AccessGrant] = []
        self.leases.add_observer(self.ended.append)
        self.new = generate_key(ALICE.id)
        self.named = self.name_record(self.new, "new")
        self.renew()

    def name_record(self, key: str, name: str) -> NamedKeyRecord:
        return NamedKeyRecord(**msgspec.structs.asdict(record_key(key)), name=name)

    def renew(self, *new: NamedKeyRecord, report: KeyReport | None = ACCEPTING) -> None:
        """Renew the lease, with the desktop's own key and those that it has stored."""
        self.leases.lease(SERVING, "d1", [self.record, *new], 60, report)

    def create(self) -> None:
        self.leases.create(SERVING, "d1", self.named)

    def states(self) -> dict[str, str]:
        return {key.name: key.state for key in self.leases.list_keys(SERVING)}

    def changes(self) -> tuple[list[str], list[str]]:
        """Return the ids that the desktop is to add and to remove."""
        found = self.leases.changes_for(SERVING, "d1")
        added = [msgspec.json.decode(each, type=NamedKeyRecord).id for each in found.added]
        return added, list(found.removed)


class KeyChangesTests(KeyChangesCase):
    """What the page and the desktop do."""

    # -- creation

    def test_a_new_key_works_at_once(self) -> None:
        """The desktop is told in each response until it has the key."""
        self.create()
        self.assertEqual(self.grant(self.new).credential_id, f"key:{self.named.id}")
        for _ in range(2):
            self.renew()
            self.assertEqual(self.changes(), ([self.named.id], []))
            self.assertEqual(self.states(), {"": "confirmed", "new": "pending"})
        self.renew(self.named, report=KeyReport(True, (KeyDescription(self.named.id, "new"),)))
        self.assertEqual(self.changes(), ([], []))
        self.assertEqual(self.states(), {"": "confirmed", "new": "confirmed"})
        self.grant(self.new)
        self.assertEqual(self.ended, [])

    def test_a_key_that_is_not_stored_in_time_ends(self) -> None:
        """With its requests; the page is told for a while."""
        self.create()
        self.time += 50
        self.renew()
        self.time += 10
        self.refused(self.new)
        self.leases.remove_expired()
        self.assertEqual(self.states()["new"], "failed")
        self.assertEqual(self.ended, [SERVING])
        self.grant()
        self.time += FAILURE_SECONDS
        self.renew()
        self.assertNotIn("new", self.states())

    def test_a_key_that_is_stored_too_late_is_removed_again(self) -> None:
        """The page was told that it does not work."""
        self.create()
        self.time += 59
        self.renew()
        self.time += 1
        self.renew(self.named)
        # It was in this lease when its time was over.
        self.refused(self.new)
        self.assertEqual(self.changes(), ([], [self.named.id]))
        self.renew()
        self.assertEqual(self.changes(), ([], []))

    def test_a_desktop_may_refuse_a_key(self) -> None:
        """The page gets the reason."""
        self.create()
        refusal = KeyRefusal(self.named.id, "This desktop has too many.")
        self.renew(report=KeyReport(True, refused=(refusal,)))
        self.refused(self.new)
        (failed,) = [key for key in self.leases.list_keys(SERVING) if key.state == "failed"]
        self.assertEqual((failed.name, failed.message), ("new", refusal.reason))

    def test_a_key_ends_with_the_lease_of_its_desktop(self) -> None:
        """Like every other; when the desktop is back in time, it is told."""
        self.create()
        self.leases.withdraw(SERVING, "d1")
        self.refused(self.new)
        self.renew()
        self.grant(self.new)

    def test_a_desktop_that_cannot_store_keys_is_refused(self) -> None:
        """Because of its version or its configuration; and one of somebody else."""
        self.assertRaises(NotFound, self.leases.create, SERVING, "d2", self.named)
        self.assertRaises(NotFound, self.leases.create, STRANGER, "d1", self.named)
        self.renew(report=None)
        self.assertRaises(Conflict, self.leases.create, SERVING, "d1", self.named)
        self.assertEqual(self.leases.desktops_of(SERVING), [])
        self.renew(report=KeyReport(False))
        self.assertRaises(Forbidden, self.leases.create, SERVING, "d1", self.named)
        self.assertEqual(self.leases.desktops_of(SERVING), [])
        self.renew()
        self.assertEqual(self.leases.desktops_of(SERVING), ["d1"])
        self.time += 60
        self.assertEqual(self.leases.desktops_of(SERVING), [])

    def test_a_name_is_used_once(self) -> None:
        """On one desktop, also while it is pending."""
        self.create()
        again = self.name_record(generate_key(ALICE.id), "new")
        self.assertRaises(Conflict, self.leases.create, SERVING, "d1", again)

    def test_the_number_of_keys_is_limited(self) -> None:
        """Those of the desktop and of the page together."""
        for number in range(MAX_KEYS - 1):
            record = self.name_record(generate_key(ALICE.id), f"key-{number}")
            self.leases.create(SERVING, "d1", record)
        self.assertRaises(BadRequest, self.create)

    # -- revocation

    def test_a_revoked_key_ends_at_once(self) -> None:
        """However often the desktop still announces it; it is told each time."""
        self.assertEqual(self.leases.revoke(SERVING, self.record.id), "d1")
        self.assertEqual(self.ended, [SERVING])
        for _ in range(2):
            self.refused()
            self.assertEqual(self.changes(), ([], [self.record.id]))
            self.renew()
        self.leases.lease(SERVING, "d1", [], 60, ACCEPTING)
        self.assertEqual(self.changes(), ([], []))
        self.assertRaises(NotFound, self.leases.revoke, SERVING, self.record.id)

    def test_a_revocation_outlives_the_desktop_that_has_not_heard_of_it(self) -> None:
        """It was killed, and starts again on another day."""
        self.leases.revoke(SERVING, self.record.id)
        for _ in range(20):
            self.time += 3600
            self.leases.remove_expired()
        self.renew()
        self.refused()
        self.assertEqual(self.changes(), ([], [self.record.id]))

    def test_a_pending_key_can_be_revoked(self) -> None:
        """The desktop may have stored it meanwhile."""
        self.create()
        self.leases.revoke(SERVING, self.named.id)
        self.refused(self.new)
        self.renew(self.named)
        self.refused(self.new)
        self.assertEqual(self.changes(), ([], [self.named.id]))

    def test_nobody_else_can_revoke_a_key(self) -> None:
        """Nor list it."""
        self.assertRaises(NotFound, self.leases.revoke, STRANGER, self.record.id)
        self.assertEqual(self.leases.list_keys(STRANGER), [])
        self.grant()

    def test_a_desktop_that_takes_no_changes_keeps_its_keys(self) -> None:
        """The error says where they are revoked."""
        self.renew(report=KeyReport(False))
        self.assertRaises(Forbidden, self.leases.revoke, SERVING, self.record.id)
        self.renew(report=None)
        self.assertRaises(Conflict, self.leases.revoke, SERVING, self.record.id)
        self.grant()

    # -- the list

    def test_the_last_use_is_the_newest_that_is_known(self) -> None:
        """What the desktop was told counts until it tells it itself."""
        described = KeyDescription(self.record.id, "own", 5, "192.0.2.0/24")
        self.renew(report=KeyReport(True, (described,)))
        (key,) = self.leases.list_keys(SERVING)
        self.assertEqual((key.name, key.last_used, key.last_address), ("own", 5, "192.0.2.0/24"))
        self.leases.record_use(self.grant(), "198.51.100.0/24")
        for _ in range(2):
            (key,) = self.leases.list_keys(SERVING)
            self.assertEqual(key.last_address, "198.51.100.0/24")
            self.renew(report=KeyReport(True, (described,)))


class StoredRevocationsTests(KeyChangesCase):
    """Revocations outlive the cloud's process."""

    def restart(self) -> None:
        """Restart the cloud."""
        self.leases = self.make_leases()

    def stored(self) -> list[str]:
        return self.directory.list_files()

    def fill_disk(self) -> None:
        full = OSError(errno.ENOSPC, "No space left")
        self.disk = mock.patch("os.fsync", side_effect=full)
        self.disk.start()
        self.addCleanup(self.disk.stop)

    def test_a_key_that_was_revoked_stays_revoked_after_a_restart(self) -> None:
        """Its desktop was away, still announces it, and is told."""
        self.leases.revoke(SERVING, self.record.id)
        self.leases.store_revocations(SERVING, "d1")
        self.leases.withdraw(SERVING, "d1")
        for _ in range(2):
            self.restart()
            self.renew()
            self.refused()
            self.assertEqual(self.changes(), ([], [self.record.id]))
        self.leases.lease(SERVING, "d1", [], 60, ACCEPTING)
        self.assertEqual(self.stored(), [])

    def test_a_new_key_that_was_given_up_stays_so_after_a_restart(self) -> None:
        """The page was told that it does not work."""
        self.create()
        self.time += 60
        self.leases.remove_expired()
        self.restart()
        self.renew(self.named)
        self.refused(self.new)
        self.assertEqual(self.changes(), ([], [self.named.id]))

    def test_the_files_name_no_owner_and_no_desktop(self) -> None:
        self.leases.lease(SERVING, "my-laptop", [self.record], 60, ACCEPTING)
        self.leases.lease(SERVING, "d1", [], 60, ACCEPTING)
        self.leases.revoke(SERVING, self.record.id)
        self.leases.store_revocations(SERVING, "my-laptop")
        (file,) = self.stored()
        content = file.encode() + (self.directory.read(file) or b"")
        for secret in (self.key, ALICE.id, owner_tag(ALICE.id), "my-laptop", self.record.digest):
            self.assertNotIn(secret.encode(), content)

    def test_a_revocation_is_of_one_owner_and_one_desktop(self) -> None:
        self.leases.revoke(SERVING, self.record.id)
        self.leases.store_revocations(SERVING, "d1")
        self.restart()
        self.leases.lease(STRANGER, "d1", [self.record], 60, ACCEPTING)
        self.assertEqual(self.leases.changes_for(STRANGER, "d1").removed, ())
        self.leases.lease(SERVING, "d2", [self.record], 60, ACCEPTING)
        self.grant()

    def test_a_desktop_that_never_confirms_does_not_get_its_key_back(self) -> None:
        """Neither by waiting, with or without leases, nor by the number of revocations."""
        self.leases.revoke(SERVING, self.record.id)
        for _ in range(5):
            self.time += REMOVAL_SECONDS / 3
            self.renew()
            self.leases.remove_expired()
            self.restart()
        self.renew()
        self.refused()
        self.revoke_new_keys(1000)
        self.restart()
        self.renew()
        self.refused()

    def revoke_new_keys(self, count: int) -> None:
        """Create and revoke so many keys on the page; the desktop renews nothing meanwhile."""
        refused = 0
        for number in range(count):
            record = self.name_record(generate_key(ALICE.id), f"key-{number}")
            try:
                self.leases.create(SERVING, "d1", record)
            except Conflict:
                refused += 1
                continue
            self.leases.revoke(SERVING, record.id)
            self.leases.store_revocations(SERVING, "d1")
        self.assertGreaterEqual(refused, count - MAX_KEYS)
        self.assertLessEqual(len(self.changes()[1]), MAX_REMOVALS)

    def test_a_full_disk_is_told_and_the_revocation_holds(self) -> None:
        """It can be repeated, and is repeated by itself."""
        self.fill_disk()
        self.leases.revoke(SERVING, self.record.id)
        for _ in range(2):
            self.assertRaises(ServiceUnavailable, self.leases.store_revocations, SERVING, "d1")
            self.refused()
            self.renew()
            self.assertEqual(self.leases.revoke(SERVING, self.record.id), "d1")
        self.assertEqual(self.stored(), [])
        self.disk.stop()
        self.leases.remove_expired()
        self.restart()
        self.renew()
        self.refused()

    def test_a_damaged_file_brings_no_key_back(self) -> None:
        """The keys of its owner do not work; those of others do."""
        self.leases.revoke(SERVING, self.record.id)
        self.leases.store_revocations(SERVING, "d1")
        (file,) = self.stored()
        self.directory.replace(file, b"{")
        self.restart()
        error = self.assertRaises(
            BadConfiguration, self.leases.lease, SERVING, "d1", [self.record], 60, ACCEPTING
        )
        self.assertIn(file, error.message)
        self.refused()
        self.leases.lease(STRANGER, "d1", [], 60, ACCEPTING)

    def test_what_has_waited_for_too_long_is_removed(self) -> None:
        self.leases.revoke(SERVING, self.record.id)
        self.leases.store_revocations(SERVING, "d1")
        revocations = UnconfirmedRevocations(self.directory, b"instance secret", self.now)
        self.time += REMOVAL_SECONDS - 1
        revocations.remove_expired()
        self.assertEqual(len(self.stored()), 1)
        self.time += 1
        revocations.remove_expired()
        self.assertEqual(self.stored(), [])

    def test_the_number_of_desktops_is_limited(self) -> None:
        """Of those for which revocations wait; the others are not forgotten for another one."""
        revocations = UnconfirmedRevocations(self.directory, b"instance secret", self.now)
        for number in range(MAX_DESKTOPS):
            revocations.save("tag", f"d{number}", {self.record.id: self.time + 9})
        self.assertRaises(Conflict, revocations.save, "tag", "new", {self.record.id: 9.0})
        self.assertEqual(list(revocations.load("tag", "d0")), [self.record.id])
        revocations.save("tag", "d0", {})
        revocations.save("tag", "new", {self.record.id: self.time + 9})

    def test_desktops_that_come_and_go_bring_no_key_back(self) -> None:
        """Whoever leases under a thousand names makes the cloud forget no revocation."""
        self.leases.revoke(SERVING, self.record.id)
        for number in range(1000):
            self.leases.withdraw(SERVING, f"x{number - 1}")
            self.leases.lease(SERVING, f"x{number}", [], 60, ACCEPTING)
        self.renew()
        self.refused()
