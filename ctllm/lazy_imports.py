"""Lazy imports, to save memory.

Libraries import modules that most of their users need, but not all: more than a third of a
streaming proxy's memory, and a sixth of a desktop's. `install` prevents that in two ways:

- Optional modules raise ImportError, as if they were not installed.
- Other modules are imported, but their code runs only when an attribute is used.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib.machinery import BuiltinImporter, ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc has no behaviour that is needed, and imports much

LazyNames = Mapping[str, str]
"""Names that may be imported from a module without running it.

Each maps to the module that defines or replaces it, or to "" for a proxy that resolves it when it
is used.
"""

REAL_IN_LAZY_MODULES = "real in lazy modules"
"""Instead of a module in `LazyNames`: a proxy as for "", but the real object for a lazy module that
runs. It may name it in an `except` clause, which takes no proxy."""

_LIGHT = "ctllm.light_functions"


def _names_in(module: str, *names: str) -> LazyNames:
    return dict.fromkeys(" ".join(names).split(), module)


#: Optional dependencies of autobahn: text messages, coloured output, compression.
UNUSED_MODULES = ("_nvx_utf8validator", "click", "snappy", "brotli", "brotlicffi")

#: Modules that libraries import at the top of a module, and that ctllm's programs rarely use.
LAZY_MODULES: Mapping[str, LazyNames] = {
    # Twisted: its HTTP client, asyncio, imports from archives, persistent applications, threads,
    # logs in JSON and in tests.
    "http.cookiejar": {},
    "html.entities": {"html5": ""},
    "asyncio": {
        "AbstractEventLoop": "",
        "Future": "",
        "iscoroutine": "asyncio.coroutines",
        "iscoroutinefunction": "asyncio.coroutines",
    },
    "twisted.python.zippath": {"ZipArchive": ""},
    "twisted.persisted.sob": {},
    "twisted.internet.threads": {"deferToThread": "", "deferToThreadPool": ""},
    "twisted.python.threadpool": {"ThreadPool": ""},
    "twisted.logger._capture": {"capturedLogs": ""},
    "twisted.logger._json": {
        "eventAsJSON": "",
        "eventFromJSON": "",
        "eventsFromJSONLogFile": "",
        "jsonFileLogObserver": "",
        "log": "",
    },
    "subprocess": {},
    "pickle": {},
    "random": {"seed": _LIGHT},
    "secrets": {"token_bytes": _LIGHT, "token_hex": "", "token_urlsafe": ""},
    "json": {},
    "platform": {"python_implementation": _LIGHT},
    "typing_extensions": {
        "Buffer": "",
        **_names_in(_LIGHT, "TypeVar deprecated override"),
        **_names_in(
            "typing",
            "Concatenate Literal NotRequired ParamSpec Required Self TypeAlias TypedDict",
            "get_type_hints",
        ),
    },
    "attr.converters": {"optional": _LIGHT},
    "attr.validators": {"in_": _LIGHT},
    "attrs": _names_in("attr", "Factory define field frozen"),
    "constantly._version": {"get_versions": _LIGHT},
    "logging": {"getLogger": _LIGHT},
    "twisted.logger._stdlib": {
        "STDLibLogObserver": "",
        "StringifiableFromEvent": "",
        "fromStdlibLogLevelMapping": "",
    },
    "twisted.internet.process": {"reapAllProcesses": _LIGHT},
    "twisted.python.logfile": {"DailyLogFile": "", "LogFile": ""},
    # The standard library: what `inspect`, `socket`, `traceback` and `getopt` need for little.
    "ast": {"NodeVisitor": ""},
    "inspect": _names_in(
        _LIGHT,
        "currentframe getmro isclass iscoroutinefunction isfunction ismethod signature",
    ),
    "tokenize": {},
    "dis": {"findlinestarts": ""},
    # What `datetime` defines in Python before it takes the same from C. Later versions do not.
    "datetime": _names_in(
        "_datetime",
        "MAXYEAR MINYEAR UTC date datetime datetime_CAPI time timedelta timezone tzinfo",
    ),
    "selectors": {},
    "textwrap": {},
    "gettext": {"gettext": "", "ngettext": ""},
    # autobahn's implementation of WAMP, a protocol on top of WebSocket, and its compression with
    # bzip2.
    "autobahn.twisted": {},
    "autobahn.wamp": {},
    "autobahn.wamp.types": {"TransportDetails": _LIGHT},
    "autobahn.websocket.compress": {
        "PERMESSAGE_COMPRESSION_EXTENSION": _LIGHT,
        "PerMessageDeflateOffer": "",
        "PerMessageDeflateOfferAccept": "",
        "PerMessageDeflateResponse": "",
        "PerMessageDeflateResponseAccept": "",
    },
    "pprint": {"pformat": _LIGHT},
    "autobahn.wamp.message": {"Message": "", "Welcome": ""},
    "autobahn.wamp.websocket": {
        "WampWebSocketClientFactory": "",
        "WampWebSocketClientProtocol": "",
        "WampWebSocketServerFactory": "",
        "WampWebSocketServerProtocol": "",
    },
    "hyperlink": {},
    "bz2": {},
    # cryptography: the addresses of certificates, and keys of SSH.
    "email.utils": {"parseaddr": ""},
    "cryptography.hazmat.primitives.serialization.ssh": {
        "SSHCertPrivateKeyTypes": "",
        "SSHCertPublicKeyTypes": "",
        "SSHCertificate": "",
        "SSHCertificateBuilder": "",
        "SSHCertificateType": "",
        "SSHPrivateKeyTypes": "",
        "SSHPublicKeyTypes": "",
        "load_ssh_private_key": "",
        "load_ssh_public_identity": "",
        "load_ssh_public_key": "",
        "ssh_key_fingerprint": "",
    },
    # msgspec: the JSON schemas of types.
    "msgspec._json_schema": {"schema": "", "schema_components": ""},
    "ipaddress": {},
    "nacl.bindings": {},
    "nacl.public": {"PrivateKey": "", "PublicKey": "", "SealedBox": ""},
    "nacl.pwhash": {},
    "nacl.pwhash.argon2id": {},
    "nacl.secret": {"Aead": ""},
    "nacl.utils": {},
    "calendar": {"timegm": ""},
    "shutil": {},
    "tempfile": {},
    "gzip": {},
    "getpass": {},
    "tomllib": {},
    "importlib.resources": {},
    "ctypes": {"WinError": ""},
    # ctllm: suggestions for unknown options, a browser, autostart on macOS, resources in archives.
    "difflib": {},
    "plistlib": {},
    "webbrowser": {},
    "zipfile": {},
}


#: What only a desktop does without: its hashes are short, so it needs none of OpenSSL's (4 MB).
#: TLS (9 MB) is imported for the first connection that needs it.
LAZY_IN_DESKTOPS: Mapping[str, LazyNames] = {
    "uuid": {"UUID": "", "SafeUUID": _LIGHT},
    "decimal": {"Decimal": ""},
    "OpenSSL": {},
    "OpenSSL.SSL": {"Connection": REAL_IN_LAZY_MODULES, "Error": REAL_IN_LAZY_MODULES},
    "OpenSSL.crypto": {},
    "service_identity": {},
    "twisted.internet.ssl": _names_in(
        "",
        "Certificate CertificateOptions KeyPair PrivateCertificate optionsForClientTLS",
        "trustRootFromCertificates",
    ),
    "twisted.protocols._sni": _names_in(
        "", "SNIConnectionCreator TLSServerEndpoint autoReloadingDirectoryOfPEMs"
    ),
    "twisted.protocols.tls": {"TLSMemoryBIOFactory": "", "TLSMemoryBIOProtocol": ""},
}


def install(missing: Sequence[str], lazy: Mapping[str, LazyNames]) -> None:
    """Make the modules `missing` unavailable and the modules `lazy` run when they are used.

    Modules that are imported already stay as they are.
    """
    for name in missing:
        # The import system raises ImportError for None.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    sys.meta_path.insert(0, _LazyFinder(lazy))


def run_lazy_modules(*, except_for: Collection[str] = ()) -> None:
    """Run the code of the lazy modules that are imported, and of those that these import.

    For a process that will not be able to read Python's files. The modules `except_for` stay lazy,
    and so does a module that raises ImportError.
    """
    failed = set(except_for)
    while lazy := [
        module
        for name, module in list(sys.modules.items())
        if type(module) is _LazyModule and name not in failed
    ]:
        for module in lazy:
            loader = module.__spec__.loader
            if isinstance(loader, _LazyLoader):
                try:
                    loader.execute(module)
                except ImportError:
                    failed.add(module.__name__)


def unused_hash_modules() -> list[str]:
    """Return OpenSSL's hashes (4 MB), if Python has its own. Some distributions omit those."""
    sha2 = ["_sha2"] if sys.version_info >= (3, 12) else ["_sha256", "_sha512"]
    own = ["_md5", "_sha1", *sha2, "_sha3", "_blake2"]
    found = [BuiltinImporter.find_spec(name) or PathFinder.find_spec(name) for name in own]
    return ["_hashlib"] if all(found) else []


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

    #: How many modules are being executed because they are used.
    running = 0

    def __init__(self, loader: Loader, names: LazyNames) -> None:
        self._loader = loader
        self.names = names
        self.proxies: dict[str, Any] = {}
        self._lock = RLock()  # reentrant: modules may import each other in cycles
        self._has_run = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _LazyModule

    def execute(self, module: ModuleType) -> None:
        """Run the code of `module`, unless it has run; another thread waits until it has."""
        with self._lock:
            if self._has_run:
                return
            self._has_run = True
            module.__loader__ = self._loader
            _LazyLoader.running += 1
            try:
                self._loader.exec_module(module)
            except BaseException:
                self._has_run = False  # as for an import: the next use tries again
                raise
            finally:
                _LazyLoader.running -= 1
            assert module.__spec__ is not None
            module.__spec__.loader = self._loader
            module.__class__ = ModuleType


