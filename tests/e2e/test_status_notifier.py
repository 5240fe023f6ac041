"""The tray's backend of pystray on a real session bus: watchers, the icon, its menu, clicks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from dbus_fast import DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from PIL import Image

from ctllm_tray.status_notifier import backend
from ctllm_tray.status_notifier.backend import Menu, MenuItem
from ctllm_tray.status_notifier.pixmaps import SIZES, make_pixmaps
from ctllm_tray.status_notifier.session_bus import WATCHER, has_watcher

ITEM, ITEM_PATH = "org.kde.StatusNotifierItem", "/StatusNotifierItem"
MENU, MENU_PATH = "com.canonical.dbusmenu", "/MenuBar"
NOTIFICATIONS = "org.freedesktop.Notifications"
#: Seconds until a test gives up.
TIMEOUT = 20.0
RED = Image.new("RGBA", (64, 64), (255, 0, 0, 128))
BLUE = Image.new("RGBA", (64, 64), (0, 0, 255, 255))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A session bus, whose address is in the environment."""
    argv = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", process.stdout.readline().strip())
        yield process
        process.kill()


class Panel:
    """A connection that is watcher, host and notification service, and records what it gets."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.items: list[tuple[str, str]] = []
        self.signals: list[tuple[str, list[Any]]] = []
        self.notifications: list[list[Any]] = []
        self._received = asyncio.Event()
        bus.add_message_handler(self._on_message)

    @classmethod
    async def start(cls) -> Panel:
        panel = cls(await MessageBus().connect())
        rule = "type='signal',path_namespace='/'"
        await panel.call_dbus("AddMatch", "s", rule)
        await panel.bus.request_name(NOTIFICATIONS)
        await panel.bus.request_name(WATCHER)
        return panel

    def _on_message(self, message: Message) -> Message | None:
        reply = None
        if message.member == "RegisterStatusNotifierItem":
            self.items.append((message.sender or "", message.body[0]))
        elif message.member == "Notify":
            self.notifications.append(message.body)
            reply = Message.new_method_return(message, "u", [len(self.notifications)])
        elif message.message_type is MessageType.SIGNAL and message.interface in (ITEM, MENU):
            self.signals.append((message.member or "", message.body))
        self._received.set()
        return reply

    async def wait_for(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._received.clear()
            await asyncio.wait_for(self._received.wait(), TIMEOUT)

    async def wait_for_signal(self, name: str) -> list[Any]:
        await self.wait_for(lambda: name in dict(self.signals))
        return dict(self.signals)[name]

    async def call_dbus(self, member: str, signature: str, *body: Any) -> Any:
        dbus = "org.freedesktop.DBus"
        return await self._call(dbus, "/org/freedesktop/DBus", dbus, member, signature, *body)

    async def call(self, interface: str, member: str, signature: str = "", *body: Any) -> Any:
        path = MENU_PATH if interface == MENU else ITEM_PATH
        return await self._call(self.items[-1][0], path, interface, member, signature, *body)

    async def _call(
        self, name: str, path: str, interface: str, member: str, signature: str, *body: Any
    ) -> Any:
        message = Message(name, path, interface, member, signature=signature, body=list(body))
        reply = await asyncio.wait_for(self.bus.call(message), TIMEOUT)
        if reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name or "", str(reply.body))
        return reply.body

    async def properties(self) -> dict[str, Any]:
        message = Message(
            self.items[-1][0], ITEM_PATH, "org.freedesktop.DBus.Properties", "GetAll",
            signature="s", body=[ITEM],
        )  # fmt: skip
        (values,) = (await self.bus.call(message)).body
        return {name: value.value for name, value in values.items()}

    async def layout(self, depth: int = -1, *names: str) -> Any:
        return await self.call(MENU, "GetLayout", "iias", 0, depth, list(names))

    async def click(self, entry_id: int) -> None:
        await self.call(MENU, "Event", "isvu", entry_id, "clicked", Variant("i", 0), 0)


def with_icon(
    test: Callable[[Panel, Any], Awaitable[None]],
    menu: Menu | None = None,
    show: bool = True,
    icon: Any = None,
) -> None:
    """Run a test with an icon that runs in another thread."""
    icon = icon or backend.Icon("ctllm", RED, "title", menu=menu)
    ready = threading.Event()

    def set_up(icon: Any) -> None:
        icon.visible = show
        ready.set()

    async def run() -> None:
        panel = await Panel.start()
        thread = threading.Thread(target=icon.run, args=(set_up,), daemon=True)
        thread.start()
        try:
            assert await asyncio.to_thread(ready.wait, TIMEOUT)
            if show:
                await panel.wait_for(lambda: panel.items)
            await test(panel, icon)
        finally:
            icon.stop()
            await asyncio.to_thread(thread.join, TIMEOUT)
            assert not thread.is_alive()

    asyncio.run(run())


def entries(layout: Any) -> dict[str, Any]:
    """Return the entries of a layout by their labels."""
    return {
        child.value[1]["label"].value: child.value
        for child in layout[1][2]
        if "label" in child.value[1]
    }


def plain(properties: dict[str, Variant]) -> dict[str, Any]:
    return {name: value.value for name, value in properties.items()}


# -- watchers and the bus


@pytest.mark.usefixtures("daemon")
def test_the_icon_registers_again_with_each_watcher() -> None:
    """A panel may stop, or start after the tray."""

    async def test(panel: Panel, icon: Any) -> None:
        async def restart() -> None:
            before = len(panel.items)
            await panel.bus.release_name(WATCHER)
            await panel.bus.request_name(WATCHER)
            await panel.wait_for(lambda: len(panel.items) > before)

        await restart()
        await restart()
        assert len(set(panel.items)) == 1 and panel.items[0][1] == ITEM_PATH

    with_icon(test)


@pytest.mark.usefixtures("daemon")
def test_two_icons_register_with_one_watcher() -> None:
    async def test(panel: Panel, icon: Any) -> None:
        other = backend.Icon("other", BLUE, "other title")
        thread = threading.Thread(target=other.run, daemon=True)
        thread.start()
        await panel.wait_for(lambda: len(panel.items) == 2)
        assert len({sender for sender, _ in panel.items}) == 2
        assert (await panel.properties())["Title"] == "other title"
        other.stop()
        await asyncio.to_thread(thread.join, TIMEOUT)

    with_icon(test)


def test_a_watcher_is_found_only_where_there_is_one(
    daemon: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket of systemd's that nobody listens on, a stopped bus and no bus are no watcher."""
    assert not has_watcher(os.environ)

    async def test(panel: Panel, icon: Any) -> None:
        assert await asyncio.to_thread(has_watcher, os.environ)

    with_icon(test)
    daemon.kill()
    daemon.wait()
    assert not has_watcher(os.environ)
    assert not has_watcher({"DBUS_SESSION_BUS_ADDRESS": "nonsense"})
    assert not has_watcher({})


