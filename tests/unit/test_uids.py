"""Which user a streaming proxy runs as."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.spawners.uid_allocator import UidAllocator, can_switch_to
from ctllm.config import parse_uid_range
from ctllm.errors import BadConfiguration, ProxyUnavailable

RANGE = range(60706, 61184)


class UidTests(SynchronousTestCase):
    """A range of three."""

    def test_each_to_one(self) -> None:
        """Then none; what comes back is given last."""
        uids = UidAllocator(range(7, 10))
        self.assertEqual([uids.reserve(), uids.reserve()], [7, 8])
        uids.release(7)
        self.assertEqual([uids.reserve(), uids.reserve()], [9, 7])
        error = self.assertRaises(ProxyUnavailable, uids.reserve)
        self.assertIn("cloud.proxy_uids", error.message)

    def test_none(self) -> None:
        """Where proxies are of the cloud's user, as many as it likes."""
        uids = UidAllocator(())
        uids.release(uids.reserve())
        self.assertEqual((uids.reserve(), uids.reserve()), (None, None))

    def test_range(self) -> None:
        """What the configuration takes: never root."""
        self.assertEqual(parse_uid_range("60706-61183"), RANGE)
        self.assertEqual((len(parse_uid_range("off")), len(parse_uid_range("7-7"))), (0, 1))
        for wrong in ("", "0-7", "8-7", "7", "a-b", "1-4294967295", "-1-7", "1-2-3"):
            self.assertRaises(BadConfiguration, parse_uid_range, wrong)


class MayTests(SynchronousTestCase):
    """Roots of several kinds, as /proc tells of them."""

    def may(self, capabilities: str, users: str, groups: str = "0 0 4294967295") -> bool:
        proc = Path(self.mktemp())
        proc.mkdir()
        (proc / "status").write_text(f"Name:\tpython\nCapEff:\t{capabilities}\n")
        (proc / "uid_map").write_text(f"{users}\n")
        (proc / "gid_map").write_text(f"{groups}\n")
        return can_switch_to(RANGE, proc)

    def test_root(self) -> None:
        """One that may all, and one in a user namespace with as many users as there were once."""
        self.patch(os, "geteuid", lambda: 0)
        self.assertTrue(self.may("000001ffffffffff", "0 0 4294967295"))
        self.assertTrue(self.may("000001ffffffffff", "0 100000 65536"))

    def test_root_that_is_none(self) -> None:
        """Without capabilities, or without such users or groups."""
        self.patch(os, "geteuid", lambda: 0)
        self.assertFalse(self.may("0000000000000000", "0 0 4294967295"))
        self.assertFalse(self.may("000001ffffffffff", "0 1000 1"))
        self.assertFalse(self.may("000001ffffffffff", "0 0 4294967295", "0 1000 1"))

    def test_others(self) -> None:
        """Whoever is not root, and who wants no users."""
        self.patch(os, "geteuid", lambda: 1000)
        self.assertFalse(self.may("000001ffffffffff", "0 0 4294967295"))
        self.patch(os, "geteuid", lambda: 0)
        self.assertFalse(can_switch_to(()))
