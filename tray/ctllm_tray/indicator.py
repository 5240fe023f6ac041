"""The icon and its menu, by pystray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from ctllm.common.sanitize import sanitize_line
from ctllm_tray.actions import Clicks
from ctllm_tray.icon_renderer import picture
from ctllm_tray.notifications import News
from ctllm_tray.view_model import PREFERENCES, STARTING, View

#: Seconds between two looks whether a notification is due.
OFTEN = 0.5


class Shown:
    """What is on the panel. `see` and `notify` may be called from any thread."""

    def __init__(self, pystray: Any, panel: str) -> None:
        self._pystray = pystray
        self._panel = panel
        self._view = STARTING
        self._news = News()
        self._news_lock = threading.Lock()
        self._over = threading.Event()
        self.icon = pystray.Icon(
            "ctllm", picture(STARTING.icon, panel), STARTING.title, menu=pystray.Menu(self._entries)
        )
        self.clicks: Clicks

    def run(self) -> None:
        """Show it until `end`; to be called from the main thread."""
        threading.Thread(target=self._tell_news, name="news", daemon=True).start()
        self.icon.run(self._begin)

    def _begin(self, icon: Any) -> None:
        icon.visible = True
        if self._over.is_set():  # it was told to end before there was anything to end
            icon.stop()

    def end(self) -> None:
        """Take it away."""
        self._over.set()
        self.icon.stop()

    def see(self, view: View) -> None:
        """Show another view."""
        before, self._view = self._view, view
        with self._news_lock:
            self._news.see(view, time.monotonic())
        if view.icon is not before.icon:
            self.icon.icon = picture(view.icon, self._panel)
        if view != before:
            self.icon.title = view.title
            self.icon.update_menu()

    def notify(self, title: str, words: str) -> None:
        """A notification of the desktop; where it has none, a line of the log."""
        words = sanitize_line(words)  # it may be the daemon's word for what the cloud said
        print(f"{title}: {words}", flush=True)
        if self.icon.HAS_NOTIFICATION:
            self.icon.notify(words, title)

    def _tell_news(self) -> None:
        while not self._over.wait(OFTEN):
            with self._news_lock:
                due = self._news.due(time.monotonic())
            if due is not None:
                self.notify(*due)

    # -- the menu

    def _entries(self) -> Iterator[Any]:
        view, clicks = self._view, self.clicks
        item, rule = self._pystray.MenuItem, self._pystray.Menu.SEPARATOR
        yield item(view.line, None, enabled=False)
        yield rule
        if view.running:
            yield item("Show CloudToLocalLLM", clicks.show, enabled=view.signed_in)
            yield item("Hide CloudToLocalLLM", clicks.hide)
            yield item("Requests of apps", self._pystray.Menu(*self._preferences()))
            yield item("Models in memory", self._pystray.Menu(*self._models()))
            yield rule
            if view.signed_in:
                yield item("Sign out", clicks.sign_out)
            else:
                yield item("Sign in …", clicks.sign_in)
            yield item("Settings", clicks.settings, enabled=view.signed_in)
            yield item("About", clicks.about)
        else:
            yield item("Start the daemon", clicks.start)
        yield rule
        yield item("Quit", clicks.quit)

    def _preferences(self) -> Iterator[Any]:
        for name, words in PREFERENCES.items():
            yield self._preference(name, words, self._view.preference == name)

    def _preference(self, name: str, words: str, chosen: bool) -> Any:
        return self._pystray.MenuItem(
            words, lambda: self.clicks.prefer(name), checked=lambda _: chosen, radio=True
        )

    def _models(self) -> Iterator[Any]:
        view = self._view
        for model in view.models or ("none",):
            yield self._pystray.MenuItem(model, None, enabled=False)
        if view.more_models:
            yield self._pystray.MenuItem(f"and {view.more_models} more", None, enabled=False)
