"""A menu of pystray's as entries of `com.canonical.dbusmenu`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from dbus_fast import Variant

from ctllm_tray.status_notifier.pystray_base import Menu

ROOT_ID = 0
#: The labels of an entry and of its ancestors, each with its number among equal ones.
_Path = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """An entry: its properties but for those with default values, and what a click does."""

    id: int
    properties: dict[str, Variant]
    children: tuple[MenuEntry, ...] = ()
    click: Callable[[], None] = field(default=lambda: None, compare=False)

    def iterate(self) -> Iterator[MenuEntry]:
        """Yield this entry and all below it."""
        yield self
        for child in self.children:
            yield from child.iterate()

    def select_properties(self, names: Collection[str]) -> dict[str, Variant]:
        """Return the properties with these names; all if there are no names."""
        return {
            name: value for name, value in self.properties.items() if not names or name in names
        }

    def to_layout(self, depth: int, names: Collection[str]) -> list[object]:
        """Return the struct `(ia{sv}av)`, with `depth` levels of children; all if it is -1."""
        children = self.children if depth else ()
        return [
            self.id,
            self.select_properties(names),
            [Variant("(ia{sv}av)", child.to_layout(depth - 1, names)) for child in children],
        ]


class MenuBuilder:
    """Builds entries. `make_click` gets an item of pystray's and returns what a click on it does.

    An entry has the same id in the next menu if that has one with its label at its place in the
    hierarchy. So a click on a menu that is open while it changes never runs another entry's action.
    """

    def __init__(self, make_click: Callable[[Any], Callable[[], None]]) -> None:
        self._make_click = make_click
        self._new_ids = count(ROOT_ID + 1)
        self._ids: dict[_Path, int] = {}

    def build(self, menu: Menu | None) -> MenuEntry:
        """Return the root entry of a menu."""
        ids: dict[_Path, int] = {}
        children = tuple(self._build_children(menu or (), (), ids))
        self._ids = ids
        return MenuEntry(ROOT_ID, {"children-display": Variant("s", "submenu")}, children)

    def _build_children(
        self, items: Any, parent: _Path, ids: dict[_Path, int]
    ) -> Iterator[MenuEntry]:
        for item in items:
            text = item.text
            number = sum(path[:-1] == parent and path[-1][0] == text for path in ids)
            path = (*parent, (text, number))
            ids[path] = self._ids.get(path) or next(self._new_ids)
            children = tuple(self._build_children(item.submenu or (), path, ids))
            yield MenuEntry(ids[path], _properties(item), children, self._make_click(item))


def _properties(item: Any) -> dict[str, Variant]:
    if item is Menu.SEPARATOR:
        return {"type": Variant("s", "separator")}
    properties = {"label": Variant("s", item.text.replace("_", "__"))}
    if not item.enabled:
        properties["enabled"] = Variant("b", False)
    if item.checked is not None:
        properties["toggle-type"] = Variant("s", "radio" if item.radio else "checkmark")
        properties["toggle-state"] = Variant("i", int(item.checked))
    if item.submenu:
        properties["children-display"] = Variant("s", "submenu")
    return properties
