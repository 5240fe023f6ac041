"""How each client is told that an answer is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.compatibility.clients import Client
from tests.compatibility.driving import calls_of

#: In the pieces of a stream, as the clients give them; `[DONE]` they keep to themselves.
_MARKS = (
    '"done": true',
    '"status": "success"',
    '"finish_reason": "stop"',
    '"finish_reason": "length"',
    '"type": "response.completed"',
    '"type": "message_stop"',
)


def ended(pieces: Sequence[Any]) -> bool:
    """Whether any of these says that the answer is whole."""
    said = json.dumps(pieces)
    return any(mark in said for mark in _MARKS)


def streams_of(client: Client) -> list[str]:
    """The calls of a client that give an answer piece by piece."""
    return [call for call in calls_of(client) if call.endswith(" streamed")]
