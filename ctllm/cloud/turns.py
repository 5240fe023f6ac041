"""How many proxies start at once: each start takes a turn, and gives it back."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import DeferredSemaphore

from ctllm.http.faces import Clock, Timer

#: Seconds after which a start, or what was found running and does not answer, keeps nobody waiting.
SLOW = 3.0


class Turns:
    """So many turns at once. One that is held for longer than `slow` seconds does not count."""

    def __init__(self, clock: Clock, count: int, slow: float = SLOW) -> None:
        self._clock, self._slow = clock, slow
        self._free = DeferredSemaphore(count)

    async def take(self) -> Callable[[], None]:
        """Wait for a turn; gives what gives it back, as often as it is called. May be cancelled."""
        await self._free.acquire()
        held: list[Timer] = []

        def give() -> None:
            if held:
                timer = held.pop()
                if timer.active():
                    timer.cancel()
                self._free.release()

        held.append(self._clock.callLater(self._slow, give))
        return give
