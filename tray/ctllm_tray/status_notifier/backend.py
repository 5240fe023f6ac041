"""A backend of pystray: its `Icon` by D-Bus alone, beside its `Menu` and `MenuItem`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from dbus_fast.aio import MessageBus

from ctllm_tray.status_notifier import pystray_base
from ctllm_tray.status_notifier.item import ITEM_PATH, MENU_PATH, ItemStatus, StatusNotifierItem
from ctllm_tray.status_notifier.menu import DBusMenu
from ctllm_tray.status_notifier.menu_entries import MenuBuilder
from ctllm_tray.status_notifier.notifier import Notifier
from ctllm_tray.status_notifier.pixmaps import make_pixmaps
from ctllm_tray.status_notifier.pystray_base import Menu, MenuItem
from ctllm_tray.status_notifier.session_bus import WatcherRegistration, find_session_bus

__all__ = ["Icon", "Menu", "MenuItem"]


class Icon(pystray_base.Icon):  # type: ignore[misc]
    """An icon with the methods and properties of `pystray.Icon`, for any thread.

    An event loop runs in the thread of `run`. The other methods schedule in it what they do.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop = asyncio.new_event_loop()
        self._bus: asyncio.Future[MessageBus] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._item = StatusNotifierItem(self.name, self._has_default, self)
        self._builder = MenuBuilder(self._handler)
        self._dbus_menu = DBusMenu()
        self._notifier = Notifier(self.name)
        self._is_registered = False

    # -- the loop

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._visible = False  # the panel removes the icon of a closed connection
            self._loop.close()

    async def _serve(self) -> None:
        address = find_session_bus(os.environ)
        if address is None:
            raise ConnectionError("There is no session bus.")
        bus = await MessageBus(address).connect()
        bus.export(ITEM_PATH, self._item)
        bus.export(MENU_PATH, self._dbus_menu)
        self._bus.set_result(bus)
        self._mark_ready()
        try:
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except (EOFError, OSError):
            raise ConnectionError("The session bus has closed the connection.") from None

    def _schedule(self, callback: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the icon has been removed
            self._loop.call_soon_threadsafe(callback, *args)

    def _start_task(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        task = self._loop.create_task(function(*args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self) -> None:
        self._schedule(lambda: self._bus.result().disconnect())

    # -- the icon

    def _show(self) -> None:
        # First: what is set from now on is scheduled, and what was set before is read in the loop.
        self._visible = True
        self._update_icon()
        self._update_title()
        self._schedule(self._item.set_status, ItemStatus.ACTIVE)
        if not self._is_registered:
            self._is_registered = True
            self._schedule(self._start_task, self._register)

    async def _register(self) -> None:
        await WatcherRegistration(await self._bus, ITEM_PATH).start()

    def _hide(self) -> None:
        self._schedule(self._item.set_status, ItemStatus.PASSIVE)

    def _update_icon(self) -> None:
        self._icon_valid = True
        self._schedule(lambda: self._item.set_pixmaps(make_pixmaps(self.icon)))

    def _update_title(self) -> None:
        self._schedule(lambda: self._item.set_title(self.title))

    # -- the menu

    def _update_menu(self) -> None:
        self._schedule(lambda: self._dbus_menu.set_root(self._builder.build(self.menu)))

    def _has_default(self) -> bool:
        return any(item.default and item.enabled for item in self.menu or ())

    # -- notifications

    def _notify(self, message: str, title: str | None = None) -> None:
        self._schedule(self._start_task, self._send_notification, title or self.title, message)

    async def _send_notification(self, title: str, message: str) -> None:
        await self._notifier.notify(await self._bus, title, message, self.icon)

    def _remove_notification(self) -> None:
        self._schedule(self._start_task, self._close_notification)

    async def _close_notification(self) -> None:
        await self._notifier.close(await self._bus)
