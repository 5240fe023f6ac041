"""Runs a coroutine in Twisted's reactor for the duration of a command."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ctllm.errors import CtllmError

#: The reactor. Its interfaces are zope's; callers state which they need.
Reactor = Any


def run_in_reactor(work: Callable[[Reactor], Coroutine[object, object, None]]) -> None:
    """Run `work(reactor)` until it is done. Raises the CtllmError that it raises."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    failures: list[CtllmError] = []

    async def guarded(reactor: Reactor) -> None:
        try:
            await work(reactor)
        except CtllmError as error:
            failures.append(error)

    try:
        react(lambda reactor: Deferred.fromCoroutine(guarded(reactor)))
    except SystemExit as ended:
        if failures:
            raise failures[0] from None
        if ended.code:
            raise
