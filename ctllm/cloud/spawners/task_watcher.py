"""A watcher for tasks of a swarm that end, whose nodes die, or whose nodes are drained.

A manager of a swarm reports no events of containers on other nodes, so it is asked again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from ctllm.cloud.docker_api import SwarmClient, Task
from ctllm.cloud.spawners.interfaces import ExitObserver
from ctllm.common.exit_codes import OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE
from ctllm.reactor.deferred_tools import run_together
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicService

#: Seconds between two looks at the tasks.
POLL_INTERVAL = 2.0


class TaskWatcher(PeriodicService):
    """Calls `on_exit` once for each watched task that does not run any more.

    `label` selects the tasks. `on_look` is called after each look at watched tasks.
    """

    def __init__(
        self,
        docker: SwarmClient,
        clock: Clock,
        label: str,
        on_exit: ExitObserver,
        on_look: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(
            POLL_INTERVAL,
            lambda: Deferred.fromCoroutine(self._look()),
            clock,
            "Watching the tasks of the swarm",
        )
        self._docker, self._label = docker, label
        self._on_exit, self._on_look = on_exit, on_look
        self._watched: dict[str, str] = {}  # ids of tasks, by proxy

    @property
    def proxy_ids(self) -> frozenset[str]:
        """The proxies that are watched."""
        return frozenset(self._watched)

    def watch(self, proxy_id: str, task_id: str) -> None:
        """Watch the task of a proxy."""
        self._watched[proxy_id] = task_id

    def unwatch(self, proxy_id: str) -> None:
        """Do not report the end of a proxy's task, because it is about to be removed."""
        self._watched.pop(proxy_id, None)

    async def _look(self) -> None:
        """Report what has ended since the last look."""
        watched = dict(self._watched)
        if not watched:
            return
        tasks, ready_nodes = await read_tasks(self._docker, label=self._label)
        by_id = {each.id: each for each in tasks}
        for proxy_id, task_id in watched.items():
            reason = why_ended(by_id.get(task_id), ready_nodes)
            if reason and self._watched.get(proxy_id) == task_id:
                del self._watched[proxy_id]
                self._on_exit(proxy_id, reason)
        await self._on_look()


async def read_tasks(docker: SwarmClient, **filters: str) -> tuple[list[Task], frozenset[str]]:
    """Return the tasks that match filters, and the ids of the nodes that the swarm hears from."""
    tasks, nodes = await run_together(docker.list_tasks(**filters), docker.list_nodes())
    return tasks, frozenset(each.id for each in nodes if each.is_ready)


def why_ended(task: Task | None, ready_nodes: frozenset[str]) -> str:
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
