"""The states of a user's streaming proxy, and the backoff after failures.

`docs/proxy-states.dot` draws the table. An event that has no transition from the current state is
ignored: a proxy that exits while it is stopping is still stopping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

#: Seconds. A proxy that ran for longer did not fail because of its start.
STABLE_UPTIME = 30.0
#: Seconds. The longest delay before a proxy that fails repeatedly is started again.
MAX_BACKOFF = 60.0
#: Seconds for which a failure is remembered.
FAILURE_RETENTION = 120.0


class State(Enum):
    """The state of a proxy. The values are labels of a metric."""

    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    CLEANING_UP = "cleaning_up"  # it failed, and what is left of it is being removed
    FAILED = "failed"
    CLOSED = "closed"


class EventType(Enum):
    """What happens to a proxy."""

    REQUESTED = "requested"
    READY = "ready"  # its health check succeeds
    QUEUE_TIMED_OUT = "queue_timed_out"  # it waited too long for other proxies to start
    STOP_REQUESTED = "stop_requested"
    FAILED = "failed"  # it did not start, exited, or no longer responds
    REMOVED = "removed"  # the spawner has removed all of it
    FAILURE_EXPIRED = "failure_expired"
    CLOUD_STOPPED = "cloud_stopped"


TRANSITIONS: Mapping[tuple[State, EventType], State] = MappingProxyType(
    {
        (State.ABSENT, EventType.REQUESTED): State.STARTING,
        (State.FAILED, EventType.REQUESTED): State.STARTING,
        (State.STARTING, EventType.READY): State.RUNNING,
        (State.STARTING, EventType.QUEUE_TIMED_OUT): State.ABSENT,
        (State.STARTING, EventType.STOP_REQUESTED): State.STOPPING,
        (State.STARTING, EventType.FAILED): State.CLEANING_UP,
        (State.RUNNING, EventType.STOP_REQUESTED): State.STOPPING,
        (State.RUNNING, EventType.FAILED): State.CLEANING_UP,
        (State.STOPPING, EventType.REMOVED): State.ABSENT,
        (State.CLEANING_UP, EventType.REMOVED): State.FAILED,
        (State.FAILED, EventType.FAILURE_EXPIRED): State.ABSENT,
        **{
            (state, EventType.CLOUD_STOPPED): State.CLOSED
            for state in State
            if state is not State.CLOSED
        },
    }
)

#: States in which the spawner has, or may have, a process or a container of the proxy.
ACTIVE_STATES = frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.CLEANING_UP})


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an event happened.

    `reason` is a label of metrics and audit entries; `description` completes a sentence whose
    subject is the proxy.
    """

    reason: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a proxy and its cause."""

    type: EventType
    cause: Cause = Cause("requested")


class Backoff:
    """The delay before a proxy that failed is started again: 0, 1, 2, 4 … `MAX_BACKOFF` seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0

    def record_failure(self, now: float, uptime: float) -> None:
        """Record a failure at `now`, `uptime` seconds after the start."""
        self._failures = 1 if uptime >= STABLE_UPTIME else self._failures + 1
        delay = 0.0 if self._failures < 2 else min(MAX_BACKOFF, 2.0 ** (self._failures - 2))
        self._retry_at = now + delay

    @property
    def is_repeated(self) -> bool:
        """Whether the last failure followed another one soon."""
        return self._failures > 1

    def remaining(self, now: float) -> int:
        """Return the seconds until the next start is allowed, rounded up."""
        return max(0, math.ceil(self._retry_at - now))
