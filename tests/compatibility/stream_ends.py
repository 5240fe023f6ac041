"""Markers by which clients recognise a complete streamed response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.compatibility.clients import Client
from tests.compatibility.driver import client_calls

#: In a stream's chunks, as clients return them; they do not return `[DONE]`.
_END_MARKERS = (
    '"done": true',
    '"status": "success"',
    '"finish_reason": "stop"',
    '"finish_reason": "length"',
    '"type": "response.completed"',
    '"type": "message_stop"',
)


def is_complete(chunks: Sequence[Any]) -> bool:
    """Return whether a chunk marks the response as complete."""
    text = json.dumps(chunks)
    return any(mark in text for mark in _END_MARKERS)


def streamed_calls(client: Client) -> list[str]:
    """Return the streamed calls of a client."""
    return [call for call in client_calls(client) if call.endswith(" streamed")]
