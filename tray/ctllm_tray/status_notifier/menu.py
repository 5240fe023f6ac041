"""The interface `com.canonical.dbusmenu`: the menu, which the panel shows."""

# Without `from __future__ import annotations`: dbus-fast cannot read a postponed None.

from typing import Annotated

from dbus_fast import DBusError, ErrorType, PropertyAccess, Variant
from dbus_fast.annotations import (
    DBusBool,
    DBusInt32,
    DBusSignature,
    DBusStr,
    DBusUInt32,
    DBusVariant,
)
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from ctllm_tray.status_notifier.menu_entries import ROOT_ID, MenuEntry

_Ids = Annotated[list[int], DBusSignature("ai")]
_Names = Annotated[list[str], DBusSignature("as")]
_Layout = Annotated[tuple[int, list[object]], DBusSignature("u(ia{sv}av)")]
_GroupProperties = Annotated[list[list[object]], DBusSignature("a(ia{sv})")]
_Events = Annotated[list[tuple[int, str, Variant, int]], DBusSignature("a(isvu)")]
_Update = Annotated[tuple[int, int], DBusSignature("ui")]
_TwoIdLists = Annotated[tuple[list[int], list[int]], DBusSignature("aiai")]


class DBusMenu(ServiceInterface):
    """A menu, empty at first."""

    def __init__(self) -> None:
        super().__init__("com.canonical.dbusmenu")
        self._revision = 0
        self._root = MenuEntry(ROOT_ID, {})
        self._entries = {ROOT_ID: self._root}

    def set_root(self, root: MenuEntry) -> None:
        """Replace the menu; tell the panel if it shows something else."""
        is_new = root != self._root
        self._root = root
        self._entries = {entry.id: entry for entry in root.iterate()}
        if is_new:
            self._revision += 1
            self._layout_updated()

    def _find(self, entry_id: int) -> MenuEntry:
        entry = self._entries.get(entry_id)
        if entry is None:
            raise DBusError(ErrorType.INVALID_ARGS, f"The menu has no entry {entry_id}.")
        return entry

    def _click(self, entry_id: int, event: str) -> None:
        entry = self._find(entry_id)
        if event == "clicked" and "enabled" not in entry.properties:
            entry.click()

    # -- methods

    @dbus_method("GetLayout")
    def _get_layout(self, parent: DBusInt32, depth: DBusInt32, names: _Names) -> _Layout:
        return self._revision, self._find(parent).to_layout(depth, names)

    @dbus_method("GetGroupProperties")
    def _get_group_properties(self, ids: _Ids, names: _Names) -> _GroupProperties:
        wanted = ids or self._entries
        return [
            [entry_id, self._entries[entry_id].select_properties(names)]
            for entry_id in wanted
            if entry_id in self._entries
        ]

    @dbus_method("GetProperty")
    def _get_property(self, entry_id: DBusInt32, name: DBusStr) -> DBusVariant:
        value = self._find(entry_id).properties.get(name)
        if value is None:
            raise DBusError(ErrorType.INVALID_ARGS, f"The entry has no property {name}.")
        return value

    @dbus_method("Event")
    def _event(
        self, entry_id: DBusInt32, event: DBusStr, data: DBusVariant, timestamp: DBusUInt32
    ) -> None:
        self._click(entry_id, event)

    @dbus_method("EventGroup")
    def _event_group(self, events: _Events) -> _Ids:
        known = [event for event in events if event[0] in self._entries]
        if events and not known:
            raise DBusError(ErrorType.INVALID_ARGS, "The menu has none of the entries.")
        for entry_id, event, _, _ in known:
            self._click(entry_id, event)
        return [event[0] for event in events if event[0] not in self._entries]

    @dbus_method("AboutToShow")
    def _about_to_show(self, entry_id: DBusInt32) -> DBusBool:
        self._find(entry_id)
        return False  # the panel is told of each change when it happens

    @dbus_method("AboutToShowGroup")
    def _about_to_show_group(self, ids: _Ids) -> _TwoIdLists:
        return [], [entry_id for entry_id in ids if entry_id not in self._entries]

    # -- properties

    @dbus_property(PropertyAccess.READ, "Version")
    def _version(self) -> DBusUInt32:
        return 3

    @dbus_property(PropertyAccess.READ, "TextDirection")
    def _text_direction(self) -> DBusStr:
        return "ltr"

    @dbus_property(PropertyAccess.READ, "Status")
    def _status(self) -> DBusStr:
        return "normal"

    @dbus_property(PropertyAccess.READ, "IconThemePath")
    def _icon_theme_path(self) -> _Names:
        return []

    # -- signals

    @dbus_signal("LayoutUpdated")
    def _layout_updated(self) -> _Update:
        return self._revision, ROOT_ID
