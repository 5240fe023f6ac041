"""Hears of the ends of containers: from the engine's events, and its list where it told none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.docker_api import DockerClient, DockerError, DockerEvent
from ctllm.cloud.spawners.container_spec import PROXY_LABEL
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service

#: Seconds until events are listened for again, once they have ended.
RECONNECT_DELAY = 2.0
#: Seconds by which the engine's clock may be behind ours: events that are told twice do no harm.
CLOCK_SKEW = 10.0
_EVENTS = ("die", "oom", "pause", "destroy")


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """A container that runs: its id, and the process id of its first process on its host."""

    id: str
    pid: int


class ExitWatcher(Service):
    """Calls `died` with a proxy's id and why, once for each that was `born` and died unasked.

    `label` is the one that all of them have; `now` gives epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        docker: DockerClient,
        clock: Clock,
        label: str,
        now: Callable[[], float],
        on_exit: Callable[[str, str], None],
    ) -> None:
        self._docker, self._clock, self._label = docker, clock, label
        self._now, self._on_exit = now, on_exit
        self.watched: dict[str, RunningContainer] = {}
        self._out_of_memory: set[str] = (
            set()
        )  # containers that wanted more memory than they may have
        self._following: Deferred[None] | None = None

    def startService(self) -> None:
        """Listen."""
        super().startService()
        self._following = Deferred.fromCoroutine(self._follow())
        self._following.addErrback(_ignore_cancellation)

    def stopService(self) -> None:
        """Listen no more."""
        super().stopService()
        if self._following is not None:
            self._following.cancel()

    def watch(self, proxy_id: str, container: RunningContainer) -> None:
        """It runs; hear of its end."""
        self.watched[proxy_id] = container

    def unwatch(self, proxy_id: str) -> None:
        """It is ended, as it was asked: that is no death."""
        container = self.watched.pop(proxy_id, None)
        if container is not None:
            self._out_of_memory.discard(container.id)

    async def _follow(self) -> None:
        last_warning = ""
        while True:
            try:
                await self._follow_events()
                last_warning = ""  # it was there: when it goes away again, that is news
            except CancelledError:
                raise
            except DockerError as error:
                if error.message != last_warning:
                    self._log.warn("{why}", why=error.message)
                last_warning = error.message
            except Exception:
                self._log.failure("hearing of deaths met a fault")
            await sleep(self._clock, RECONNECT_DELAY)

    async def _follow_events(self) -> None:
        """Look who died while nobody listened, then listen from just before that on."""
        filters = {"type": ["container"], "event": [*_EVENTS], "label": [self._label]}
        since = self._now() - CLOCK_SKEW
        await self._check_watched()
        await self._docker.follow_events(filters, since, self._handle_event)

    async def _check_watched(self) -> None:
        watched = dict(self.watched)
        if not watched:
            return
        states = {each.id: each.state for each in await self._docker.list_containers(self._label)}
        for proxy_id, living in watched.items():
            state = states.get(living.id, "not there any more")
            if state != "running" and self.watched.get(proxy_id) == living:
                del self.watched[proxy_id]
                self._notify(proxy_id, f"its container is {state}")

    def _handle_event(self, event: DockerEvent) -> None:
        proxy_id, container = event.attributes.get(PROXY_LABEL, ""), event.actor.id
        watched = self.watched.get(proxy_id)
        if watched is None or watched.id != container:
            return
        if event.action == "oom":
            self._out_of_memory.add(container)
            return
        del self.watched[proxy_id]
        self._notify(proxy_id, self._describe_exit(event, container))

    def _notify(self, proxy_id: str, reason: str) -> None:
        # Not from within the engine's answer: what follows asks the engine.
        self._clock.callLater(0, self._on_exit, proxy_id, reason)

    def _describe_exit(self, event: DockerEvent, container: str) -> str:
        if container in self._out_of_memory:
            self._out_of_memory.discard(container)
            return OUT_OF_MEMORY_MESSAGE
        if event.action == "pause":
            return "its container was paused"
        if event.action == "destroy":
            return "its container was removed"
        if event.attributes.get("exitCode") == str(OUT_OF_MEMORY):
            return OUT_OF_MEMORY_MESSAGE
        return f"its container exited with {event.attributes.get('exitCode', 'no word')}"


def _ignore_cancellation(reason: Failure) -> None:
    trap(reason, CancelledError)
