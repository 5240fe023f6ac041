"""Which changes are worth a notification: those that matter, once they have lasted.

A connection that is lost and made again within seconds is no news, nor is the same state again.
"""

from __future__ import annotations

from ctllm_tray.view_model import Icon, View

#: Seconds for which a state must last before anybody is told of it.
LASTING = 5.0
_TITLES = {
    Icon.CONNECTED: "Connected",
    Icon.DISCONNECTED: "Not connected",
    Icon.DEGRADED: "Ollama is down",
    Icon.ERROR: "Not connected",
}


class News:
    """Told of each view; gives what to notify. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._told: Icon | None = None
        self._now: View | None = None
        self._since = 0.0

    def see(self, view: View, now: float) -> None:
        """The tray shows `view` from now on."""
        if self._now is None or view.icon is not self._now.icon:
            self._since = now
        self._now = view

    def due(self, now: float) -> tuple[str, str] | None:
        """Title and words of a notification that is due, once."""
        view = self._now
        if view is None or view.icon not in _TITLES or now - self._since < LASTING:
            return None
        told, self._told = self._told, view.icon
        if told is view.icon or view.quitting:
            return None
        if told is None and view.icon is Icon.CONNECTED:
            return None  # that all is well at the start is what everybody expects
        return _TITLES[view.icon], view.line
