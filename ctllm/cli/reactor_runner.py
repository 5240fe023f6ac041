"""Runs a coroutine in Twisted's reactor for the duration of a command."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ctllm.errors import CtllmError

#: The reactor. Its interfaces are zope's; callers state which they need.
Reactor = Any
#: The exit status after Ctrl-C, as of a shell.
INTERRUPTED = 130


def run_in_reactor(work: Callable[[Reactor], Coroutine[object, object, None]]) -> None:
    """Run `work(reactor)` until it is done. Raises the CtllmError that it raises.

    Ctrl-C cancels it, and exits with the status of an interrupted command.
    """
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.internet.task import react

    failures: list[CtllmError] = []
    interruptions: list[bool] = []

    async def guarded(reactor: Reactor) -> None:
        try:
            await work(reactor)
        except CtllmError as error:
            failures.append(error)
        except CancelledError:
            if not interruptions:
                raise

    def start(reactor: Reactor) -> Deferred[None]:
        running = Deferred.fromCoroutine(guarded(reactor))

        def interrupt() -> Deferred[None] | None:
            if running.called:
                return None
            interruptions.append(True)
            running.cancel()
            return running

        reactor.addSystemEventTrigger("before", "shutdown", interrupt)
        return running

    try:
        react(start)
    except SystemExit as ended:
        if failures:
            raise failures[0] from None
        if interruptions:
            raise SystemExit(INTERRUPTED) from None
        if ended.code:
            raise
