"""The shape of the tree: which way imports point, and what the sans-IO part does without."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase as TestCase

import ctllm

ROOT = Path(ctllm.__file__).parent

#: What each unit of the tree may import of the others. A unit is a package or module of this table:
#: the longest name that a module's own name begins with. `ctllm` itself is the version alone.
MAY = {
    "errors": set(),
    "common": {"errors"},
    "config": {"errors"},
    "client_snippets": {"errors"},
    "webview_main": set(),
    "lazy_imports": set(),
    "system": {"errors"},
    "log_observers": {"common"},
    "reactor": {"errors"},
    "auth": {"common", "errors"},
    "ipc": {"common", "errors"},
    "ipc.client": {"ipc", "common", "errors", "system"},
    "http.message": {"common", "errors"},
    "http.interfaces": {"http.message", "errors"},
    "http.header_policy": {"http.message", "http.request_timeout", "errors"},
    "http.request_timeout": {"http.message"},
    "http.cors": {"http.message", "errors"},
    "http.credentials": {"http.message", "errors"},
    "http.origins": set(),
    "http.timeouts": set(),
    "http.hangup_monitor": {"reactor"},
    "http.splice": {"http.hangup_monitor", "reactor", "fastpath"},
    "http": set(),
    "fastpath": set(),
    "ollama": {"http.message", "common", "errors"},
    "http.client": {
        "http", "http.message", "http.interfaces", "http.header_policy", "http.splice",
        "http.timeouts", "reactor", "fastpath", "common", "errors", "system",
    },
    "http.server": {
        "http", "http.message", "http.interfaces", "http.header_policy", "http.hangup_monitor",
        "http.timeouts", "ollama", "reactor", "fastpath", "common", "errors",
    },
    "ollama.model_lists": {"ollama", "http.message", "common"},
    "tunnel": {"http.interfaces", "http.message", "common", "errors"},
    "tunnel.websocket": {
        "tunnel", "http.timeouts", "reactor", "fastpath", "common", "errors",
    },
    "relay": {
        "http.interfaces", "http.message", "http.request_timeout", "ollama", "tunnel", "reactor",
        "common", "errors",
    },
    "demo": {"http", "fastpath", "reactor", "common", "errors"},
    "proxy": {
        "relay", "tunnel", "ollama", "auth", "http", "reactor", "fastpath", "config", "system",
        "common", "errors",
    },
    "cloud.docker_api": {"http", "fastpath", "reactor", "common", "errors"},
    "cloud.identity": {"auth", "http", "reactor", "common", "errors", "system"},
    "cloud": {
        "cloud.docker_api", "cloud.identity", "relay", "tunnel", "ollama", "auth", "http",
        "reactor", "fastpath", "config", "system", "common", "errors",
    },
    "desktop": {
        "relay", "tunnel", "ollama", "auth", "ipc", "http", "reactor", "fastpath", "config",
        "system", "demo", "common", "errors",
    },
    "proxy_args": set(),
    "tap_options": {"config", "errors", "proxy_args"},
    "quickstart": {
        "desktop", "cloud", "http", "auth", "reactor", "config", "common", "errors",
        "client_snippets",
    },
    "cli": {
        "ollama", "desktop", "cloud", "http", "auth", "reactor", "ipc", "config", "common",
        "errors", "client_snippets", "system",
    },
    "tap": {
        "auth", "desktop", "cloud", "proxy", "http", "fastpath", "reactor", "config", "common",
        "errors", "tap_options", "proxy_args", "quickstart", "client_snippets", "log_observers",
        "lazy_imports",
    },
    "proxy_main": {"tap", "lazy_imports"},
    "__main__": {"tap"},
}  # fmt: skip

#: Packages without input, output or a clock.
SANS_IO = {"common", "auth", "http.message", "ollama", "tunnel", "ipc"}

#: What would be input, output or a clock.
NOT_SANS_IO = {
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


def unit_of(name: str) -> str:
    """The unit of the table that a module or a name in it belongs to: the longest that fits."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in MAY:
            return ".".join(parts[:length])
    return parts[0]


