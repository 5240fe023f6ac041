"""The states of a generation's reader, as a table.

The table is a plain mapping and not an automat machine: the state is read for every token, and a
sink pauses and resumes the response while it is written to, which takes effect at once.
"""

from __future__ import annotations

from enum import StrEnum


class ReaderState(StrEnum):
    """What a reader does."""

    REQUESTING = "requesting"  # its request is not complete, so nothing is sent
    HELD = "held"  # likewise, and the response is paused
    FOLLOWING = "following"  # everything so far was sent, and what arrives is sent at once
    SENDING = "sending"  # is being sent what there is
    STALLED = "stalled"  # was paused by what it is being sent
    PAUSED = "paused"
    LEFT = "left"  # is sent nothing more


class ReaderEvent(StrEnum):
    """What leads from one state to another."""

    REQUEST_COMPLETED = "request_completed"
    SEND = "send"  # begin to send
    SENT = "sent"  # everything, or until the response was paused
    PAUSE = "pause"
    RESUME = "resume"
    LEAVE = "leave"


#: For each state, the state that each event leads to. Any other event changes nothing.
TABLE: dict[ReaderState, dict[ReaderEvent, ReaderState]] = {
    ReaderState.REQUESTING: {
        ReaderEvent.REQUEST_COMPLETED: ReaderState.FOLLOWING,
        ReaderEvent.PAUSE: ReaderState.HELD,
        ReaderEvent.LEAVE: ReaderState.LEFT,
    },
    ReaderState.HELD: {
        ReaderEvent.REQUEST_COMPLETED: ReaderState.PAUSED,
        ReaderEvent.RESUME: ReaderState.REQUESTING,
        ReaderEvent.LEAVE: ReaderState.LEFT,
    },
    ReaderState.FOLLOWING: {
        ReaderEvent.SEND: ReaderState.SENDING,
        ReaderEvent.PAUSE: ReaderState.PAUSED,
        ReaderEvent.LEAVE: ReaderState.LEFT,
    },
    ReaderState.SENDING: {
        ReaderEvent.SENT: ReaderState.FOLLOWING,
        ReaderEvent.PAUSE: ReaderState.STALLED,
        ReaderEvent.LEAVE: ReaderState.LEFT,
    },
    ReaderState.STALLED: {
        ReaderEvent.SENT: ReaderState.PAUSED,
        ReaderEvent.RESUME: ReaderState.SENDING,
        ReaderEvent.LEAVE: ReaderState.LEFT,
    },
    ReaderState.PAUSED: {
        ReaderEvent.SEND: ReaderState.STALLED,  # the head of the response is not held up
        ReaderEvent.RESUME: ReaderState.FOLLOWING,
        ReaderEvent.LEAVE: ReaderState.LEFT,
    },
    ReaderState.LEFT: {},
}
