"""The cache whose entries expire."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.ttl_cache import TtlCache


class TtlCacheTests(SynchronousTestCase):
    """Expiry and size."""

    def setUp(self) -> None:
        self.time = 0.0
        self.recent: TtlCache[str, int] = TtlCache(2, lambda: self.time)

    def test_removes_an_expired_entry(self) -> None:
        self.recent.put("a", 1, 10)
        self.time = 9.9
        self.assertEqual(self.recent.get("a"), 1)
        self.time = 10
        self.assertIsNone(self.recent.get("a"))
        self.assertEqual(len(self.recent), 0)

    def test_removes_the_least_recently_used_entry(self) -> None:
        self.recent.put("a", 1, 10)
        self.recent.put("b", 2, 10)
        self.recent.get("a")
        self.recent.put("c", 3, 10)
        self.assertEqual([self.recent.get(key) for key in "abc"], [1, None, 3])
