"""The icon and its menu, with pystray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from ctllm.common.sanitize import sanitize_line
from ctllm_tray.actions import TrayActions
from ctllm_tray.icon_renderer import render_icon
from ctllm_tray.notifications import NotificationPolicy
from ctllm_tray.view_model import POLICY_LABELS, STARTING, View

#: Seconds between two checks for a notification that is due.
NOTIFICATION_INTERVAL = 0.5


class Indicator:
    """The icon in the panel. `show_view`, `notify` and `stop` may be called from any thread.

    `actions` must be set before `run`: actions and indicator refer to each other.
    """

    actions: TrayActions

    def __init__(self, pystray: Any, theme: str) -> None:
        self._pystray = pystray
        self._theme = theme
        self._view = STARTING
        self._notifications = NotificationPolicy()
        self._notifications_lock = threading.Lock()
        self._stopped = threading.Event()
        self.icon = pystray.Icon(
            "ctllm",
            render_icon(STARTING.icon, theme),
            STARTING.title,
            menu=pystray.Menu(self._menu),
        )

    def run(self) -> None:
        """Show the icon until `stop`; must be called from the main thread."""
        threading.Thread(target=self._send_notifications, name="notifications", daemon=True).start()
        self.icon.run(self._set_up)

    def _set_up(self, icon: Any) -> None:
        icon.visible = True
        if self._stopped.is_set():  # pystray ignores a stop before it runs
            icon.stop()

    def stop(self) -> None:
        """Remove the icon."""
        self._stopped.set()
        self.icon.stop()

    def show_view(self, view: View) -> None:
        """Replace the view."""
        before, self._view = self._view, view
        with self._notifications_lock:
            self._notifications.set_view(view, time.monotonic())
        if view.icon is not before.icon:
            self.icon.icon = render_icon(view.icon, self._theme)
        if view.title != before.title:
            self.icon.title = view.title
        if view != before:
            self.icon.update_menu()

    def notify(self, title: str, text: str) -> None:
        """Show a notification, and print it."""
        text = sanitize_line(text)  # it may come from the cloud
        print(f"{title}: {text}", flush=True)
        if self.icon.HAS_NOTIFICATION:
            self.icon.notify(text, title)

    def _send_notifications(self) -> None:
        while not self._stopped.wait(NOTIFICATION_INTERVAL):
            with self._notifications_lock:
                notification = self._notifications.next_notification(time.monotonic())
            if notification is not None:
                self.notify(*notification)

    # -- the menu

    def _menu(self) -> Iterator[Any]:
        view, actions = self._view, self.actions
        item, menu = self._pystray.MenuItem, self._pystray.Menu
        yield item(view.status_line, None, enabled=False)
        yield menu.SEPARATOR
        if view.is_running:
            yield item("Show CloudToLocalLLM", actions.show, enabled=view.has_page)
            yield item("Hide CloudToLocalLLM", actions.hide)
            yield item("Routing", menu(*self._policy_items()))
            yield item("Models in memory", menu(*self._model_items()))
            yield menu.SEPARATOR
            if view.is_logged_in:
                yield item("Log out", actions.log_out)
            else:
                yield item("Log in …", actions.log_in)
            yield item("Settings", actions.settings, enabled=view.has_page)
            yield item("About", actions.about)
        else:
            yield item("Start", actions.start_daemon)
        yield menu.SEPARATOR
        yield item("Quit", actions.quit)

    def _policy_items(self) -> Iterator[Any]:
        for policy, label in POLICY_LABELS.items():
            yield self._policy_item(policy, label, self._view.policy == policy)

    def _policy_item(self, policy: str, label: str, is_current: bool) -> Any:
        return self._pystray.MenuItem(
            label,
            lambda: self.actions.set_policy(policy),
            checked=lambda _: is_current,
            radio=True,
        )

    def _model_items(self) -> Iterator[Any]:
        view = self._view
        for model in view.loaded_models or ("None",):
            yield self._pystray.MenuItem(model, None, enabled=False)
        if view.more_models:
            yield self._pystray.MenuItem(f"and {view.more_models} more", None, enabled=False)
