"""Runs what takes a reactor, for the length of a command."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ctllm.errors import CtllmError


def run_in_reactor(work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run `work`, which is given the reactor, to its end; raises CtllmError as that does."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    failures: list[CtllmError] = []

    async def guarded(reactor: Any) -> None:
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
