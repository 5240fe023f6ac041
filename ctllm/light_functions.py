"""Small replacements for names of modules that are expensive to import, for `ctllm.lazy_imports`.

Libraries use them when they are imported, for each connection or for each failure. The modules
themselves would be a tenth of a proxy's memory.
"""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Callable, Collection
from functools import partial
from types import FrameType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

# -- inspect

#: The flag of the code of an `async def`, as in `inspect`.
CO_COROUTINE = 128


def isclass(object: object) -> bool:
    """Replace `inspect.isclass`."""
    return isinstance(object, type)


def isfunction(object: object) -> bool:
    """Replace `inspect.isfunction`."""
    return isinstance(object, FunctionType)


def ismethod(object: object) -> bool:
    """Replace `inspect.ismethod`."""
    return isinstance(object, MethodType)


def getmro(cls: type) -> tuple[type, ...]:
    """Replace `inspect.getmro`."""
    return cls.__mro__


def currentframe() -> FrameType | None:
    """Replace `inspect.currentframe`. A traceback has the frame by a public name."""
    try:
        raise LookupError
    except LookupError as error:
        traceback = error.__traceback__
    return traceback.tb_frame.f_back if traceback else None


def iscoroutinefunction(object: Any) -> bool:
    """Replace `inspect.iscoroutinefunction`."""
    while isinstance(object, MethodType | partial):
        object = object.func if isinstance(object, partial) else object.__func__
    return isinstance(object, FunctionType) and bool(object.__code__.co_flags & CO_COROUTINE)


def signature(obj: Any, **options: Any) -> Any:
    """Replace `inspect.signature`: in full for functions, not for classes and methods.

    `dataclasses` makes a class without documentation, as all are with `-OO`, document its
    signature: it is empty. `twisted.python.usage` counts the parameters of methods.
    """
    if isinstance(obj, type):
        return ""
    if isinstance(obj, MethodType):
        code = obj.__func__.__code__
        return SimpleNamespace(parameters=dict.fromkeys(code.co_varnames[1 : code.co_argcount]))
    if getattr(obj, "__module__", None) == __name__:
        raise ValueError("A replacement has no signature.")  # of `optional`, for attrs
    import inspect

    return inspect.Signature.from_callable(obj, **options)


# -- attr, typing_extensions


def in_(options: Collection[object]) -> Callable[[object, Any, object], None]:
    """Replace `attr.validators.in_`."""

    def validate(instance: object, attribute: Any, value: object) -> None:
        if value not in options:
            raise ValueError(f"'{attribute.name}' must be in {options!r} (got {value!r})")

    return validate


def optional(converter: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Replace `attr.converters.optional`, which also copies the annotations."""
    return lambda value: None if value is None else converter(value)


def override(method: Any) -> Any:
    """Replace `typing_extensions.override`."""
    return method


def deprecated(message: str, **options: Any) -> Callable[[Any], Any]:
    """Replace `typing_extensions.deprecated`, without its warnings."""
    return lambda decorated: decorated


def TypeVar(name: str, *constraints: Any, default: object = None, **options: Any) -> Any:
    """Replace `typing_extensions.TypeVar`, whose defaults only type checkers use."""
    return typing.TypeVar(name, *constraints, **options)


# -- the rest of the standard library


def python_implementation() -> str:
    """Replace `platform.python_implementation`."""
    name = sys.implementation.name
    return {"cpython": "CPython", "pypy": "PyPy"}.get(name, name)


def pformat(object: object, **options: Any) -> str:
    """Replace `pprint.pformat`, in one line: autobahn formats what it may log."""
    return repr(object)


def seed(*arguments: Any) -> None:
    """Replace `random.seed`. Without arguments it does nothing: `random` seeds itself."""
    if arguments:
        import random

        random.seed(*arguments)


def token_bytes(size: int) -> bytes:
    """Replace `secrets.token_bytes`."""
    return os.urandom(size)


class getLogger:  # noqa: N801
    """Replace `logging.getLogger`: the logger `name`, which is looked up when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        import logging

        return getattr(logging.getLogger(self._name), attribute)


# -- Twisted, autobahn, constantly


def reapAllProcesses() -> None:
    """Replace that of `twisted.internet.process`: without it, Twisted has started no process."""
    process = sys.modules.get("twisted.internet.process")
    if type(process) is ModuleType:  # it has run
        process.reapAllProcesses()


#: Replaces autobahn's table of compressions of WebSocket messages, of which ctllm uses none.
PERMESSAGE_COMPRESSION_EXTENSION: dict[str, Any] = {}


class TransportDetails(SimpleNamespace):
    """Replaces what autobahn tells WAMP about a connection."""

    CHANNEL_TYPE_TCP, CHANNEL_TYPE_TLS = 4, 5
    CHANNEL_FRAMING_WEBSOCKET = 2

    def marshal(self) -> dict[str, Any]:
        """Return the details by name."""
        return dict(self.__dict__)


def get_versions() -> dict[str, str | None]:
    """Replace what versioneer writes into packages, which reads their version as JSON."""
    return {"version": "0+unknown", "full-revisionid": None, "error": None, "date": None}


class SafeUUID:
    """Replaces `uuid.SafeUUID`, where no UUID is made."""

    unknown = None
