"""Imports that a lean process puts off, or does without.

Libraries import whatever any of their users might need; of a streaming proxy's memory that was
more than a third. Python's import system has a way out for each of the two kinds:

- what a library tries to import and can do without is as if it were not installed;
- all else can be imported, but its code does not run before something of it is used. So nothing
  is missing: at worst it comes late.

What is named is not loaded here and now; call `install` before anything imports it.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # a tenth of the standard library comes with the real one, and no behaviour

LazyNames = Mapping[str, str]
"""What may be imported by name from a module without running it, and the submodule where that
is; "" for what is itself looked up when it is used.
"""

#: autobahn's other half: WAMP, which is another protocol on top of WebSockets.
LAZY_WAMP: Mapping[str, LazyNames] = {
    "autobahn.twisted": {},
    "autobahn.wamp": {},
    "autobahn.wamp.message": {"Message": "", "Welcome": ""},
    "hyperlink": {},
}


def install(missing: Sequence[str], lazy: Mapping[str, LazyNames]) -> None:
    """Let the modules `without` not be installed, and those of `later` run when they are used."""
    for name in missing:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # a documented meaning
    sys.meta_path.insert(0, _LazyFinder(lazy))


class _LazyFinder:
    """Finds the modules of `later`, and nothing else, for a loader that puts them off."""

    def __init__(self, later: Mapping[str, LazyNames]) -> None:
        self._later = later

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        names = self._later.get(fullname)
        if names is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LazyLoader(spec.loader, names)
        return spec


class _LazyLoader(Loader):
    """Makes modules that `loader` is to run later."""

    def __init__(self, loader: Loader, names: LazyNames) -> None:
        self.loader = loader
        self.names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _LazyModule


class _LazyModule(ModuleType):
    """A module that has not run yet."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)  # what Python itself asks any module for
        names = self.__spec__.loader.names  # type: ignore[union-attr]
        if home := names.get(name):
            return getattr(importlib.import_module(home), name)
        if name in names:
            return _make_proxy_class(self, name)
        if self._has_submodule(name):
            return importlib.import_module(f"{self.__name__}.{name}")
        return getattr(_execute(self), name)

    def _has_submodule(self, name: str) -> bool:
        path = self.__dict__.get("__path__")
        return (
            path is not None and PathFinder.find_spec(f"{self.__name__}.{name}", path) is not None
        )


def _execute(module: ModuleType) -> ModuleType:
    """Run a module, unless it ran."""
    spec = module.__spec__
    if spec is not None and isinstance(spec.loader, _LazyLoader):
        spec.loader = module.__loader__ = spec.loader.loader
        module.__class__ = ModuleType
        spec.loader.exec_module(module)
    return module


class _ClassProxy(type):
    """Names of modules that have not run: what is done with one is done with the real one.

    They are classes, since that is what most names are, and what some are used as at import.
    """

    _module: ModuleType

    def __new__(mcs, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(mcs, name, bases, namespace)
        real = tuple(base._real() if isinstance(base, _ClassProxy) else base for base in bases)
        return types.new_class(name, real, exec_body=lambda body: body.update(namespace))

    def _real(cls) -> Any:
        return getattr(_execute(cls._module), cls.__name__)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return cls._real()(*arguments, **named)

    def __contains__(cls, item: Any) -> bool:
        return item in cls._real()

    def __getitem__(cls, item: Any) -> Any:
        return cls._real()[item]

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._real())


def _make_proxy_class(module: ModuleType, name: str) -> Any:
    return _ClassProxy(name, (), {"_module": module})
