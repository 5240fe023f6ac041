"""Imports put off: nothing runs before it is used, and then it is all there."""

from __future__ import annotations

import builtins
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.lazy_imports import LazyNames, install

# Each module says that it ran.
SOURCES = {
    "tt_later/__init__.py": "ran.append('tt_later')\nfrom tt_later.part import Thing\nown = 7",
    "tt_later/part.py": "ran.append('part')\nclass Thing: pass\ndef call(): return 'called'",
    "tt_later/other.py": "ran.append('other')",
    "tt_names.py": (
        "ran.append('tt_names')\n"
        "class Kind:\n    size = 3\n    def __class_getitem__(cls, item): return item\n"
        "table = {'a': 1}\n"
        "def double(x): return 2 * x\n"
        "def broken(): raise KeyError('its own')"
    ),
}


class LazyImportTests(SynchronousTestCase):
    """Modules and names that are imported on first use."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name, source in SOURCES.items():
            path = Path(folder.name, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        self.ran: list[str] = []
        self.patch(sys, "path", [folder.name, *sys.path])
        self.patch(sys, "meta_path", list(sys.meta_path))
        builtins.ran = self.ran  # type: ignore[attr-defined]
        self.addCleanup(delattr, builtins, "ran")
        self.addCleanup(self.forget)
        importlib.invalidate_caches()

    def forget(self) -> None:
        for name in [name for name in sys.modules if name.startswith("tt_")]:
            del sys.modules[name]

    def later(self, name: str, **names: str) -> Any:
        given: LazyNames = names
        install((), {name: given})
        return importlib.import_module(name)

    def test_runs_a_module_once_on_first_use(self) -> None:
        package = self.later("tt_later")
        self.assertEqual(self.ran, [])
        self.assertEqual(package.own, 7)
        self.assertEqual((package.own, self.ran), (7, ["tt_later", "part"]))

    def test_introspection_does_not_run_a_module(self) -> None:
        package = self.later("tt_later")
        self.assertFalse(hasattr(package, "__warningregistry__"))
        self.assertEqual((package.__name__, self.ran), ("tt_later", []))

    def test_imports_submodules_without_the_package(self) -> None:
        package = self.later("tt_later")
        namespace: dict[str, Any] = {}
        exec("from tt_later import part\nimport tt_later.other", namespace)
        self.assertEqual((namespace["part"].call(), self.ran), ("called", ["part", "other"]))
        self.assertIs(package.part, namespace["part"])

    def test_known_name_does_not_run_the_package(self) -> None:
        package = self.later("tt_later", Thing="tt_later.part")
        thing = package.Thing
        self.assertEqual(self.ran, ["part"])
        self.assertEqual(package.own, 7)
        self.assertIs(package.Thing, thing)

    def test_unknown_name_raises_after_the_import(self) -> None:
        package = self.later("tt_later")
        self.assertFalse(hasattr(package, "nothing"))
        self.assertIn("tt_later", self.ran)

    def test_star_import_runs_the_module(self) -> None:
        self.later("tt_later")
        namespace: dict[str, Any] = {}
        exec("from tt_later import *", namespace)
        self.assertEqual(namespace["own"], 7)

    def test_lazy_names_act_as_the_real_ones(self) -> None:
        names = self.later("tt_names", Kind="", table="", double="")
        kind, table, double = names.Kind, names.table, names.double
        annotated: Any = {"a": kind, "b": list[kind]}
        self.assertEqual((len(annotated), self.ran), (2, []))
        self.assertEqual(double(21), 42)
        self.assertEqual(self.ran, ["tt_names"])
        self.assertTrue("a" in table and "b" not in table)
        self.assertEqual((table["a"], kind[int], kind.size), (1, int, 3))
        self.assertIsInstance(names.Kind(), kind)
        self.assertNotIsInstance(7, kind)
        self.assertIs(type(kind()), names.Kind)

    def test_lazy_base_gives_a_subclass_of_the_real_class(self) -> None:
        names = self.later("tt_names", Kind="")

        class Own(names.Kind):  # type: ignore[misc, name-defined]
            own = 1

        self.assertEqual((Own.__mro__[1], Own.own), (names.Kind, 1))

    def test_raises_the_errors_of_the_module(self) -> None:
        broken = self.later("tt_names", broken="").broken
        self.assertRaises(KeyError, broken)

    def test_excluded_module_is_not_found_unless_imported(self) -> None:
        install(("tt_names", "json"), {})
        self.assertRaises(ImportError, importlib.import_module, "tt_names")
        self.assertEqual((importlib.import_module("json").loads("7"), self.ran), (7, []))

    def test_missing_module_is_not_found(self) -> None:
        install((), {"tt_nowhere": {}})
        self.assertRaises(ImportError, importlib.import_module, "tt_nowhere")