def test_a_stopped_bus_ends_the_icon(daemon: subprocess.Popen[str]) -> None:
    icon = backend.Icon("ctllm", RED, "title")
    with pytest.raises(ConnectionError, match="bus has closed"):
        icon.run(lambda _: daemon.send_signal(signal.SIGKILL))
    icon.update_menu()  # as from another thread, too late
    assert not icon.visible


def test_without_a_bus_the_icon_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    icon = backend.Icon("ctllm", RED, "title")
    with pytest.raises(ConnectionError, match="no session bus"):
        icon._run()


# -- the icon


@pytest.mark.usefixtures("daemon")
def test_the_icon_has_pixmaps_title_and_tooltip_which_follow_changes() -> None:
    async def test(panel: Panel, icon: Any) -> None:
        before = await panel.properties()
        assert (before["Id"], before["Title"], before["Status"]) == ("ctllm", "title", "Active")
        assert before["ToolTip"][2] == "title" and before["IconName"] == ""
        sizes = [(width, height, len(data)) for width, height, data in before["IconPixmap"]]
        assert sizes == [(size, size, 4 * size * size) for size in SIZES]
        assert before["IconPixmap"][0][2][:4] == bytes([128, 255, 0, 0]), "not ARGB"
        panel.signals.clear()
        icon.icon, icon.title = BLUE, "new title"
        for name in ("NewIcon", "NewTitle", "NewToolTip"):
            await panel.wait_for_signal(name)
        after = await panel.properties()
        assert after["Title"] == after["ToolTip"][2] == "new title"
        assert after["IconPixmap"][0][2][:4] == bytes([255, 0, 0, 255])

    with_icon(test)


