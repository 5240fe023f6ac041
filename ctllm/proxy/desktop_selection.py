"""Which of a user's desktops gets a request."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ctllm.ollama.api import canonical
from ctllm.tunnel.frames import Desktop, Status
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.websocket.protocols import ProxyWebSocket

#: Seconds for which a desktop whose models were just changed may have more than it told.
NEWS = 5.0


@dataclass
class ConnectedDesktop:
    """One desktop: its end of the tunnel here, and the socket it is on now, if any."""

    desktop: Desktop
    opener: Initiator
    socket: ProxyWebSocket | None = None
    since: float = 0.0
    changed: float = -math.inf  # when an exchange ended that may have changed its models
    _read: Status | None = None
    _models: frozenset[str] = field(default_factory=frozenset)

    @property
    def merit(self) -> int:
        """What its Ollama is worth: a real one more than a demo, and that more than none."""
        status = self.opener.status
        return {"up": 2, "demo": 1}.get(status.ollama if status else "", 0)

    def has(self, model: str) -> bool:
        """Whether it told of `model`, by whichever of its names."""
        status = self.opener.status
        if status is not self._read:
            self._read = status
            self._models = frozenset(map(canonical, status.models if status else ()))
        return canonical(model) in self._models

    def described(self, now: float) -> dict[str, Any]:
        """It for the API: who, since when (seconds ago), its Ollama, its models."""
        status = self.opener.status
        return {
            "id": self.desktop.id,
            "name": self.desktop.name,
            "connected": True,
            "since": round(now - self.since, 1),
            "ollama": status.ollama if status else "down",
            "version": status.version if status else "",
            "models": list(status.models) if status else [],
            "exchanges": len(self.opener.exchanges),
        }


def by_preference(meetings: Iterable[ConnectedDesktop]) -> list[ConnectedDesktop]:
    """Those connected, the best first: real Ollama before demo before none, then the newest."""
    here = [meeting for meeting in meetings if meeting.opener.up]
    return sorted(here, key=lambda meeting: (meeting.merit, meeting.since), reverse=True)


def holder(preferred: list[ConnectedDesktop], model: str, now: float) -> ConnectedDesktop:
    """The one of `preferred`, which is not empty, that should be asked for `model`.

    Of several that have it, the one with the fewest exchanges of those that are equally good. If
    none has it, one that may have got it this moment, else the best: its Ollama says what is wrong.
    """
    having = [meeting for meeting in preferred if meeting.has(model)]
    if having:
        return max(having, key=lambda meeting: (meeting.merit, -len(meeting.opener.exchanges)))
    latest = max(preferred, key=lambda meeting: meeting.changed)
    return latest if now - latest.changed <= NEWS else preferred[0]
