"""The life of one user's streaming proxy as a table, and how long a failing one must rest.

    ABSENT --wanted--> STARTING --ready--> RUNNING
    STARTING --crowded--> ABSENT                        no turn to start came in time
    STARTING, RUNNING --told--> LEAVING --gone--> ABSENT
    STARTING, RUNNING --broke--> BREAKING --gone--> FAILED --wanted--> STARTING
                                                    FAILED --forgotten--> ABSENT
    any --closed--> CLOSED                              the cloud stops; the rest is the runtime's

What the table does not name changes nothing: a proxy that dies while it leaves, leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

#: A proxy that lived for so many seconds did not die of how it was started.
STABLE_UPTIME = 30.0
#: Seconds, at most, that a proxy which keeps failing is not started.
MAX_BACKOFF = 60.0
#: Seconds for which a failure is remembered.
FAILURE_RETENTION = 120.0


class State(Enum):
    """Where in its life a proxy is; the values are the labels of metrics."""

    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "leaving"
    CLEANING_UP = "breaking"
    FAILED = "failed"
    CLOSED = "closed"


class EventType(Enum):
    """What can happen to it."""

    REQUESTED = "wanted"  # somebody asks for it
    READY = "ready"  # it answers
    QUEUE_TIMED_OUT = "crowded"  # too many others were starting
    STOP_REQUESTED = "told"  # it is to leave: nobody uses it, or its user says so
    FAILED = "broke"  # it did not start, died, or hangs
    REMOVED = "gone"  # the runtime has removed all of it
    FAILURE_EXPIRED = "forgotten"  # its failure was long ago
    CLOUD_STOPPED = "closed"  # the cloud stops


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

#: In these the runtime has, or may have, something of it.
ACTIVE_STATES = frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.CLEANING_UP})


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something happened: `reason` is a word for metrics, `said` goes on from "it"."""

    reason: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """An event and its cause."""

    type: EventType
    cause: Cause = Cause("wanted")


class Backoff:
    """How long a proxy that fails again and again must rest: not at all, then 1, 2, 4 … 60 s."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0

    def record_failure(self, now: float, uptime: float) -> None:
        """It failed after having `lived` for so many seconds."""
        self._failures = 1 if uptime >= STABLE_UPTIME else self._failures + 1
        delay = 0.0 if self._failures < 2 else min(MAX_BACKOFF, 2.0 ** (self._failures - 2))
        self._retry_at = now + delay

    def remaining(self, now: float) -> int:
        """Give the whole seconds until it may be started again."""
        return max(0, math.ceil(self._retry_at - now))
