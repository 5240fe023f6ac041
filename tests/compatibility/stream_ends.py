"""How each client is told that an answer is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.compatibility.clients import Client
from tests.compatibility.driver import client_calls

#: In the pieces of a stream, as the clients give them; `[DONE]` they keep to themselves.
_END_MARKERS = (
    '"done": true',
    '"status": "success"',
    '"finish_reason": "stop"',
    '"finish_reason": "length"',
    '"type": "response.completed"',
    '"type": "message_stop"',
)


def is_complete(chunks: Sequence[Any]) -> bool:
    """Whether any of these says that the answer is whole."""
    text = json.dumps(chunks)
    return any(mark in text for mark in _END_MARKERS)


def streamed_calls(client: Client) -> list[str]:
    """The calls of a client that give an answer piece by piece."""
    return [call for call in client_calls(client) if call.endswith(" streamed")]
