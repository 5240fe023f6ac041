"""`ctllm.cloud.spawners.uid_allocator`: user ids, and which processes may switch to them."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.uid_allocator import UidAllocator, can_switch_to
from ctllm.config import parse_uid_range
from ctllm.errors import BadConfiguration, ProxyUnavailable

RANGE = range(60706, 61184)


class UidAllocatorTests(SynchronousTestCase):
    def test_reserves_each_uid_once_and_reuses_released_ones_last(self) -> None:
        uids = UidAllocator(range(7, 10))
        self.assertEqual([uids.reserve(), uids.reserve()], [7, 8])
        uids.release(7)
        self.assertEqual([uids.reserve(), uids.reserve()], [9, 7])
        error = self.assertRaises(ProxyUnavailable, uids.reserve)
        self.assertIn("cloud.proxy_uids", error.message)

    def test_returns_none_without_uids(self) -> None:
        uids = UidAllocator(())
        uids.release(uids.reserve())
        self.assertEqual((uids.reserve(), uids.reserve()), (None, None))

    def test_uid_range_refuses_root_and_invalid_ranges(self) -> None:
        self.assertEqual(parse_uid_range("60706-61183"), RANGE)
        self.assertEqual((len(parse_uid_range("off")), len(parse_uid_range("7-7"))), (0, 1))
        for wrong in ("", "0-7", "8-7", "7", "a-b", "1-4294967295", "-1-7", "1-2-3"):
            self.assertRaises(BadConfiguration, parse_uid_range, wrong)


class CanSwitchToTests(SynchronousTestCase):
    def can_switch(
        self,
        capabilities: str,
        users: str = "0 0 4294967295",
        groups: str = "0 0 4294967295",
        euid: int = 0,
    ) -> bool:
        proc = Path(self.mktemp())
        proc.mkdir()
        (proc / "status").write_text(f"Name:\tpython\nCapEff:\t{capabilities}\n")
        (proc / "uid_map").write_text(f"{users}\n")
        (proc / "gid_map").write_text(f"{groups}\n")
        return can_switch_to(RANGE, proc, euid)

    def test_root_with_capabilities_and_mappings_can_switch(self) -> None:
        self.assertTrue(self.can_switch("000001ffffffffff", "0 0 4294967295"))
        self.assertTrue(self.can_switch("000001ffffffffff", "0 100000 65536"))

    def test_root_without_capabilities_or_mappings_cannot_switch(self) -> None:
        self.assertFalse(self.can_switch("0000000000000000", "0 0 4294967295"))
        self.assertFalse(self.can_switch("000001ffffffffff", "0 1000 1"))
        self.assertFalse(self.can_switch("000001ffffffffff", "0 0 4294967295", "0 1000 1"))

    def test_other_users_cannot_switch(self) -> None:
        self.assertFalse(self.can_switch("000001ffffffffff", euid=1000))
        self.assertFalse(can_switch_to((), euid=0))
