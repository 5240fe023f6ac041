"""Hears of the ends of containers: from the engine's events, and its list where it told none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.docker_api import DockerClient, EngineRefused, Happened
from ctllm.cloud.spawners.container_spec import PROXY
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service

#: Seconds until events are listened for again, once they have ended.
AGAIN = 2.0
#: Seconds by which the engine's clock may be behind ours: events that are told twice do no harm.
SKEW = 10.0
_EVENTS = ("die", "oom", "pause", "destroy")


@dataclass(frozen=True, slots=True)
class Living:
    """A container that runs: its id, and the process id of its first process on its host."""

    container: str
    pid: int


class Deaths(Service):
    """Calls `died` with a proxy's id and why, once for each that was `born` and died unasked.

    `label` is the one that all of them have; `now` gives epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        engine: DockerClient,
        clock: Clock,
        label: str,
        now: Callable[[], float],
        died: Callable[[str, str], None],
    ) -> None:
        self._engine, self._clock, self._label = engine, clock, label
        self._now, self._died = now, died
        self.living: dict[str, Living] = {}
        self._starved: set[str] = set()  # containers that wanted more memory than they may have
        self._hearing: Deferred[None] | None = None

    def startService(self) -> None:
        """Listen."""
        super().startService()
        self._hearing = Deferred.fromCoroutine(self._hear())
        self._hearing.addErrback(_cancelled)

    def stopService(self) -> None:
        """Listen no more."""
        super().stopService()
        if self._hearing is not None:
            self._hearing.cancel()

    def born(self, proxy_id: str, living: Living) -> None:
        """It runs; hear of its end."""
        self.living[proxy_id] = living

    def forget(self, proxy_id: str) -> None:
        """It is ended, as it was asked: that is no death."""
        living = self.living.pop(proxy_id, None)
        if living is not None:
            self._starved.discard(living.container)

    async def _hear(self) -> None:
        said = ""
        while True:
            try:
                await self._listen()
                said = ""  # it was there: when it goes away again, that is news
            except CancelledError:
                raise
            except EngineRefused as error:
                if error.message != said:
                    self._log.warn("{why}", why=error.message)
                said = error.message
            except Exception:
                self._log.failure("hearing of deaths met a fault")
            await sleep(self._clock, AGAIN)

    async def _listen(self) -> None:
        """Look who died while nobody listened, then listen from just before that on."""
        filters = {"type": ["container"], "event": [*_EVENTS], "label": [self._label]}
        since = self._now() - SKEW
        await self._count()
        await self._engine.events(filters, since, self._heard)

    async def _count(self) -> None:
        before = dict(self.living)
        if not before:
            return
        states = {each.id: each.state for each in await self._engine.containers(self._label)}
        for proxy_id, living in before.items():
            state = states.get(living.container, "not there any more")
            if state != "running" and self.living.get(proxy_id) == living:
                del self.living[proxy_id]
                self._tell(proxy_id, f"its container is {state}")

    def _heard(self, happened: Happened) -> None:
        proxy_id, container = happened.attributes.get(PROXY, ""), happened.actor.id
        living = self.living.get(proxy_id)
        if living is None or living.container != container:
            return
        if happened.action == "oom":
            self._starved.add(container)
            return
        del self.living[proxy_id]
        self._tell(proxy_id, self._why(happened, container))

    def _tell(self, proxy_id: str, reason: str) -> None:
        # Not from within the engine's answer: what follows asks the engine.
        self._clock.callLater(0, self._died, proxy_id, reason)

    def _why(self, happened: Happened, container: str) -> str:
        if container in self._starved:
            self._starved.discard(container)
            return OUT_OF_MEMORY_MESSAGE
        if happened.action == "pause":
            return "its container was paused"
        if happened.action == "destroy":
            return "its container was removed"
        if happened.attributes.get("exitCode") == str(OUT_OF_MEMORY):
            return OUT_OF_MEMORY_MESSAGE
        return f"its container exited with {happened.attributes.get('exitCode', 'no word')}"


def _cancelled(reason: Failure) -> None:
    trap(reason, CancelledError)
