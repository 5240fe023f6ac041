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
STEADY = 30.0
#: Seconds, at most, that a proxy which keeps failing is not started.
LONGEST_REST = 60.0
#: Seconds for which a failure is remembered.
MEMORY = 120.0


class State(Enum):
    """Where in its life a proxy is; the values are the labels of metrics."""

    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    LEAVING = "leaving"
    BREAKING = "breaking"
    FAILED = "failed"
    CLOSED = "closed"


class Event(Enum):
    """What can happen to it."""

    WANTED = "wanted"  # somebody asks for it
    READY = "ready"  # it answers
    CROWDED = "crowded"  # too many others were starting
    TOLD = "told"  # it is to leave: nobody uses it, or its user says so
    BROKE = "broke"  # it did not start, died, or hangs
    GONE = "gone"  # the runtime has removed all of it
    FORGOTTEN = "forgotten"  # its failure was long ago
    CLOSED = "closed"  # the cloud stops


NEXT: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.ABSENT, Event.WANTED): State.STARTING,
        (State.FAILED, Event.WANTED): State.STARTING,
        (State.STARTING, Event.READY): State.RUNNING,
        (State.STARTING, Event.CROWDED): State.ABSENT,
        (State.STARTING, Event.TOLD): State.LEAVING,
        (State.STARTING, Event.BROKE): State.BREAKING,
        (State.RUNNING, Event.TOLD): State.LEAVING,
        (State.RUNNING, Event.BROKE): State.BREAKING,
        (State.LEAVING, Event.GONE): State.ABSENT,
        (State.BREAKING, Event.GONE): State.FAILED,
        (State.FAILED, Event.FORGOTTEN): State.ABSENT,
        **{(state, Event.CLOSED): State.CLOSED for state in State if state is not State.CLOSED},
    }
)

#: In these the runtime has, or may have, something of it.
ALIVE = frozenset({State.STARTING, State.RUNNING, State.LEAVING, State.BREAKING})


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something happened: `reason` is a word for metrics, `said` goes on from "it"."""

    reason: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Happening:
    """An event and its cause."""

    event: Event
    cause: Cause = Cause("wanted")


class Backoff:
    """How long a proxy that fails again and again must rest: not at all, then 1, 2, 4 … 60 s."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    def failed(self, now: float, lived: float) -> None:
        """It failed after having `lived` for so many seconds."""
        self._failures = 1 if lived >= STEADY else self._failures + 1
        rest = 0.0 if self._failures < 2 else min(LONGEST_REST, 2.0 ** (self._failures - 2))
        self._until = now + rest

    def rest(self, now: float) -> int:
        """Give the whole seconds until it may be started again."""
        return max(0, math.ceil(self._until - now))
