"""Lazy imports, to save memory.

Libraries import modules that most of their users need, but not all: more than a third of a
streaming proxy's memory. `install` prevents that in two ways:

- Optional modules raise ImportError, as if they were not installed.
- Other modules are imported, but their code runs only when an attribute is used.
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
    Loader = object  # importlib.abc has no behaviour that is needed, and imports much

LazyNames = Mapping[str, str]
"""Names that may be imported from a module without running it.

Each maps to the submodule that defines the name, or to "" for a proxy that resolves it when used.
"""

#: autobahn's implementation of WAMP, a protocol on top of WebSocket that ctllm does not use.
LAZY_WAMP: Mapping[str, LazyNames] = {
    "autobahn.twisted": {},
    "autobahn.wamp": {},
    "autobahn.wamp.message": {"Message": "", "Welcome": ""},
    "hyperlink": {},
}


def install(missing: Sequence[str], lazy: Mapping[str, LazyNames]) -> None:
    """Make the modules `missing` unavailable and the modules `lazy` run when they are used.

    Modules that are imported already stay as they are.
    """
    for name in missing:
        # The import system raises ImportError for None.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    sys.meta_path.insert(0, _LazyFinder(lazy))


class _LazyFinder:
    """A meta path finder for lazy modules."""

    def __init__(self, lazy: Mapping[str, LazyNames]) -> None:
        self._lazy = lazy

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        names = self._lazy.get(fullname)
        if names is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LazyLoader(spec.loader, names)
        return spec


class _LazyLoader(Loader):
    """A loader of modules that `loader` executes when they are used."""

    def __init__(self, loader: Loader, names: LazyNames) -> None:
        self.loader = loader
        self.names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _LazyModule


class _LazyModule(ModuleType):
    """A module whose code has not run yet."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)  # the import system looks these up
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
    """Run the code of a lazy module, unless it has run."""
    spec = module.__spec__
    if spec is not None and isinstance(spec.loader, _LazyLoader):
        spec.loader = module.__loader__ = spec.loader.loader
        module.__class__ = ModuleType
        spec.loader.exec_module(module)
    return module


class _ClassProxy(type):
    """The metaclass of proxies of names of lazy modules. Each delegates to the real object.

    They are classes, because most of these names are used as classes or bases at import.
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
