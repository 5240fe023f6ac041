# mypy: ignore-errors
# The annotations of the methods are D-Bus signatures, which dbus_fast reads.
"""A panel without a display: reads a StatusNotifierItem and clicks on its menu.

It runs as a process on the session bus of its environment. It reads commands from its standard
input, a JSON array a line, and writes one line of JSON for each. `look` returns title, icon (its
file if it has one, and a hash of the pixels), menu and all notifications so far. `click` with a
path of labels returns whether that entry exists.
"""

# D-Bus types are written as annotations.
# ruff: noqa: F722, F821

import asyncio
import hashlib
import json
import sys
from typing import Any

from dbus_fast import Message, MessageType, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_property, method, signal
from PIL import Image

WATCHER = "org.kde.StatusNotifierWatcher"
ITEM = "org.kde.StatusNotifierItem"
MENU = "com.canonical.dbusmenu"


class Watcher(ServiceInterface):
    """The service where items register."""

    def __init__(self) -> None:
        super().__init__(WATCHER)
        self.paths: list[str] = []

    @method()
    def RegisterStatusNotifierItem(self, service: "s"):
        self.paths.append(service)

    @method()
    def RegisterStatusNotifierHost(self, service: "s"):
        pass

    @dbus_property(access=PropertyAccess.READ)
    def RegisteredStatusNotifierItems(self) -> "as":
        return self.paths

    @dbus_property(access=PropertyAccess.READ)
    def IsStatusNotifierHostRegistered(self) -> "b":
        return True

    @dbus_property(access=PropertyAccess.READ)
    def ProtocolVersion(self) -> "i":
        return 0

    @signal()
    def StatusNotifierHostRegistered(self) -> None:
        pass


class Notifications(ServiceInterface):
    """The notification service of a desktop."""

    def __init__(self) -> None:
        super().__init__("org.freedesktop.Notifications")
        self.received: list[list[str]] = []

    @method()
    def Notify(
        self,
        app: "s",
        replaces: "u",
        icon: "s",
        title: "s",
        body: "s",
        actions: "as",
        hints: "a{sv}",
        timeout: "i",
    ) -> "u":
        self.received.append([title, body])
        return len(self.received)

    @method()
    def CloseNotification(self, number: "u"):
        pass

    @method()
    def GetCapabilities(self) -> "as":
        return ["body"]

    @method()
    def GetServerInformation(self) -> "ssss":
        return ["panel", "ctllm", "1", "1.2"]


class StatusNotifierHost:
    """The host of the item that registered last."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.watcher = Watcher()
        self.notifications = Notifications()
        self.senders: list[str] = []
        bus.add_message_handler(self._record_sender)

    def _record_sender(self, message: Message) -> None:
        if message.member == "RegisterStatusNotifierItem":
            self.senders.append(message.sender)

    async def start(self) -> None:
        self.bus.export("/StatusNotifierWatcher", self.watcher)
        self.bus.export("/org/freedesktop/Notifications", self.notifications)
        await self.bus.request_name(WATCHER)
        await self.bus.request_name("org.freedesktop.Notifications")

    async def call(
        self, path: str, interface: str, member: str, signature: str, *values: Any
    ) -> Any:
        reply = await self.bus.call(
            Message(
                destination=self.senders[-1], path=path, interface=interface, member=member,
                signature=signature, body=list(values),
            )
        )  # fmt: skip
        if reply.message_type is MessageType.ERROR:
            raise LookupError(reply.body)
        return reply.body

    async def properties(self) -> dict[str, Any]:
        path = self.watcher.paths[-1]
        (values,) = await self.call(path, "org.freedesktop.DBus.Properties", "GetAll", "s", ITEM)
        return {name: value.value for name, value in values.items()}

    async def layout(self) -> Any:
        """Return the path of the menu's object and the menu's root entry."""
        menu = (await self.properties())["Menu"]
        _, root = await self.call(menu, MENU, "GetLayout", "iias", 0, -1, [])
        return menu, root

    async def look(self) -> dict[str, Any]:
        if not self.senders:
            return {"there": False, "notifications": self.notifications.received}
        try:
            properties = await self.properties()
            _, root = await self.layout()
            pixels = hashlib.sha256(_pixels(properties)).hexdigest()
        except (LookupError, OSError):
            return {"there": False, "notifications": self.notifications.received}
        return {
            "there": properties["Status"] == "Active",
            "title": properties["Title"],
            "file": properties["IconName"],
            "pixels": pixels,
            "menu": _visible_entries(root),
            "notifications": self.notifications.received,
        }

    async def click(self, *labels: str) -> bool:
        """Look up the entry and click it; ids change with each update of the menu."""
        menu, entry = await self.layout()
        for label in labels:
            matches = [each.value for each in entry[2] if _label(each.value) == label]
            if not matches:
                return False
            entry = matches[0]
            if label != labels[-1]:
                await self.call(menu, MENU, "AboutToShow", "i", entry[0])
        event = (entry[0], "clicked", Variant("i", 0), 0)
        await self.call(menu, MENU, "Event", "isvu", *event)
        return True


def _pixels(properties: dict[str, Any]) -> bytes:
    """Return the pixels of the icon's file, or those of its largest pixmap."""
    if not properties["IconName"]:
        return max(properties["IconPixmap"])[2]
    with Image.open(properties["IconName"]) as image:
        return image.tobytes()


def _label(entry: Any) -> str:
    value = entry[1].get("label")
    return value.value.replace("__", "\0").replace("_", "").replace("\0", "_") if value else ""


def _visible_entries(entry: Any) -> list[dict[str, Any]]:
    """Return the entries of a menu without its separators."""
    return [
        {
            "label": _label(each.value),
            "enabled": each.value[1].get("enabled", Variant("b", True)).value,
            "checked": each.value[1].get("toggle-state", Variant("i", 0)).value == 1,
            "menu": _visible_entries(each.value),
        }
        for each in entry[2]
        if each.value[1].get("type", Variant("s", "")).value != "separator"
    ]


async def main() -> None:
    panel = StatusNotifierHost(await MessageBus().connect())
    await panel.start()
    print(json.dumps("ready"), flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command, *labels = json.loads(line)
        try:
            response: Any = await (panel.look() if command == "look" else panel.click(*labels))
        except (LookupError, IndexError) as error:
            response = {"error": str(error)}
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
