"""Decides which changes of the status are notified.

A state is notified once it has lasted for some seconds, and if it differs from the last one that
was: a connection that is lost and restored at once is not.
"""

from __future__ import annotations

from ctllm_tray.view_model import Icon, View

#: Seconds that a state must last.
MIN_DURATION = 5.0
_TITLES = {
    Icon.CONNECTED: "Connected",
    Icon.DISCONNECTED: "Not connected",
    Icon.DEGRADED: "Ollama is not responding",
    Icon.ERROR: "Not connected",
}


class NotificationPolicy:
    """Gets each view, and returns the notifications that are due. Times are in seconds."""

    def __init__(self, min_duration: float = MIN_DURATION) -> None:
        self._min_duration = min_duration
        self._notified: Icon | None = None
        self._view: View | None = None
        self._since = 0.0

    def set_view(self, view: View, now: float) -> None:
        """Record that the tray shows `view` from `now` on."""
        if self._view is None or view.icon is not self._view.icon:
            self._since = now
        self._view = view

    def next_notification(self, now: float) -> tuple[str, str] | None:
        """Return the title and the text of a notification that is due, once."""
        view = self._view
        if view is None or view.icon not in _TITLES or now - self._since < self._min_duration:
            return None
        previous, self._notified = self._notified, view.icon
        if previous is view.icon or view.is_quitting:
            return None
        if previous is None and view.icon is Icon.CONNECTED:
            return None  # the normal case at the start
        return _TITLES[view.icon], view.status_line
