"""Tests of `ctllm.lazy_imports`."""

from __future__ import annotations

import builtins
import importlib
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.lazy_imports import REAL_IN_LAZY_MODULES, LazyNames, install, run_lazy_modules

# Each module appends its name to `ran` when it runs.
SOURCES = {
    "tt_lazy/__init__.py": "ran.append('tt_lazy')\nfrom tt_lazy.part import Thing\nown = 7",
    "tt_lazy/part.py": "ran.append('part')\nclass Thing: pass\ndef call(): return 'called'",
    "tt_lazy/other.py": "ran.append('other')",
    "tt_names.py": (
        "ran.append('tt_names')\n"
        "class Kind:\n    size = 3\n    def __class_getitem__(cls, item): return item\n"
        "table = {'a': 1}\n"
        "def double(x): return 2 * x\n"
        "def broken(): raise KeyError('its own')"
    ),
    "tt_user.py": "from tt_names import Kind\nfound = type(Kind)",
    "tt_slow.py": "ran.append('tt_slow')\nbegan.set()\nfinish.wait()\nvalue = 7",
    "tt_incomplete.py": "ran.append('tt_incomplete')\nimport tt_not_installed",
    "tt_failing.py": (
        "ran.append('tt_failing')\nif len(ran) == 1: raise PermissionError\nvalue = 7"
    ),
}


