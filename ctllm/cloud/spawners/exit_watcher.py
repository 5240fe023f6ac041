"""A watcher for containers that exit.

It follows Docker's events, and lists the containers whenever it may have missed some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.docker_api import DockerClient, DockerError, DockerEvent
from ctllm.cloud.spawners.interfaces import ExitObserver
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service

#: Seconds until the watcher follows the events again after the connection was lost.
RECONNECT_DELAY = 2.0
#: Seconds by which Docker's clock may be behind ours. Events that arrive twice do no harm.
CLOCK_SKEW = 10.0
_EVENTS = ("die", "oom", "pause", "destroy")


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """The id of a container, and the process id of its first process on Docker's host."""

    id: str
    pid: int


class ExitWatcher(Service):
    """Calls `on_exit` once for each watched container that exits.

    `label` selects the containers. `now` returns epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        docker: DockerClient,
        clock: Clock,
        label: str,
        now: Callable[[], float],
        on_exit: ExitObserver,
    ) -> None:
        self._docker, self._clock, self._label = docker, clock, label
        self._now, self._on_exit = now, on_exit
        self.watched: dict[str, RunningContainer] = {}
        self._out_of_memory: set[str] = set()
        self._following: Deferred[None] | None = None

    def startService(self) -> None:
        """Start following events."""
        super().startService()
        self._following = Deferred.fromCoroutine(self._follow())
        self._following.addErrback(_ignore_cancellation)

    def stopService(self) -> None:
        """Stop following events."""
        super().stopService()
        if self._following is not None:
            self._following.cancel()

    def watch(self, proxy_id: str, container: RunningContainer) -> None:
        """Watch the container of a proxy."""
        self.watched[proxy_id] = container

    def rename(self, old: str, new: str) -> None:
        """Watch a container as that of another proxy."""
        self.watched[new] = self.watched.pop(old)

    def unwatch(self, proxy_id: str) -> None:
        """Do not report the exit of a proxy's container, because it is about to be stopped."""
        container = self.watched.pop(proxy_id, None)
        if container is not None:
            self._out_of_memory.discard(container.id)

    async def _follow(self) -> None:
        last_warning = ""
        while True:
            try:
                await self._follow_events()
                last_warning = ""  # Docker was there, so its next failure is logged again
            except CancelledError:
                raise
            except DockerError as error:
                if error.message != last_warning:
                    self._log.warn("Cannot follow Docker's events: {reason}", reason=error.message)
                last_warning = error.message
            except Exception:
                self._log.failure("Error while following Docker's events")
            await sleep(self._clock, RECONNECT_DELAY)

    async def _follow_events(self) -> None:
        """Check the watched containers, then follow the events since just before the check."""
        filters = {"type": ["container"], "event": [*_EVENTS], "label": [self._label]}
        since = self._now() - CLOCK_SKEW
        await self._check_watched()
        await self._docker.follow_events(filters, since, self._handle_event)

    async def _check_watched(self) -> None:
        watched = dict(self.watched)
        if not watched:
            return
        states = {each.id: each.state for each in await self._docker.list_containers(self._label)}
        for proxy_id, container in watched.items():
            state = states.get(container.id)
            if state != "running" and self.watched.get(proxy_id) == container:
                del self.watched[proxy_id]
                self._notify(
                    proxy_id, f"its container is {state}" if state else "its container is gone"
                )

    def _handle_event(self, event: DockerEvent) -> None:
        container_id = event.actor.id
        # Not by the label: a container that waited has that of nobody.
        watched = (name for name, each in self.watched.items() if each.id == container_id)
        proxy_id = next(watched, None)
        if proxy_id is None:
            return
        if event.action == "oom":
            self._out_of_memory.add(container_id)
            return
        del self.watched[proxy_id]
        self._notify(proxy_id, self._describe_exit(event, container_id))

    def _notify(self, proxy_id: str, reason: str) -> None:
        # In another turn, because the observer sends requests to Docker.
        self._clock.callLater(0, self._on_exit, proxy_id, reason)

    def _describe_exit(self, event: DockerEvent, container_id: str) -> str:
        if container_id in self._out_of_memory:
            self._out_of_memory.discard(container_id)
            return OUT_OF_MEMORY_MESSAGE
        if event.action == "pause":
            return "its container was paused"
        if event.action == "destroy":
            return "its container was removed"
        exit_code = event.attributes.get("exitCode")
        if exit_code == str(OUT_OF_MEMORY):
            return OUT_OF_MEMORY_MESSAGE
        return f"its container exited with code {exit_code or 'unknown'}"


def _ignore_cancellation(reason: Failure) -> None:
    trap(reason, CancelledError)
