"""`ctllm.cloud.identity.oidc.key_cache`: the keys of a provider, and the tokens that need them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity.oidc.key_cache import CONFIRM_TIMEOUT, KeyCache
from ctllm.cloud.identity.oidc.key_set import PublicKey
from ctllm.cloud.identity.oidc.provider_client import FetchedKeys
from ctllm.errors import BadGateway, ServiceUnavailable

ALGORITHM = "RS256"


def keys(*ids: str) -> FetchedKeys:
    return FetchedKeys(tuple(PublicKey(id, frozenset((ALGORITHM,)), None) for id in ids))


class KeyCacheCase(SynchronousTestCase):
    """A cache whose fetches the test answers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.fetches: list[Deferred[FetchedKeys]] = []
        self.known: list[FetchedKeys | None] = []
        self.began: list[float] = []
        self.cancelled = 0
        self.failures = 0
        self.compose()

    def compose(self, **limits: Any) -> None:
        self.cache = KeyCache("acme", self.fetch, self.clock, self.count_failure, **limits)

    async def fetch(self, known: FetchedKeys | None) -> FetchedKeys:
        def cancel(_: object) -> None:
            self.cancelled += 1

        self.known.append(known)
        self.began.append(self.clock.seconds())
        self.fetches.append(Deferred(cancel))
        return await self.fetches[-1]

    def count_failure(self) -> None:
        self.failures += 1

    def find(self, key_id: str | None = "a") -> Deferred[list[str | None]]:
        async def find() -> list[str | None]:
            return [key.id for key in await self.cache.find(key_id, ALGORITHM)]

        return Deferred.fromCoroutine(find())

    def answer(self, *ids: str) -> None:
        self.fetches.pop(0).callback(keys(*ids))

    def break_down(self, error: Exception | None = None) -> None:
        self.fetches.pop(0).errback(error or BadGateway("It is down."))

    def ready(self, *ids: str) -> None:
        """Let the cache have keys that were fetched now."""
        found = self.find("?")
        self.answer(*ids)
        self.assertEqual(self.successResultOf(found), [])
        self.began.clear()

    def unavailable(self, found: Deferred[Any]) -> ServiceUnavailable:
        failure = self.failureResultOf(found, ServiceUnavailable)
        assert isinstance(failure.value, ServiceUnavailable)
        return failure.value


class FetchTests(KeyCacheCase):
    def test_fetches_nothing_before_a_token_comes(self) -> None:
        self.clock.advance(3600)
        self.assertEqual(self.began, [])

    def test_one_fetch_is_for_all_who_wait(self) -> None:
        waiting = [self.find() for _ in range(100)]
        self.assertEqual(len(self.began), 1)
        self.answer("a", "b")
        for found in waiting:
            self.assertEqual(self.successResultOf(found), ["a"])
        self.assertEqual(self.successResultOf(self.find("b")), ["b"])
        self.assertEqual(len(self.began), 1)

    def test_a_fetch_that_ends_at_once_serves_the_token_that_began_it(self) -> None:
        async def fetch(known: FetchedKeys | None) -> FetchedKeys:
            return keys("a")

        self.cache = KeyCache("acme", fetch, self.clock)
        self.assertEqual(self.successResultOf(self.find()), ["a"])

    def test_in_use_the_keys_are_fetched_again_every_ten_seconds_without_waiting(self) -> None:
        self.ready("a")
        for _ in range(60):
            self.clock.advance(1)
            self.assertEqual(self.successResultOf(self.find()), ["a"])
            if self.fetches:
                self.answer("a")
        self.assertEqual(self.began, [1010, 1020, 1030, 1040, 1050, 1060])
        self.assertEqual(self.known[-1], keys("a"))

    def test_a_retired_key_is_valid_for_less_than_twenty_seconds(self) -> None:
        self.ready("a")
        self.clock.advance(10)
        self.assertEqual(self.successResultOf(self.find()), ["a"])
        self.answer("b")
        self.assertEqual(self.successResultOf(self.find()), [])

    def test_a_retired_key_is_not_valid_after_a_quiet_night(self) -> None:
        self.ready("a")
        self.clock.advance(8 * 3600)
        retired = self.find()
        self.assertNoResult(retired)
        self.answer("b")
        self.assertEqual(self.successResultOf(retired), [])

    def test_a_provider_may_retire_all_keys(self) -> None:
        self.ready("a")
        self.clock.advance(20)
        retired = self.find()
        self.answer()
        self.assertEqual(self.successResultOf(retired), [])