@pytest.mark.usefixtures("daemon")
def test_an_icon_that_is_set_while_the_first_one_is_made_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may do that before `visible` is true."""

    async def test(panel: Panel, icon: Any) -> None:
        assert (await panel.properties())["IconPixmap"][0][2][:4] == bytes([255, 0, 0, 255])

    def set_meanwhile(image: Any) -> Any:
        monkeypatch.setattr(backend, "make_pixmaps", make_pixmaps)
        icon.icon = BLUE
        return make_pixmaps(image)

    icon = backend.Icon("ctllm", RED, "title")
    monkeypatch.setattr(backend, "make_pixmaps", set_meanwhile)
    with_icon(test, icon=icon)


@pytest.mark.usefixtures("daemon")
def test_a_hidden_icon_is_passive_and_registers_when_it_is_first_shown() -> None:
    async def test(panel: Panel, icon: Any) -> None:
        assert not panel.items
        icon.visible = True
        await panel.wait_for(lambda: panel.items)
        assert (await panel.properties())["Status"] == "Active"
        panel.signals.clear()
        icon.visible = False
        assert await panel.wait_for_signal("NewStatus") == ["Passive"]

    with_icon(test, show=False)


@pytest.mark.usefixtures("daemon")
def test_a_click_on_the_icon_runs_the_default_entry() -> None:
    clicks: list[str] = []
    menu = Menu(
        MenuItem("One", lambda: clicks.append("one")),
        MenuItem("Two", lambda: clicks.append("two"), default=True),
    )

    async def test(panel: Panel, icon: Any) -> None:
        assert (await panel.properties())["ItemIsMenu"] is False
        await panel.call(ITEM, "Activate", "ii", 0, 0)
        assert clicks == ["two"]

    with_icon(test, menu)


@pytest.mark.usefixtures("daemon")
def test_without_a_default_entry_a_click_is_for_the_menu() -> None:
    """Panels show the menu where the item is one, or where it has no such method."""

    async def test(panel: Panel, icon: Any) -> None:
        assert (await panel.properties())["ItemIsMenu"] is True
        for member in ("Activate", "ContextMenu"):
            with pytest.raises(DBusError) as caught:
                await panel.call(ITEM, member, "ii", 0, 0)
            assert caught.value.type == "org.freedesktop.DBus.Error.UnknownMethod"

    with_icon(test, Menu(MenuItem("One", None)))


# -- the menu


@pytest.mark.usefixtures("daemon")
def test_the_menu_has_all_kinds_of_entries() -> None:
    menu = Menu(
        MenuItem("plain_name", None),
        Menu.SEPARATOR,
        MenuItem("disabled", None, enabled=False),
        MenuItem("checked", None, checked=lambda _: True),
        MenuItem("more", Menu(MenuItem("radio", None, checked=lambda _: False, radio=True))),
        MenuItem("hidden", None, visible=False),
    )

    async def test(panel: Panel, icon: Any) -> None:
        layout = await panel.layout()
        found = [plain(child.value[1]) for child in layout[1][2]]
        assert found == [
            {"label": "plain__name"},
            {"type": "separator"},
            {"label": "disabled", "enabled": False},
            {"label": "checked", "toggle-type": "checkmark", "toggle-state": 1},
            {"label": "more", "children-display": "submenu"},
        ]
        (radio,) = entries(layout)["more"][2]
        assert plain(radio.value[1]) == {
            "label": "radio", "toggle-type": "radio", "toggle-state": 0,
        }  # fmt: skip

    with_icon(test, menu)


@pytest.mark.usefixtures("daemon")
def test_the_panel_asks_for_parts_of_the_menu() -> None:
    """Levels, names of properties, some entries, one property; unknown ids are errors."""
    menu = Menu(MenuItem("top", Menu(MenuItem("below", None, enabled=False))))

    async def test(panel: Panel, icon: Any) -> None:
        _, root = await panel.layout(0)
        assert root[2] == []
        top = entries(await panel.layout(1, "label"))["top"]
        assert (plain(top[1]), top[2]) == ({"label": "top"}, [])
        assert await panel.call(MENU, "AboutToShow", "i", top[0]) == [False]
        assert await panel.call(MENU, "AboutToShowGroup", "ai", [top[0], 99]) == [[], [99]]
        (some,) = await panel.call(MENU, "GetGroupProperties", "aias", [top[0], 99], ["label"])
        assert [(entry_id, plain(properties)) for entry_id, properties in some] == [
            (top[0], {"label": "top"})
        ]
        (everything,) = await panel.call(MENU, "GetGroupProperties", "aias", [], [])
        assert len(everything) == 3
        (label,) = await panel.call(MENU, "GetProperty", "is", top[0], "label")
        assert label.value == "top"
        for member, signature, *body in (
            ("GetLayout", "iias", 99, -1, []), ("GetProperty", "is", top[0], "shortcut"),
            ("AboutToShow", "i", 99), ("Event", "isvu", 99, "clicked", Variant("i", 0), 0),
        ):  # fmt: skip
            with pytest.raises(DBusError):
                await panel.call(MENU, member, signature, *body)

    with_icon(test, menu)


@pytest.mark.usefixtures("daemon")
def test_a_click_runs_the_entry_that_was_shown_when_the_menu_changes_meanwhile() -> None:
    """Entries keep their ids; a removed or disabled entry does nothing."""
    clicks: list[str] = []

    def entry(label: str, **options: Any) -> MenuItem:
        return MenuItem(label, lambda: clicks.append(label), **options)

    shown = [entry("gone"), entry("kept"), entry("other")]

    async def test(panel: Panel, icon: Any) -> None:
        revision, _ = layout = await panel.layout()
        before = entries(layout)
        icon.update_menu()  # the same menu: no signal
        shown[:] = [entry("new"), entry("kept"), entry("other", enabled=False)]
        panel.signals.clear()
        icon.update_menu()
        assert await panel.wait_for_signal("LayoutUpdated") == [revision + 1, 0]
        assert (await panel.layout())[0] == revision + 1
        await panel.click(before["kept"][0])
        await panel.click(before["other"][0])
        with suppress(DBusError):
            await panel.click(before["gone"][0])
        assert clicks == ["kept"]
        clicked = [(entry[0], "clicked", Variant("i", 0), 0) for entry in before.values()]
        (unknown,) = await panel.call(MENU, "EventGroup", "a(isvu)", clicked)
        assert (unknown, clicks) == ([before["gone"][0]], ["kept", "kept"])

    with_icon(test, Menu(lambda: shown))


# -- notifications


@pytest.mark.usefixtures("daemon")
def test_a_notification_has_the_icon_and_takes_the_place_of_the_last() -> None:
    async def test(panel: Panel, icon: Any) -> None:
        icon.notify("first text", "first")
        await panel.wait_for(lambda: len(panel.notifications) == 1)
        # The id of the first has come back when the reply to another call has.
        await panel.properties()
        icon.notify("second text")
        await panel.wait_for(lambda: len(panel.notifications) == 2)
        first, second = panel.notifications
        assert (first[1], first[3], first[4]) == (0, "first", "first text")
        assert (second[1], second[3], second[4]) == (1, "title", "second text")
        width, height, stride, has_alpha, bits, channels, data = first[6]["image-data"].value
        assert (width, height, stride, has_alpha, bits, channels) == (64, 64, 256, True, 8, 4)
        assert data[:4] == bytes([255, 0, 0, 128])

    with_icon(test)
