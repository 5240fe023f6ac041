"""The states of a server's connection, as a table; docs/http-connection.svg is its drawing.

The table is a plain mapping and not an automat machine: a request takes four transitions, each of
which would cost 10 microseconds there, and automat takes 230 kB of each streaming proxy.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What a connection does."""

    ACCEPTED = "accepted"  # waits for its first request
    IDLE = "idle"  # waits for its next request
    READING_HEAD = "reading_head"  # has a part of a request's head
    STALLED = "stalled"  # timed out while the client still reads the last response
    QUEUED = "queued"  # has a request's head, which waits for the throttle
    RESPONDING = "responding"  # has a request that is being handled
    LINGERING = "lingering"  # closed for writing, while the client still sends
    BREAKING_OFF = "breaking_off"  # sends the error that ends a broken response
    CLOSING = "closing"  # closes once its write buffer is sent
    UPGRADED = "upgraded"  # belongs to another protocol
    CLOSED = "closed"


class Event(StrEnum):
    """What leads from one state to another."""

    HEAD_STARTED = "head_started"
    HEAD_COMPLETED = "head_completed"
    REQUEST_STARTED = "request_started"
    RESPONSE_FINISHED = "response_finished"  # and the connection can be used again
    REQUEST_REFUSED = "request_refused"  # what follows on the connection cannot be read
    BODY_UNREAD = "body_unread"  # the response is finished, the request's body is not
    RESPONSE_BROKEN = "response_broken"
    WRITE_STALLED = "write_stalled"
    WRITE_RESUMED = "write_resumed"
    CLOSE = "close"
    ABORT = "abort"
    UPGRADE = "upgrade"
    CONNECTION_LOST = "connection_lost"


_WAITING_FOR_REQUEST = {
    Event.HEAD_STARTED: State.READING_HEAD,
    Event.HEAD_COMPLETED: State.QUEUED,
    Event.REQUEST_REFUSED: State.LINGERING,
    Event.WRITE_STALLED: State.STALLED,
    Event.CLOSE: State.CLOSING,
    Event.ABORT: State.CLOSED,
    Event.CONNECTION_LOST: State.CLOSED,
}

#: For each state, the state that each event leads to. Any other event changes nothing.
TABLE: dict[State, dict[Event, State]] = {
    State.ACCEPTED: _WAITING_FOR_REQUEST,
    State.IDLE: _WAITING_FOR_REQUEST,
    State.READING_HEAD: {
        Event.HEAD_COMPLETED: State.QUEUED,
        Event.REQUEST_REFUSED: State.LINGERING,
        Event.WRITE_STALLED: State.STALLED,
        Event.CLOSE: State.CLOSING,
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.STALLED: {
        Event.WRITE_RESUMED: State.IDLE,
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.QUEUED: {
        Event.REQUEST_STARTED: State.RESPONDING,
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.RESPONDING: {
        Event.RESPONSE_FINISHED: State.IDLE,
        Event.BODY_UNREAD: State.LINGERING,
        Event.REQUEST_REFUSED: State.LINGERING,
        Event.RESPONSE_BROKEN: State.BREAKING_OFF,
        Event.CLOSE: State.CLOSING,
        Event.UPGRADE: State.UPGRADED,
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.LINGERING: {
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.BREAKING_OFF: {
        Event.CLOSE: State.CLOSING,
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.CLOSING: {
        Event.ABORT: State.CLOSED,
        Event.CONNECTION_LOST: State.CLOSED,
    },
    State.UPGRADED: {},
    State.CLOSED: {},
}

#: The states in which requests are read and served.
OPEN_STATES = frozenset(
    (
        State.ACCEPTED,
        State.IDLE,
        State.READING_HEAD,
        State.STALLED,
        State.QUEUED,
        State.RESPONDING,
    )
)