class _LazyModule(ModuleType):
    """A module whose code has not run yet."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)  # the import system looks these up
        loader = self.__spec__.loader
        if isinstance(loader, _LazyLoader):
            home = loader.names.get(name)
            if home and home != REAL_IN_LAZY_MODULES:
                found = getattr(importlib.import_module(home), name)
                self.__dict__[name] = found  # until the module runs and sets its own
                return found
            if home == "" or (home == REAL_IN_LAZY_MODULES and not _LazyLoader.running):
                if name not in loader.proxies:
                    loader.proxies[name] = _make_proxy_class(self, name)
                return loader.proxies[name]
            if self._has_submodule(name):
                return importlib.import_module(f"{self.__name__}.{name}")
            loader.execute(self)
        return ModuleType.__getattribute__(self, name)

    def _has_submodule(self, name: str) -> bool:
        path = self.__dict__.get("__path__")
        return (
            path is not None and PathFinder.find_spec(f"{self.__name__}.{name}", path) is not None
        )


class _ClassProxy(type):
    """The metaclass of proxies of names of lazy modules. Each delegates to the real object.

    They are classes, because most of these names are used as classes or bases at import. A class
    whose base is a proxy is a proxy itself: it is made when it is used.
    """

    _find: Callable[[], Any]

    def __new__(mcs, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(mcs, name, (), namespace)
        return _make_subclass_proxy(name, bases, namespace)

    def _real(cls) -> Any:
        return cls._find()

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
    def find() -> Any:
        loader = module.__spec__ and module.__spec__.loader
        if isinstance(loader, _LazyLoader):
            loader.execute(module)
        return getattr(module, name)

    return _ClassProxy(name, (), {"_find": staticmethod(find)})


def _make_subclass_proxy(name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
    cell = namespace.pop("__classcell__", None)

    @cache
    def define() -> Any:
        real = [base._real() if isinstance(base, _ClassProxy) else base for base in bases]
        subclass = types.new_class(name, tuple(real), exec_body=lambda own: own.update(namespace))
        if cell is not None:
            cell.cell_contents = subclass
        return subclass

    proxy = _ClassProxy(name, (), {"_find": staticmethod(define)})
    if cell is not None:
        cell.cell_contents = proxy  # Python requires it when the class statement has run
    return proxy
