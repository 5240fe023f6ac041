"""Selection of the desktop for a request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ctllm.ollama.endpoints import canonical_model
from ctllm.tunnel.frames import (
    ALLOWED_MODELS_CAPABILITY,
    RESOURCES_CAPABILITY,
    Desktop,
    Status,
)
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.websocket.protocols import ProxyWebSocket

#: Seconds after a change of a desktop's models in which its list of models may be out of date.
MODEL_CHANGE_TTL = 5.0


@dataclass
class ConnectedDesktop:
    """A desktop: the proxy's end of its tunnel, and the socket that it currently uses, if any."""

    identity: Desktop
    initiator: Initiator
    socket: ProxyWebSocket | None = None
    connected_at: float = 0.0
    authorized_until: float = math.inf
    models_changed_at: float = -math.inf  # when a request ended that may have changed its models
    release_grant: Callable[[], None] = lambda: None  # of a desktop that is disconnected
    _indexed_status: Status | None = None
    _models: frozenset[str] = field(default_factory=frozenset)

    @property
    def rank(self) -> int:
        """2 for a desktop with Ollama, 1 for one with the demo, 0 for neither."""
        status = self.initiator.status
        return {"up": 2, "demo": 1}.get(status.ollama if status else "", 0)

    def has_model(self, model: str) -> bool:
        """Whether its status lists `model`, under any of the model's names."""
        status = self.initiator.status
        if status is not self._indexed_status:
            self._indexed_status = status
            self._models = frozenset(map(canonical_model, status.models if status else ()))
        return canonical_model(model) in self._models

    @property
    def enforces_allowed_models(self) -> bool:
        """Whether this desktop restricts a client to the models in Ctllm-Allowed-Models."""
        return ALLOWED_MODELS_CAPABILITY in self.initiator.peer_capabilities

    @property
    def has_resources(self) -> bool:
        """Whether this desktop responds to requests for resources of its own."""
        return RESOURCES_CAPABILITY in self.initiator.peer_capabilities

    def describe(self, now: float, may_list: Callable[[str], bool]) -> dict[str, object]:
        """Return its JSON for the API, with the models for which `may_list` returns True.

        `since` is in seconds before `now`.
        """
        status = self.initiator.status
        return {
            "id": self.identity.id,
            "name": self.identity.name,
            "connected": True,
            "since": round(now - self.connected_at, 1),
            "ollama": status.ollama if status else "down",
            "version": status.version if status else "",
            "models": list(filter(may_list, status.models)) if status else [],
            "exchanges": len(self.initiator.streams),
            "latency_ms": None if self.socket is None else self.socket.latency_ms,
            "resources": self.has_resources,
        }


def rank_desktops(desktops: Iterable[ConnectedDesktop]) -> list[ConnectedDesktop]:
    """Return the connected desktops, best first: by rank, then the latest connection."""
    connected = [desktop for desktop in desktops if desktop.initiator.is_established]
    return sorted(connected, key=lambda desktop: (desktop.rank, desktop.connected_at), reverse=True)


def select_for_model(ranked: list[ConnectedDesktop], model: str, now: float) -> ConnectedDesktop:
    """Return the desktop of `ranked`, which is not empty, for a request of `model`.

    Of several that have the model, the best rank and then the fewest streams decide. If none has
    it, the desktop whose models changed within MODEL_CHANGE_TTL is used, or else the best, whose
    Ollama then reports that there is no such model.
    """
    holders = [desktop for desktop in ranked if desktop.has_model(model)]
    if holders:
        return max(holders, key=lambda desktop: (desktop.rank, -len(desktop.initiator.streams)))
    last_changed = max(ranked, key=lambda desktop: desktop.models_changed_at)
    return last_changed if now - last_changed.models_changed_at <= MODEL_CHANGE_TTL else ranked[0]