def part_of(path: Path) -> str:
    """The unit that a module belongs to."""
    return unit_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def allowed(unit: str, named: str) -> bool:
    """Whether a unit may import from another: itself, or one that the table grants, or below it."""
    return named == unit or any(named == each or named.startswith(f"{each}.") for each in MAY[unit])


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
        """From tap and cli down to errors, as the table says; never back."""
        wrong = [
            f"{found.where} ({part} may not import {named})"
            for part, found in everything()
            if found.name.startswith("ctllm.") and part != "__init__"
            for named in [unit_of(found.name.removeprefix("ctllm."))]
            if named in MAY and not allowed(part, named)
        ]
        self.assertEqual(wrong, [])

    def test_the_places_never_import_each_other(self) -> None:
        """Desktop, cloud and proxy meet on the wire alone; the table above cannot say otherwise."""
        places = {"desktop", "cloud", "proxy"}
        for place in places:
            self.assertEqual(MAY[place] & places, set())

    def test_the_demo_is_for_the_desktop(self) -> None:
        """No other part knows the demo."""
        users = {part for part, found in everything() if found.name.startswith("ctllm.demo")} - {
            "demo"
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

    def test_protocols_are_sans_io(self) -> None:
        """Bytes to values and back: no Twisted, no sockets, no files, no clock."""
        wrong = [
            found.where
            for part, found in everything()
            if part in SANS_IO and found.name.split(".")[0] in NOT_SANS_IO
        ]
        self.assertEqual(wrong, [])

    def test_one_decoder_of_json(self) -> None:
        """Only `ctllm.common.json_decoder` decodes: msgspec raises errors of several kinds."""
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
        """Nobody but `ctllm.reactor.periodic`: Twisted's own loops end at the first exception."""
        wrong = [
            found.where
            for _, found in everything()
            if found.name.endswith((".LoopingCall", ".TimerService"))
            and "reactor/periodic.py" not in found.where
        ]
        self.assertEqual(wrong, [])

    def test_private_names_of_libraries_are_used_in_fastpath_alone(self) -> None:
        """Private attributes and modules of Twisted and autobahn, each with a public fallback."""
        trees = {path: ast.parse(path.read_text()) for path in modules()}
        own = {name for tree in trees.values() for name in defined_names(tree)}
        wrong = [
            f"{path.relative_to(ROOT.parent)}:{line}: {name}"
            for path, tree in trees.items()
            if path.parent != ROOT / "fastpath"
            for line, name in library_internals(tree, own)
        ]
        self.assertEqual(wrong, [])

    def test_private_names_of_libraries_are_recognised(self) -> None:
        """The check above finds each way to use one, and no private name of the product's."""
        source = """
import _private_module
from library._private import name
from library import _name
class Ours(Theirs):
    def method(self, other, port):
        self._ours = self._helper(other._helper)
        self._elsewhere = other._theirs
        port.numberAccepts += self._inherited
        return os._exit(getattr(port, "_hidden", 0))
    def _helper(self):
        return super()._ours
"""
        tree = ast.parse(source)
        own = {*defined_names(tree), "_elsewhere"}
        self.assertEqual(
            {name for _, name in library_internals(tree, own)},
            {"_private_module", "library._private.name", "library._name", "other._theirs",
             "port.numberAccepts", "self._inherited", "getattr _hidden"},
        )  # fmt: skip


#: Attributes of Twisted's and autobahn's objects that are undocumented, though not by their names.
UNDOCUMENTED = {
    "current_frame", "dataBuffer", "dropConnection", "inside_message", "numberAccepts",
    "sendCloseFrame", "wasNotCleanReason",
}  # fmt: skip


def is_private(name: str) -> bool:
    """Whether it begins with a single underscore."""
    return name.startswith("_") and not name.startswith("__")


def defined_names(tree: ast.AST) -> Iterator[str]:
    """The private functions, classes and attributes that a module defines or assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # as in __slots__


def library_internals(tree: ast.AST, own: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of each private name that a module uses of a library.

    A private attribute is the product's on any object if the module defines it, and on `self`,
    `cls` and `super()` if the product does (`own`). `os._exit` is documented.
    """
    defined = set(defined_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if any(is_private(part) for part in alias.name.split(".")):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if any(is_private(part) for part in name.split(".")):
                    yield node.lineno, name
        elif isinstance(node, ast.Attribute):
            value = ast.unparse(node.value)
            allowed = own if value in {"self", "cls", "super()"} else defined
            is_internal = is_private(node.attr) and node.attr not in allowed
            name = f"{value}.{node.attr}"
            if (is_internal and name != "os._exit") or node.attr in UNDOCUMENTED:
                yield node.lineno, name
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            function, argument = ast.unparse(node.func), node.args[1]
            if function in {"getattr", "hasattr", "setattr"} and isinstance(argument, ast.Constant):
                name = str(argument.value)
                if is_private(name) or name in UNDOCUMENTED:
                    yield node.lineno, f"{function} {name}"


def _is_json(node: ast.expr) -> bool:
    """Whether it is `json`, or something's `json`, as in msgspec.json."""
    return (isinstance(node, ast.Name) and node.id == "json") or (
        isinstance(node, ast.Attribute) and node.attr == "json"
    )
