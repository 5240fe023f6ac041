"""Deferreds: many waiters for one result, sleeping, and a timeout for a coroutine."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ctllm.reactor.interfaces import Clock

T = TypeVar("T")
U = TypeVar("U")


class Waiters(Generic[T]):
    """Deferreds that wait for the same result; each can be cancelled on its own."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[T]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self) -> Deferred[T]:
        """Return a Deferred of the next result."""
        waiter: Deferred[T] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def succeed(self, value: T) -> None:
        """Fire all that wait now with `value`."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(value)

    def fail(self, error: Exception) -> None:
        """Fail all that wait now with `error`."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(error)


def sleep(clock: Clock, seconds: float) -> Deferred[None]:
    """Return a Deferred that fires after `seconds`."""
    sleeping: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, sleeping.callback, None)
    return sleeping


async def wait_at_most(clock: Clock, timeout: float, running: Deferred[T]) -> T:
    """Return the result of `running`; raises TimeoutError after `timeout` s, and it goes on.

    What it results in later is dropped, errors included.
    """
    waiting: Deferred[T] = Deferred()

    def pass_on(result: T | Failure) -> None:
        if not waiting.called:
            waiting.callback(cast(T, result))

    running.addBoth(pass_on)
    return cast(T, await waiting.addTimeout(timeout, cast(IReactorTime, clock)))


async def run_together(
    first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]
) -> tuple[T, U]:
    """Run both coroutines at the same time; return their results when both have ended.

    Raises the exception of the first one that failed, when both have ended. Cancelling cancels
    both.
    """
    results: list[Any] = await run_all([first, second])
    return results[0], results[1]


async def run_all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at the same time; return their results when all have ended.

    Raises the exception of the first one that failed, when all have ended. Cancelling cancels all.
    """
    running = [Deferred.fromCoroutine(each) for each in coroutines]
    results: list[Any] = [result for _, result in await DeferredList(running, consumeErrors=True)]
    for result in results:
        if isinstance(result, Failure):
            result.raiseException()
    return results


async def run_with_timeout(clock: Clock, timeout: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of `coroutine`; cancel it and raise TimeoutError after `timeout` s."""
    running = Deferred.fromCoroutine(coroutine)
    return cast(T, await running.addTimeout(timeout, cast(IReactorTime, clock)))
