"""When keys were used: kept in a small file that is written rarely."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import KeyUse
from ctllm.desktop.key_usage import MAX_REQUESTS, KeyUsage, KeyUsageFile

ONE, TWO = "1" * 16, "2" * 16
BOTH = frozenset((ONE, TWO))


class KeyUsageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = KeyUsageFile(Path(self.mktemp()))
        self.usage = KeyUsage(self.file, interval=60.0)

    def test_adds_the_requests_to_those_before(self) -> None:
        self.usage.add([KeyUse(ONE, 10, "192.0.2.0/24", 2)], BOTH, 0)
        again = KeyUsage(self.file)
        again.add([KeyUse(ONE, 20, "", 3), KeyUse(TWO, 5)], BOTH, 0)
        self.assertEqual(self.file.load(), {ONE: KeyUse(ONE, 20, "", 5), TWO: KeyUse(TWO, 5)})

    def test_writes_the_first_use_at_once_and_then_at_most_once_a_minute(self) -> None:
        self.usage.add([KeyUse(ONE, 1)], BOTH, 100)
        for now in range(101, 160):
            self.usage.add([KeyUse(ONE, now)], BOTH, now)
        self.assertEqual(self.file.load()[ONE].last_used, 1)
        self.usage.add([], BOTH, 160)
        self.assertEqual(self.file.load()[ONE].last_used, 159)
        self.usage.add([KeyUse(ONE, 161)], BOTH, 161)
        self.usage.save(162)
        self.assertEqual(self.file.load()[ONE].last_used, 161)

    def test_writes_nothing_without_use(self) -> None:
        self.usage.add([], BOTH, 0)
        self.usage.save(100)
        self.assertFalse(self.file.path.exists())

    def test_ignores_keys_that_are_not_this_desktops_and_forgets_revoked_ones(self) -> None:
        self.usage.add([KeyUse(ONE, 1), KeyUse("f" * 16, 1)], BOTH, 0)
        self.assertEqual(list(self.file.load()), [ONE])
        self.usage.add([KeyUse(TWO, 1)], frozenset((TWO,)), 100)
        self.assertEqual(list(self.file.load()), [TWO])

    def test_what_a_hostile_cloud_reports_of_other_keys_is_not_written(self) -> None:
        self.usage.add([KeyUse("f" * 16, 1)], BOTH, 0)
        self.assertFalse(self.file.path.exists())

    def test_counting_ends_at_a_limit_that_can_be_read_again(self) -> None:
        for now in (0, 100):
            self.usage.add([KeyUse(ONE, 1, "", MAX_REQUESTS)], BOTH, now)
        self.assertEqual(self.file.load()[ONE].requests, MAX_REQUESTS)

    def test_a_damaged_file_counts_as_empty(self) -> None:
        self.file.path.parent.mkdir(parents=True)
        for content in (b"", b"{", b"[1]", b"\xff"):
            self.file.path.write_bytes(content)
            self.assertEqual(self.file.load(), {})

    def test_a_folder_that_is_not_writable_is_logged(self) -> None:
        self.file.path.mkdir(parents=True)
        self.usage.add([KeyUse(ONE, 1)], BOTH, 0)
        self.usage.add([KeyUse(ONE, 2)], BOTH, 100)
