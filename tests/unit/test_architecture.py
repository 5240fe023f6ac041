"""Which modules may import which, and which names only some modules may use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase as TestCase

import ctllm

ROOT = Path(ctllm.__file__).parent

#: What each unit may import of other units. A unit is a package or a module. A module belongs to
#: the longest unit that its name begins with. A grant of a package includes the units within it.
#: Every unit may import `ctllm` itself, which has the version only.
MAY_IMPORT = {
    "errors": set(),
    "common": {"errors"},
    "config": {"errors"},
    "client_snippets": {"errors"},
    "webview_main": set(),
    "keyring_main": {"common"},
    "lazy_imports": set(),
    "light_functions": set(),
    "system": {"errors"},
    "log_observers": {"common"},
    "reactor": {"errors"},
    "auth": {"common", "errors"},
    "ipc": {"common", "errors"},
    "ipc.client": {"ipc", "common", "errors", "system"},
    "http.message": {"common", "errors"},
    "http.interfaces": {"http.message", "reactor", "errors"},
    "http.header_policy": {
        "http.message", "http.request_timeout", "http.subprotocols", "errors",
    },
    "http.request_timeout": {"http.message"},
    "http.request_envelope": {"http.message", "errors"},
    "http.cors": {"http.message", "errors"},
    "http.request_log": {"http.message", "ollama", "reactor"},
    "http.client_address": {"http.message"},
    "http.credentials": {"http.message", "http.subprotocols", "errors"},
    "http.cookies": {"http.message"},
    "http.same_site": {"http.message"},
    "http.subprotocols": {"http.message", "errors"},
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
        "tunnel", "http.request_timeout", "http.timeouts", "reactor", "fastpath", "common",
        "errors",
    },
    "relay": {
        "http.interfaces", "http.message", "http.request_timeout", "ollama", "tunnel", "reactor",
        "common", "errors",
    },
    "demo": {"http", "fastpath", "reactor", "common", "errors"},
    "proxy": {
        "relay", "tunnel", "ollama", "auth", "http", "reactor", "fastpath", "config", "system",
        "common", "errors", "lazy_imports",
    },
    "cloud": set(),
    "cloud.audit": {"http.client_address", "system", "common"},
    "cloud.limits": {
        "cloud.audit", "cloud.identity", "cloud.metrics", "auth", "http.client_address",
        "http.credentials", "http.message", "http.server", "config", "common", "errors",
    },
    "cloud.public_providers": {"config"},
    "web_ui": {"http.message", "http.server", "errors"},
    "cloud.docker_api": {"fastpath", "reactor", "common", "errors"},
    "cloud.identity": {"auth", "common", "errors", "system"},
    "cloud.identity.oidc": {
        "cloud.identity", "auth", "http.client", "http.message", "reactor", "config", "common",
        "errors",
    },
    "cloud.spawners.interfaces": {"errors"},
    "cloud.spawners": {
        "cloud.spawners.interfaces", "cloud.docker_api", "http.client", "reactor", "config",
        "system", "common", "errors",
    },
    "cloud.spawners.factory": {
        "cloud.spawners", "cloud.docker_api", "cloud.identity", "config", "system", "errors",
    },
    "cloud.firewall": {"cloud.spawners"},
    "cloud.metrics": {"cloud.spawners.interfaces"},
    "cloud.proxies.states": set(),
    "cloud.proxies": {
        "cloud.proxies.states", "cloud.audit", "cloud.metrics", "cloud.spawners", "auth",
        "http.client", "http.header_policy", "http.interfaces", "http.message", "reactor", "config",
        "common", "errors",
    },
    "cloud.active_requests": {"cloud.identity", "errors"},
    "cloud.access_enforcer": {
        "cloud.active_requests", "cloud.identity", "errors",
    },
    "cloud.user_accounts": {"cloud.audit", "cloud.identity", "common", "errors"},
    "cloud.session_renewer": {"cloud.identity", "reactor", "errors"},
    "cloud.admin": {
        "cloud.proxies", "cloud.spawners", "cloud.audit", "cloud.metrics", "http.client",
        "http.message", "http.server", "reactor", "system", "common", "errors",
    },
    "cloud.browser_login": {
        "cloud.audit", "cloud.identity", "cloud.limits", "cloud.session_renewer", "auth",
        "http.cookies",
        "http.message", "http.same_site", "http.server", "config", "common", "errors",
    },
    "cloud.session_api": {
        "auth", "cloud.audit", "cloud.identity", "cloud.limits", "cloud.session_renewer",
        "http.cookies",
        "http.message", "http.same_site", "http.server", "errors",
    },
    "cloud.machines": {
        "cloud.audit", "cloud.identity", "auth", "http.client_address", "http.message",
        "http.server", "reactor", "common", "errors",
    },
    "cloud.connected_desktops": {
        "cloud.identity", "cloud.proxies", "auth", "http.client", "http.header_policy",
        "http.message", "reactor", "common", "errors",
    },
    "cloud.stream_probe": {"http.message", "http.server", "reactor", "errors"},
    "cloud.key_api": {"cloud.audit", "cloud.identity", "auth", "http.server", "reactor", "errors"},
    "cloud.api": {
        "cloud.connected_desktops", "cloud.key_api", "cloud.stream_probe",
        "cloud.browser_login", "cloud.limits", "cloud.machines", "cloud.session_api",
        "cloud.public_providers", "cloud.identity", "cloud.proxies", "auth", "http.client",
        "http.header_policy", "http.message", "http.server", "reactor", "config", "errors",
    },
    "cloud.origin_policy": {
        "http.cors", "http.credentials", "http.message", "http.origins", "http.same_site", "errors",
    },
    "cloud.relay_rules": {
        "cloud.identity", "http.credentials", "http.message", "http.request_timeout",
        "http.timeouts", "ollama", "errors",
    },
    "cloud.request_authenticator": {
        "cloud.identity", "cloud.limits", "cloud.machines", "http.client_address",
        "http.credentials", "http.server", "reactor", "errors",
    },
    "cloud.proxy_access": {
        "cloud.identity", "cloud.limits", "cloud.proxies", "http.client",
    },
    "cloud.refusals": {
        "cloud.identity", "http.header_policy", "http.message", "common", "errors",
    },
    "cloud.direct_requests": {
        "cloud.active_requests", "cloud.identity", "cloud.proxies", "http.client",
        "http.header_policy", "http.message", "reactor", "common", "errors",
    },
    "cloud.auth_request": {
        "cloud.direct_requests", "cloud.identity", "cloud.limits", "cloud.origin_policy",
        "cloud.proxy_access", "cloud.refusals", "cloud.relay_rules", "cloud.request_authenticator",
        "web_ui", "http", "http.cors", "http.credentials", "http.header_policy", "http.message",
        "http.request_envelope", "http.request_timeout", "http.server", "ollama", "reactor",
        "errors",
    },
    "cloud.gateway": {
        "cloud.active_requests", "cloud.api", "cloud.direct_requests", "cloud.identity",
        "cloud.machines", "cloud.metrics", "cloud.origin_policy", "cloud.proxies",
        "cloud.proxy_access", "cloud.limits", "cloud.refusals", "cloud.relay_rules",
        "cloud.request_authenticator", "web_ui", "http", "ollama", "reactor", "errors",
    },
    "cloud.application": {
        "cloud.machines", "cloud.connected_desktops", "cloud.key_api",
        "cloud.access_enforcer", "cloud.active_requests", "cloud.admin", "cloud.api",
        "cloud.audit", "cloud.browser_login", "cloud.gateway", "cloud.identity", "cloud.metrics",
        "cloud.proxies", "cloud.session_api", "cloud.session_renewer", "cloud.spawners.factory",
        "cloud.auth_request", "cloud.direct_requests", "cloud.origin_policy", "cloud.proxy_access",
        "cloud.refusals", "cloud.request_authenticator", "cloud.limits", "http.client_address",
        "http.request_log", "http.server", "web_ui", "reactor", "config",
    },
    "cloud.service": {
        "cloud.application", "cloud.metrics", "cloud.limits", "cloud.spawners.factory",
        "http.client_address", "http.message", "http.server", "reactor", "config", "errors",
    },
    "desktop.oauth": {"auth", "http.origins", "common", "errors"},
    "desktop.resources": {
        "desktop.broker", "auth", "http.header_policy", "http.interfaces", "http.message", "ollama",
        "reactor", "common", "errors",
    },
    "desktop.secret_store": {"keyring_main", "reactor", "system", "common", "errors"},
    "desktop.conversations": {
        "desktop.resources", "desktop.secret_store", "auth", "http.interfaces", "http.message",
        "system", "common", "errors",
    },
    "desktop.broker": {
        "desktop", "relay", "tunnel", "ollama", "http", "reactor", "system", "common", "errors",
    },
    "desktop.ipc": {
        "desktop", "desktop.broker", "desktop.oauth", "ipc", "http", "reactor", "system", "common",
        "errors",
    },
    "desktop.service": {
        "desktop", "desktop.broker", "desktop.ipc", "desktop.loopback", "desktop.resources",
        "desktop.conversations", "autostart", "web_ui", "demo", "tunnel", "ollama", "auth", "ipc",
        "http", "reactor", "config", "system", "common", "errors",
    },
    "desktop": {
        "desktop.broker", "desktop.oauth", "desktop.resources", "desktop.secret_store", "relay",
        "tunnel", "ollama", "auth", "ipc", "http", "reactor", "fastpath", "system", "common",
        "errors",
    },
    "autostart": {"system", "errors"},
    "desktop.loopback": {
        "desktop", "desktop.broker", "desktop.ipc", "desktop.oauth", "autostart", "web_ui",
        "ollama", "auth", "ipc", "http", "reactor", "system", "common", "errors",
    },
    "proxy_args": set(),
    "tap_options": {"config", "errors", "proxy_args"},
    "quickstart": {
        "desktop", "cloud", "http", "auth", "reactor", "config", "common", "errors",
        "client_snippets",
    },
    "server": {"web_ui", "common", "errors", "system"},
    "cli": {
        "autostart", "ollama", "desktop", "cloud", "http", "auth", "reactor", "ipc", "config",
        "common", "errors", "client_snippets", "system", "server",
    },
    "tap": {
        "auth", "desktop", "cloud", "proxy", "http", "fastpath", "reactor", "config", "common",
        "errors", "tap_options", "proxy_args", "quickstart", "client_snippets", "log_observers",
        "lazy_imports", "system",
    },
    "proxy_main": {"tap", "lazy_imports"},
    "__main__": {"tap", "lazy_imports"},
}  # fmt: skip

#: Packages that must not do input or output, or read a clock.
SANS_IO = {"common", "auth", "http.message", "ollama", "tunnel", "ipc", "desktop.oauth"}

#: Modules for input, output and clocks.
NOT_SANS_IO = {
    "asyncio", "autobahn", "datetime", "os", "pathlib", "select", "selectors", "socket", "ssl",
    "subprocess", "threading", "time", "twisted", "zope",
}  # fmt: skip


class Import:
    """An imported name, and whether it is imported when the module is (not in a function)."""

    def __init__(self, path: Path, line: int, name: str, is_top_level: bool) -> None:
        self.name = name
        self.is_top_level = is_top_level
        self.where = f"{path.relative_to(ROOT.parent)}:{line}: {name}"


def modules() -> list[Path]:
    """Return the path of every module of the package."""
    return sorted(ROOT.rglob("*.py"))


def unit_of(name: str) -> str:
    """Return the unit of a module, or of a name in a module."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in MAY_IMPORT:
            return ".".join(parts[:length])
    return parts[0]


