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

    def test_does_not_keep_what_has_expired_until_it_is_full(self) -> None:
        cache: TtlCache[int, int] = TtlCache(1000, lambda: self.time)
        for self.time in range(1000):
            cache.put(int(self.time), 0, self.time + 10)
            self.assertLessEqual(len(cache), 10)

    def test_an_expired_value_behind_a_valid_one_goes_when_that_expires(self) -> None:
        cache: TtlCache[str, int] = TtlCache(1000, lambda: self.time)
        cache.put("used", 0, 10)
        self.time = 5
        cache.put("unused", 0, 15)
        self.time = 9
        cache.get("used")
        self.time = 14
        cache.put("a", 0, 24)
        self.assertEqual(len(cache), 3)
        self.time = 15
        cache.put("b", 0, 25)
        self.assertEqual(len(cache), 2)