class RotationTests(KeyCacheCase):
    def test_a_new_key_is_found_at_once(self) -> None:
        self.ready("a")
        self.clock.advance(1)
        rotated = self.find("b")
        self.answer("a", "b")
        self.assertEqual(self.successResultOf(rotated), ["b"])

    def test_a_new_key_is_looked_for_again_if_the_fetch_began_before_the_token_came(self) -> None:
        found = self.find("a")
        self.clock.advance(1)
        rotated = self.find("b")
        self.answer("a")
        self.assertEqual(self.successResultOf(found), ["a"])
        self.assertNoResult(rotated)
        self.answer("a", "b")
        self.assertEqual(self.successResultOf(rotated), ["b"])

    def test_a_hundred_unknown_keys_force_one_fetch_and_wait_for_the_next_that_is_due(self) -> None:
        self.ready("a")
        self.clock.advance(1)
        first = [self.find(f"unknown-{number}") for number in range(50)]
        self.answer("a")
        for found in first:
            self.assertEqual(self.successResultOf(found), [])
        self.clock.advance(1)
        second = [self.find(f"unknown-{number}") for number in range(50, 100)]
        rotated = self.find("b")
        self.assertEqual(self.began, [1001])
        self.clock.advance(8.9)
        self.assertNoResult(rotated)
        self.clock.advance(0.1)
        self.assertEqual(self.began, [1001, 1011])
        self.answer("a", "b")
        self.assertEqual(self.successResultOf(rotated), ["b"])
        for found in second:
            self.assertEqual(self.successResultOf(found), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unknown_keys_without_an_end_cost_four_fetches_in_thirty_seconds(self) -> None:
        self.ready("a")
        self.clock.advance(1)
        for number in range(300):
            self.find(f"unknown-{number}").addErrback(lambda _: None)
            if self.fetches:
                self.answer("a")
            self.clock.advance(0.1)
            if self.fetches:
                self.answer("a")
        self.assertLessEqual(len(self.began), 4)

    def test_known_keys_do_not_wait_for_those_of_strangers(self) -> None:
        self.ready("a")
        self.clock.advance(1)
        self.find("unknown")
        self.assertEqual(self.successResultOf(self.find()), ["a"])

    def test_so_many_tokens_wait_and_others_are_told_when_to_come_back(self) -> None:
        self.compose(max_waiting=3)
        self.ready("a")
        self.clock.advance(1)
        waiting = [self.find(f"unknown-{number}") for number in range(3)]
        self.assertEqual(self.unavailable(self.find("b")).retry_after, 10)
        self.answer("a", "b")
        self.assertEqual(self.successResultOf(self.find("b")), ["b"])
        for found in waiting:
            self.successResultOf(found)

    def test_a_client_that_leaves_makes_room(self) -> None:
        self.compose(max_waiting=1)
        self.ready("a")
        self.clock.advance(1)
        waiting = self.find("b")
        waiting.cancel()
        self.failureResultOf(waiting)
        again = self.find("b")
        self.answer("b")
        self.assertEqual(self.successResultOf(again), ["b"])


class OutageTests(KeyCacheCase):
    def test_without_keys_a_provider_that_is_down_is_an_error_of_the_server(self) -> None:
        """Not a 401: the clients would be signed out."""
        found = self.find()
        self.break_down()
        error = self.unavailable(found)
        self.assertIn("acme does not respond", error.message)
        self.assertEqual(error.retry_after, 5)
        self.assertEqual(self.failures, 1)

    def test_after_a_failure_it_is_not_asked_for_five_seconds(self) -> None:
        found = self.find()
        self.break_down()
        self.unavailable(found)
        self.clock.advance(4)
        self.assertEqual(self.unavailable(self.find()).retry_after, 1)
        self.assertEqual(len(self.began), 1)
        self.clock.advance(1)
        found = self.find()
        self.answer("a")
        self.assertEqual(self.successResultOf(found), ["a"])

    def test_known_keys_are_used_for_a_day(self) -> None:
        self.ready("a")
        for hours in range(24):
            found = self.find()
            if self.fetches:
                self.break_down()
            self.assertEqual(self.successResultOf(found), ["a"], hours)
            self.clock.advance(3600)
        found = self.find()
        self.assertNoResult(found)
        self.break_down()
        self.unavailable(found)
        self.assertFalse(self.clock.getDelayedCalls())

    def test_a_slow_provider_delays_tokens_for_two_seconds_at_most(self) -> None:
        self.ready("a")
        self.clock.advance(20)
        first = self.find()
        self.clock.advance(1.5)
        second = self.find()
        self.assertNoResult(first)
        self.clock.advance(CONFIRM_TIMEOUT - 1.5)
        self.assertEqual(self.successResultOf(first), ["a"])
        self.assertEqual(self.successResultOf(second), ["a"])
        self.assertEqual(self.successResultOf(self.find()), ["a"])
        self.answer("b")
        self.assertEqual(self.successResultOf(self.find("b")), ["b"])

    def test_an_unknown_key_is_no_401_while_the_provider_is_down(self) -> None:
        self.ready("a")
        self.clock.advance(1)
        found = self.find("b")
        self.break_down()
        self.unavailable(found)
        self.assertEqual(self.unavailable(self.find("b")).retry_after, 5)
        self.assertEqual(self.successResultOf(self.find("a")), ["a"])

    def test_the_same_failure_is_logged_once(self) -> None:
        for error in (None, None, ValueError("a bug"), None):
            found = self.find()
            self.break_down(error)
            self.unavailable(found)
            self.clock.advance(5)
        self.assertEqual(self.failures, 4)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class StopTests(KeyCacheCase):
    def test_cancels_what_it_does(self) -> None:
        waiting = self.find()
        self.cache.stop()
        self.unavailable(waiting)
        self.assertEqual((self.cancelled, self.failures), (1, 0))
        self.unavailable(self.find())

    def test_cancels_what_is_due(self) -> None:
        self.ready("a")
        self.clock.advance(1)
        first = self.find("b")
        self.answer("a")
        self.successResultOf(first)
        self.clock.advance(1)
        waiting = self.find("b")
        self.assertTrue(self.clock.getDelayedCalls())
        self.cache.stop()
        self.unavailable(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])
