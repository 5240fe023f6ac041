"""Waiting: many for one outcome, for a while, and no longer than so long."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred

from ctllm.reactor.interfaces import Clock

T = TypeVar("T")


class Waiters(Generic[T]):
    """Those who wait for one outcome; each may give up without troubling the others."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[T]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self) -> Deferred[T]:
        """Wait; cancel what this gives to wait no more."""
        one: Deferred[T] = Deferred(self._waiting.remove)
        self._waiting.append(one)
        return one

    def succeed(self, value: T) -> None:
        """Give `value` to all who wait now."""
        everyone, self._waiting = self._waiting, []
        for one in everyone:
            one.callback(value)

    def fail(self, error: Exception) -> None:
        """Raise `error` in all who wait now."""
        everyone, self._waiting = self._waiting, []
        for one in everyone:
            one.errback(error)


def sleep(clock: Clock, seconds: float) -> Deferred[None]:
    """Wait for `seconds`; cancelling leaves no timer."""
    awake: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, awake.callback, None)
    return awake


async def run_with_timeout(clock: Clock, timeout: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Do it, but cancel it and raise `defer.TimeoutError` after `seconds`."""
    working = Deferred.fromCoroutine(coroutine)
    return cast(T, await working.addTimeout(timeout, cast(Any, clock)))
