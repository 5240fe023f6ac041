"""The session bus, and the StatusNotifierWatcher on it, where icons are registered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from dbus_fast import DBusError, Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

WATCHER = "org.kde.StatusNotifierWatcher"
_WATCHER_PATH = "/StatusNotifierWatcher"
_DBUS, _DBUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
#: The signal of the bus that the watcher has started or stopped.
_OWNER_CHANGED = "NameOwnerChanged"
_WATCHER_RULE = f"type='signal',sender='{_DBUS}',member='{_OWNER_CHANGED}',arg0='{WATCHER}'"
#: Seconds within which the bus must respond.
_TIMEOUT = 5.0


def find_session_bus(environ: Mapping[str, str]) -> str | None:
    """Return the address of the session bus: the one that is set, or systemd's."""
    address = environ.get("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return address
    socket = Path(environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "bus")
    return f"unix:path={socket}" if socket.exists() else None


async def call_dbus(bus: MessageBus, member: str, signature: str, *body: object) -> object:
    """Call a method of the bus itself; return its response. Raises DBusError."""
    message = Message(_DBUS, _DBUS_PATH, _DBUS, member, signature=signature, body=list(body))
    reply = await bus.call(message)
    if reply.message_type is MessageType.ERROR:
        raise DBusError(reply.error_name or "", str(reply.body), reply)
    return reply.body[0] if reply.body else None


def has_watcher(environ: Mapping[str, str]) -> bool:
    """Return whether a StatusNotifierWatcher is on the session bus; blocks."""
    address = find_session_bus(environ)
    if address is None:
        return False
    try:
        return asyncio.run(asyncio.wait_for(_has_watcher(address), _TIMEOUT))
    except (OSError, EOFError, TimeoutError, DBusError, DBusFastError):
        return False  # no bus responds at this address


async def _has_watcher(address: str) -> bool:
    bus = await MessageBus(address).connect()
    try:
        return bool(await call_dbus(bus, "NameHasOwner", "s", WATCHER))
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


class WatcherRegistration:
    """Registers the item at the path `item_path`, and again with each watcher that starts."""

    def __init__(self, bus: MessageBus, item_path: str) -> None:
        self._bus = bus
        self._item_path = item_path

    async def start(self) -> None:
        """Register the item with the watcher that runs now, if any; follow later ones."""
        self._bus.add_message_handler(self._register_with_new_owner)
        await call_dbus(self._bus, "AddMatch", "s", _WATCHER_RULE)
        self._register()

    def _register_with_new_owner(self, message: Message) -> None:
        if message.sender != _DBUS or message.member != _OWNER_CHANGED:
            return
        name, _, new_owner = message.body
        if name == WATCHER and new_owner:
            self._register()

    def _register(self) -> None:
        # With a path, the watcher takes the item of the connection that sent it.
        self._bus.send(
            Message(
                WATCHER, _WATCHER_PATH, WATCHER, "RegisterStatusNotifierItem",
                flags=MessageFlag.NO_REPLY_EXPECTED, signature="s", body=[self._item_path],
            )
        )  # fmt: skip