class LazyImportTests(SynchronousTestCase):
    """Modules in a temporary folder."""

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
        self.addCleanup(self.remove_modules)
        importlib.invalidate_caches()

    def remove_modules(self) -> None:
        for name in [name for name in sys.modules if name.startswith("tt_")]:
            del sys.modules[name]

    def import_lazily(self, name: str, **names: str) -> Any:
        lazy_names: LazyNames = names
        install((), {name: lazy_names})
        return importlib.import_module(name)

    def test_a_lazy_module_runs_once_when_it_is_used(self) -> None:
        package = self.import_lazily("tt_lazy")
        self.assertEqual(self.ran, [])
        self.assertEqual(package.own, 7)
        self.assertEqual((package.own, self.ran), (7, ["tt_lazy", "part"]))

    def test_special_attributes_do_not_run_a_lazy_module(self) -> None:
        package = self.import_lazily("tt_lazy")
        self.assertFalse(hasattr(package, "__warningregistry__"))
        self.assertEqual((package.__name__, self.ran), ("tt_lazy", []))

    def test_submodules_are_imported_without_running_their_package(self) -> None:
        package = self.import_lazily("tt_lazy")
        namespace: dict[str, Any] = {}
        exec("from tt_lazy import part\nimport tt_lazy.other", namespace)
        self.assertEqual((namespace["part"].call(), self.ran), ("called", ["part", "other"]))
        self.assertIs(package.part, namespace["part"])

    def test_a_name_with_a_known_submodule_is_the_real_object(self) -> None:
        package = self.import_lazily("tt_lazy", Thing="tt_lazy.part")
        thing = package.Thing
        self.assertEqual(self.ran, ["part"])
        self.assertEqual(package.own, 7)
        self.assertIs(package.Thing, thing)

    def test_an_unknown_name_raises_after_the_module_ran(self) -> None:
        package = self.import_lazily("tt_lazy")
        self.assertFalse(hasattr(package, "nothing"))
        self.assertIn("tt_lazy", self.ran)

    def test_a_star_import_runs_the_module(self) -> None:
        self.import_lazily("tt_lazy")
        namespace: dict[str, Any] = {}
        exec("from tt_lazy import *", namespace)
        self.assertEqual(namespace["own"], 7)

    def test_a_proxied_name_delegates_to_the_real_object(self) -> None:
        names: Any = self.import_lazily("tt_names", Kind="", table="", double="")
        kind, table, double = names.Kind, names.table, names.double
        alias: Any = list
        annotated: Any = {"a": kind, "b": alias[kind]}
        self.assertEqual((len(annotated), self.ran), (2, []))
        self.assertEqual(double(21), 42)
        self.assertEqual(self.ran, ["tt_names"])
        self.assertTrue("a" in table and "b" not in table)
        self.assertEqual((table["a"], kind[int], kind.size), (1, int, 3))
        self.assertIsInstance(names.Kind(), kind)
        self.assertNotIsInstance(7, kind)
        self.assertIs(type(kind()), names.Kind)

    def test_a_subclass_of_a_proxied_name_is_made_when_it_is_used(self) -> None:
        names = self.import_lazily("tt_names", Kind="")

        class Subclass(names.Kind):  # type: ignore[name-defined]
            own = 1

            def doubled_size(self) -> Any:
                return super().__getattribute__("size") * 2

        class Further(Subclass): ...

        self.assertEqual(self.ran, [])
        thing = Further()
        self.assertEqual((thing.doubled_size(), Subclass.own), (6, 1))
        self.assertEqual([each.__name__ for each in type(thing).__mro__[:3]],
                         ["Further", "Subclass", "Kind"])  # fmt: skip
        self.assertIs(type(thing).__mro__[2], names.Kind)
        self.assertIs(type(Further()), type(thing))
        self.assertIsInstance(thing, Subclass)

    def test_a_lazy_module_that_runs_gets_a_real_object_instead_of_a_proxy(self) -> None:
        names = self.import_lazily("tt_names", Kind=REAL_IN_LAZY_MODULES)
        self.assertIsNot(type(names.Kind), type)
        self.assertEqual(self.ran, [])
        self.assertIs(self.import_lazily("tt_user").found, type)

    def test_a_thread_waits_until_a_module_that_another_one_uses_has_run(self) -> None:
        slow = self.import_lazily("tt_slow")
        began, finish = threading.Event(), threading.Event()
        builtins.began, builtins.finish = began, finish  # type: ignore[attr-defined]
        self.addCleanup(delattr, builtins, "began")
        self.addCleanup(delattr, builtins, "finish")
        threads = ThreadPoolExecutor()
        self.addCleanup(threads.shutdown)
        self.addCleanup(finish.set)
        first = threads.submit(lambda: slow.value)
        began.wait()
        second = threads.submit(lambda: slow.value)
        with self.assertRaises(TimeoutError):
            second.result(timeout=0.05)
        finish.set()
        self.assertEqual((first.result(), second.result(), self.ran), (7, 7, ["tt_slow"]))

    def test_a_module_that_failed_runs_again_at_its_next_use(self) -> None:
        failing = self.import_lazily("tt_failing")
        self.assertRaises(PermissionError, getattr, failing, "value")
        self.assertEqual(failing.value, 7)

    def test_those_that_are_imported_run_at_once_except_what_is_named_or_lacks_a_module(
        self,
    ) -> None:
        names: dict[str, LazyNames] = {
            name: {} for name in ("tt_lazy", "tt_names", "tt_incomplete", "tt_slow")
        }
        names["tt_lazy"] = {"Thing": "tt_lazy.part"}
        install([], names)
        modules = [importlib.import_module(name) for name in ("tt_lazy", "tt_incomplete")]
        importlib.import_module("tt_slow")
        run_lazy_modules(except_for={"tt_slow"})
        self.assertEqual(self.ran, ["tt_lazy", "part", "tt_incomplete"])
        self.assertEqual(modules[0].__dict__["own"], 7)
        self.assertRaises(ImportError, getattr, modules[1], "anything")

    def test_errors_of_the_real_object_are_raised(self) -> None:
        broken = self.import_lazily("tt_names", broken="").broken
        self.assertRaises(KeyError, broken)

    def test_a_missing_module_raises_import_error_unless_it_was_imported(self) -> None:
        install(("tt_names", "json"), {})
        self.assertRaises(ImportError, importlib.import_module, "tt_names")
        self.assertEqual((importlib.import_module("json").loads("7"), self.ran), (7, []))

    def test_a_lazy_module_that_does_not_exist_raises_import_error(self) -> None:
        install((), {"tt_nowhere": {}})
        self.assertRaises(ImportError, importlib.import_module, "tt_nowhere")
