"""A watcher for tasks of a swarm that end, whose nodes die, or whose nodes are drained.

A manager of a swarm reports no events of containers on other nodes, so it is asked again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.docker_api import SwarmClient, Task
from ctllm.cloud.spawners.interfaces import ExitObserver
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.errors import CtllmError
from ctllm.reactor.deferred_tools import run_together, sleep
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service

#: Seconds between two looks at the tasks.
POLL_INTERVAL = 2.0


class TaskWatcher(Service):
    """Calls `on_exit` once for each watched task that does not run any more.

    `label` selects the tasks. `on_look` is called after each look at the tasks that run.
    """

    _log = Logger()

    def __init__(
        self,
        docker: SwarmClient,
        clock: Clock,
        label: str,
        on_exit: ExitObserver,
        on_look: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._docker, self._clock, self._label = docker, clock, label
        self._on_exit, self._on_look = on_exit, on_look
        self._watched: dict[str, str] = {}  # ids of tasks, by proxy
        self._polling: Deferred[None] | None = None

    @property
    def proxy_ids(self) -> frozenset[str]:
        """The proxies that are watched."""
        return frozenset(self._watched)

    def startService(self) -> None:
        """Start looking."""
        super().startService()
        self._polling = Deferred.fromCoroutine(self._poll())
        self._polling.addErrback(_ignore_cancellation)

    def stopService(self) -> None:
        """Stop looking."""
        super().stopService()
        if self._polling is not None:
            self._polling.cancel()

    def watch(self, proxy_id: str, task_id: str) -> None:
        """Watch the task of a proxy."""
        self._watched[proxy_id] = task_id

    def unwatch(self, proxy_id: str) -> None:
        """Do not report the end of a proxy's task, because it is about to be removed."""
        self._watched.pop(proxy_id, None)

    async def _poll(self) -> None:
        last_warning = ""
        while True:
            await sleep(self._clock, POLL_INTERVAL)
            try:
                await self._look()
                last_warning = ""
            except CtllmError as error:
                if error.message != last_warning:
                    self._log.warn("Cannot watch the swarm: {reason}", reason=error.message)
                last_warning = error.message
            except Exception:
                self._log.failure("Error while watching the swarm")

    async def _look(self) -> None:
        """Report what has ended since the last look."""
        watched = dict(self._watched)
        if not watched:
            return
        listed, nodes = await run_together(
            self._docker.list_tasks(label=self._label), self._docker.list_nodes()
        )
        tasks = {each.id: each for each in listed}
        ready = {each.id for each in nodes if each.is_ready}
        for proxy_id, task_id in watched.items():
            reason = why_ended(tasks.get(task_id), ready)
            if reason and self._watched.get(proxy_id) == task_id:
                del self._watched[proxy_id]
                # In another turn, because the observer sends requests to Docker.
                self._clock.callLater(0, self._on_exit, proxy_id, reason)
        await self._on_look()


def why_ended(task: Task | None, ready_nodes: set[str]) -> str:
    """Return why a task does not run any more, or an empty string if it does."""
    if task is None:
        return "its task was removed"
    if task.node_id not in ready_nodes:
        return "its node does not respond"
    if task.status.state == "running":
        return "" if task.desired_state == "running" else "its node is drained, or its task ends"
    if task.status.container_status.exit_code == OUT_OF_MEMORY:
        return OUT_OF_MEMORY_MESSAGE
    return f"its task is {task.status.state}: {task.status.err or task.status.message}"


def _ignore_cancellation(reason: Failure) -> None:
    trap(reason, CancelledError)
