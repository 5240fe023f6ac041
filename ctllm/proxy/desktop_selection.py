"""Which of a user's desktops gets a request."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ctllm.ollama.api import canonical_model
from ctllm.tunnel.frames import Desktop, Status
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.websocket.protocols import ProxyWebSocket

#: Seconds for which a desktop whose models were just changed may have more than it told.
MODEL_CHANGE_TTL = 5.0


@dataclass
class ConnectedDesktop:
    """One desktop: its end of the tunnel here, and the socket it is on now, if any."""

    identity: Desktop
    initiator: Initiator
    socket: ProxyWebSocket | None = None
    connected_at: float = 0.0
    models_changed_at: float = -math.inf  # when an exchange ended that may have changed its models
    _indexed_status: Status | None = None
    _models: frozenset[str] = field(default_factory=frozenset)

    @property
    def rank(self) -> int:
        """What its Ollama is worth: a real one more than a demo, and that more than none."""
        status = self.initiator.status
        return {"up": 2, "demo": 1}.get(status.ollama if status else "", 0)

    def has_model(self, model: str) -> bool:
        """Whether it told of `model`, by whichever of its names."""
        status = self.initiator.status
        if status is not self._indexed_status:
            self._indexed_status = status
            self._models = frozenset(map(canonical_model, status.models if status else ()))
        return canonical_model(model) in self._models

    def describe(self, now: float) -> dict[str, Any]:
        """It for the API: who, since when (seconds ago), its Ollama, its models."""
        status = self.initiator.status
        return {
            "id": self.identity.id,
            "name": self.identity.name,
            "connected": True,
            "since": round(now - self.connected_at, 1),
            "ollama": status.ollama if status else "down",
            "version": status.version if status else "",
            "models": list(status.models) if status else [],
            "exchanges": len(self.initiator.streams),
        }


def rank_desktops(desktops: Iterable[ConnectedDesktop]) -> list[ConnectedDesktop]:
    """Those connected, the best first: real Ollama before demo before none, then the newest."""
    connected = [desktop for desktop in desktops if desktop.initiator.is_established]
    return sorted(connected, key=lambda desktop: (desktop.rank, desktop.connected_at), reverse=True)


def select_for_model(ranked: list[ConnectedDesktop], model: str, now: float) -> ConnectedDesktop:
    """The one of `preferred`, which is not empty, that should be asked for `model`.

    Of several that have it, the one with the fewest exchanges of those that are equally good. If
    none has it, one that may have got it this moment, else the best: its Ollama says what is wrong.
    """
    holders = [desktop for desktop in ranked if desktop.has_model(model)]
    if holders:
        return max(holders, key=lambda desktop: (desktop.rank, -len(desktop.initiator.streams)))
    last_changed = max(ranked, key=lambda desktop: desktop.models_changed_at)
    return last_changed if now - last_changed.models_changed_at <= MODEL_CHANGE_TTL else ranked[0]
