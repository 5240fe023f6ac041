"""The interface `org.kde.StatusNotifierItem`: the icon, its title and a click on it."""

# Without `from __future__ import annotations`: dbus-fast cannot read a postponed None.

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

from dbus_fast import DBusError, ErrorType, PropertyAccess
from dbus_fast.annotations import (
    DBusBool,
    DBusInt32,
    DBusObjectPath,
    DBusSignature,
    DBusStr,
)
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from ctllm_tray.status_notifier.pixmaps import Pixmap

ITEM_PATH, MENU_PATH = "/StatusNotifierItem", "/MenuBar"
_Pixmaps = Annotated[list[list[object]], DBusSignature("a(iiay)")]
_ToolTip = Annotated[list[object], DBusSignature("(sa(iiay)ss)")]


class ItemStatus(StrEnum):
    """Whether the panel shows the item."""

    ACTIVE = "Active"
    PASSIVE = "Passive"


class StatusNotifierItem(ServiceInterface):
    """The item. `has_default` says whether a click has a default action, which is `activate`."""

    def __init__(
        self, item_id: str, has_default: Callable[[], bool], activate: Callable[[], None]
    ) -> None:
        super().__init__("org.kde.StatusNotifierItem")
        self._id = item_id
        self._has_default = has_default
        self._activate = activate
        self._title = ""
        self._status = ItemStatus.PASSIVE
        self._pixmaps: tuple[Pixmap, ...] = ()

    def set_title(self, title: str) -> None:
        """Set the title, which is also the tooltip."""
        self._title = title
        self._new_title()
        self._new_tool_tip()

    def set_pixmaps(self, pixmaps: tuple[Pixmap, ...]) -> None:
        """Set the icon."""
        self._pixmaps = pixmaps
        self._new_icon()

    def set_status(self, status: ItemStatus) -> None:
        """Show or hide the item."""
        self._status = status
        self._new_status()

    # -- methods. Without ContextMenu, which then is an unknown method, panels show the menu.

    @dbus_method("Activate")
    def _on_activate(self, x: DBusInt32, y: DBusInt32) -> None:
        if not self._has_default():
            raise DBusError(ErrorType.UNKNOWN_METHOD, "There is no default action.")
        self._activate()

    # -- properties

    @dbus_property(PropertyAccess.READ, "Category")
    def _category(self) -> DBusStr:
        return "ApplicationStatus"

    @dbus_property(PropertyAccess.READ, "Id")
    def _item_id(self) -> DBusStr:
        return self._id

    @dbus_property(PropertyAccess.READ, "Title")
    def _get_title(self) -> DBusStr:
        return self._title

    @dbus_property(PropertyAccess.READ, "Status")
    def _get_status(self) -> DBusStr:
        return self._status.value

    @dbus_property(PropertyAccess.READ, "WindowId")
    def _window_id(self) -> DBusInt32:
        return 0

    @dbus_property(PropertyAccess.READ, "IconName")
    def _icon_name(self) -> DBusStr:
        return ""  # it would be preferred to the pixmaps

    @dbus_property(PropertyAccess.READ, "IconThemePath")
    def _icon_theme_path(self) -> DBusStr:
        return ""

    @dbus_property(PropertyAccess.READ, "IconPixmap")
    def _icon_pixmap(self) -> _Pixmaps:
        return [pixmap.to_struct() for pixmap in self._pixmaps]

    @dbus_property(PropertyAccess.READ, "ToolTip")
    def _tool_tip(self) -> _ToolTip:
        return ["", [], self._title, ""]

    @dbus_property(PropertyAccess.READ, "ItemIsMenu")
    def _item_is_menu(self) -> DBusBool:
        return not self._has_default()

    @dbus_property(PropertyAccess.READ, "Menu")
    def _menu(self) -> DBusObjectPath:
        return MENU_PATH

    # -- signals

    @dbus_signal("NewTitle")
    def _new_title(self) -> None:
        pass

    @dbus_signal("NewToolTip")
    def _new_tool_tip(self) -> None:
        pass

    @dbus_signal("NewIcon")
    def _new_icon(self) -> None:
        pass

    @dbus_signal("NewStatus")
    def _new_status(self) -> DBusStr:
        return self._status.value