def module_name(path: Path) -> str:
    """Return the name of a module within `ctllm`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def unit_of_path(path: Path) -> str:
    """Return the unit of a module."""
    return unit_of(module_name(path))


def is_allowed(unit: str, named: str) -> bool:
    """Return whether `unit` may import from the unit `named`."""
    return named == unit or any(
        named == each or named.startswith(f"{each}.") for each in MAY_IMPORT[unit]
    )


def imports(path: Path) -> Iterator[Import]:
    """Yield every import of a module, including those in functions and for type checkers."""
    tree = ast.parse(path.read_text())
    in_functions = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative imports are not used"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(path, node.lineno, name, id(node) not in in_functions)


def all_imports() -> list[tuple[str, Import]]:
    """Return the imports of every module, each with the unit of the module."""
    return [(unit_of_path(path), found) for path in modules() for found in imports(path)]


class ArchitectureTests(TestCase):
    def test_every_module_belongs_to_a_unit(self) -> None:
        self.assertLessEqual(
            {unit_of_path(path) for path in modules()} - {"__init__"}, set(MAY_IMPORT)
        )

    def test_units_import_only_what_the_table_grants(self) -> None:
        wrong = [
            f"{found.where} ({unit} may not import {named})"
            for unit, found in all_imports()
            if found.name.startswith("ctllm.") and unit != "__init__"
            for named in [unit_of(found.name.removeprefix("ctllm."))]
            if named in MAY_IMPORT and not is_allowed(unit, named)
        ]
        self.assertEqual(wrong, [])

    def test_modules_do_not_import_each_other_in_cycles(self) -> None:
        """Neither within a package."""
        names = {module_name(path) for path in modules()}
        graph: dict[str, set[str]] = {}
        for path in modules():
            imported = (found.name.removeprefix("ctllm.") for found in imports(path))
            known = {name if name in names else name.rpartition(".")[0] for name in imported}
            graph[module_name(path)] = (known & names) - {module_name(path)}
        try:
            order = tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            self.fail(f"cycle: {' -> '.join(error.args[1])}")
        self.assertEqual(set(order), names)

    def test_desktop_cloud_and_proxy_do_not_import_each_other(self) -> None:
        """They communicate over HTTP and WebSocket only, whatever the table grants."""
        roles = {"desktop", "cloud", "proxy"}
        wrong = [
            found.where
            for path in modules()
            for found in imports(path)
            for role in roles & {module_name(path).split(".")[0]}
            if found.name.startswith("ctllm.") and found.name.split(".")[1] in roles - {role}
        ]
        self.assertEqual(wrong, [])

    def test_only_the_desktop_imports_the_demo(self) -> None:
        users = {unit for unit, found in all_imports() if found.name.startswith("ctllm.demo")} - {
            "demo"
        }
        self.assertEqual(users, {"desktop.service"})

    def test_only_tap_imports_the_reactor(self) -> None:
        """Other modules get clocks and transports as arguments."""
        named = {
            unit
            for unit, found in all_imports()
            if found.name.startswith("twisted.internet.reactor")
        }
        self.assertEqual(named, {"tap"})

    def test_importing_a_module_does_not_install_a_reactor(self) -> None:
        """Twistd installs one according to its options."""
        wrong = [
            found.where
            for _, found in all_imports()
            if found.is_top_level and found.name.startswith("twisted.internet.reactor")
        ]
        self.assertEqual(wrong, [])

    def test_sans_io_packages_import_no_io_and_no_clock(self) -> None:
        wrong = [
            found.where
            for unit, found in all_imports()
            if unit in SANS_IO and found.name.split(".")[0] in NOT_SANS_IO
        ]
        self.assertEqual(wrong, [])

    def test_only_json_decoder_decodes_json(self) -> None:
        """Msgspec raises errors of several kinds, which `json_decoder` converts to one."""
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

    def test_only_periodic_uses_loops_of_twisted(self) -> None:
        """LoopingCall and TimerService stop at the first exception."""
        wrong = [
            found.where
            for _, found in all_imports()
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

    def test_library_internals_are_recognised(self) -> None:
        """The check above finds each way to use one, and no private name of the product."""
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


#: Undocumented attributes of Twisted and autobahn whose names do not begin with an underscore.
UNDOCUMENTED = {
    "current_frame", "dataBuffer", "dropConnection", "inside_message", "numberAccepts",
    "sendCloseFrame", "wasNotCleanReason",
}  # fmt: skip


def is_private(name: str) -> bool:
    """Return whether a name begins with a single underscore."""
    return name.startswith("_") and not name.startswith("__")


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the functions, classes, variables and attributes that a module defines or assigns."""
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
    """Yield the line and name of each private name of a library that a module uses.

    A private attribute belongs to the product if the module defines it; on `self`, `cls` and
    `super()`, if any module of the product does (`own`). `os._exit` is documented.
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
    """Return whether a node is `json` or an attribute `json`, as in msgspec.json."""
    return (isinstance(node, ast.Name) and node.id == "json") or (
        isinstance(node, ast.Attribute) and node.attr == "json"
    )
