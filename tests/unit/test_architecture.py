"""The shape of the tree: which way imports point, and what the sans-IO part does without."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase as TestCase

import ctllm

ROOT = Path(ctllm.__file__).parent

#: What each part of the tree may import of the others. `ctllm` itself is the version alone.
MAY = {
    "errors": set(),
    "wire": {"errors"},
    "config": {"errors"},
    "client_snippets": {"errors"},
    "screen": set(),
    "window": set(),
    "programs": set(),
    "holding": set(),
    "unix_sockets": set(),
    "sandbox": set(),
    "ipc": {"wire", "errors", "unix_sockets"},
    "logs": {"wire"},
    "later": set(),
    "http": {"wire", "errors", "unix_sockets"},
    "standin": {"http", "wire", "errors"},
    "proxy": {"http", "wire", "config", "errors", "sandbox"},
    "cloud": {"http", "wire", "config", "errors", "holding", "sandbox", "unix_sockets"},
    "desktop": {
        "http", "wire", "config", "errors", "standin", "holding", "programs", "screen",
        "unix_sockets",
    },
    "place": set(),
    "options": {"config", "errors", "place"},
    "welcome": {"desktop", "cloud", "http", "wire", "config", "errors", "client_snippets"},
    "cli": {
        "desktop", "cloud", "http", "wire", "config", "errors",
        "client_snippets", "ipc", "programs",
    },
    "tap": {
        "desktop", "cloud", "proxy", "http", "wire", "config", "errors",
        "options", "place", "welcome", "client_snippets", "logs", "later",
    },
    "lean": {"tap", "later"},
    "__main__": {"tap"},
}  # fmt: skip

#: What would be input, output or a clock.
NOT_IN_WIRE = {
    "asyncio", "autobahn", "datetime", "os", "pathlib", "select", "selectors", "socket", "ssl",
    "subprocess", "threading", "time", "twisted", "zope",
}  # fmt: skip


class Import:
    """One import: what is named, and whether it happens when the module is imported."""

    def __init__(self, path: Path, line: int, name: str, at_once: bool) -> None:
        self.name = name
        self.at_once = at_once
        self.where = f"{path.relative_to(ROOT.parent)}:{line}: {name}"


def modules() -> list[Path]:
    """Every module of the product."""
    return sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the tree that a module belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[Import]:
    """Every import of a module, those within functions and for type checkers included."""
    tree = ast.parse(path.read_text())
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are written out in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(path, node.lineno, name, id(node) not in later)


def everything() -> list[tuple[str, Import]]:
    """(part, import) of the whole tree."""
    return [(part_of(path), found) for path in modules() for found in imports(path)]


class ArchitectureTests(TestCase):
    def test_every_part_is_known(self) -> None:
        """A new part of the tree says here what it may import."""
        self.assertLessEqual({part_of(path) for path in modules()} - {"__init__"}, set(MAY))

    def test_imports_point_one_way(self) -> None:
        """tap, welcome, cli -> desktop, cloud, proxy -> http -> wire -> errors; never back."""
        wrong = [
            found.where
            for part, found in everything()
            if found.name.startswith("ctllm.") and part != "__init__"
            for named in [found.name.split(".")[1]]
            if named in MAY and named != part and named not in MAY[part]
        ]
        self.assertEqual(wrong, [])

    def test_the_places_never_import_each_other(self) -> None:
        """Desktop, cloud and proxy meet on the wire alone; the table above cannot say otherwise."""
        places = {"desktop", "cloud", "proxy"}
        for place in places:
            self.assertEqual(MAY[place] & places, set())

    def test_the_standin_is_for_the_desktop_and_the_tests(self) -> None:
        """No other part knows the stand-in."""
        users = {part for part, found in everything() if found.name.startswith("ctllm.standin")} - {
            "standin"
        }
        self.assertEqual(users, {"desktop"})

    def test_only_the_composition_root_names_the_reactor(self) -> None:
        """Time and transports are passed in."""
        named = {
            part
            for part, found in everything()
            if found.name.startswith("twisted.internet.reactor")
        }
        self.assertEqual(named, {"tap"})

    def test_nobody_installs_a_reactor_by_importing(self) -> None:
        """Not even the composition root names the reactor at import: twistd chooses it first."""
        wrong = [
            found.where
            for _, found in everything()
            if found.at_once and found.name.startswith("twisted.internet.reactor")
        ]
        self.assertEqual(wrong, [])

    def test_wire_is_sans_io(self) -> None:
        """Bytes to values and back: no Twisted, no sockets, no files, no clock."""
        wrong = [
            found.where
            for part, found in everything()
            if part == "wire" and found.name.split(".")[0] in NOT_IN_WIRE
        ]
        self.assertEqual(wrong, [])

    def test_one_decoder_of_json(self) -> None:
        """Nobody but `ctllm.wire.json_decoder` decodes: msgspec raises errors of several kinds."""
        wrong = [
            f"{path}:{node.lineno}"
            for path in [*modules(), *(ROOT.parent / "tray").rglob("*.py")]
            if path.name != "json_decoder.py"
            for node in ast.walk(ast.parse(path.read_text()))
            if (
                isinstance(node, ast.Attribute)
                and (
                    (node.attr in ("decode", "Decoder") and _is_json(node.value))
                    or (node.attr in ("load", "loads") and _is_json(node.value))
                )
            )
            or (
                isinstance(node, ast.ImportFrom)
                and node.module in ("json", "msgspec.json")
                and any(
                    alias.name in ("decode", "Decoder", "load", "loads") for alias in node.names
                )
            )
        ]
        self.assertEqual(wrong, [])

    def test_one_way_to_repeat(self) -> None:
        """Nobody but `ctllm.http.periodic`: Twisted's own loops end at the first exception."""
        wrong = [
            found.where
            for _, found in everything()
            if found.name.endswith((".LoopingCall", ".TimerService"))
            and "http/periodic.py" not in found.where
        ]
        self.assertEqual(wrong, [])


def _is_json(node: ast.expr) -> bool:
    """Whether it is `json`, or something's `json`, as in msgspec.json."""
    return (isinstance(node, ast.Name) and node.id == "json") or (
        isinstance(node, ast.Attribute) and node.attr == "json"
    )
