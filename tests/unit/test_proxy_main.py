"""Tests of `ctllm.proxy_main`: what a proxy does not use is not imported."""

from __future__ import annotations

import json
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

PRINT_MODULES = """
import json, sys
ran = [name for name, module in sys.modules.items() if type(module).__name__ == "module"]
print(json.dumps(ran))
"""

#: Creates the services of a proxy and does not start them.
CREATE_PROXY = """
from twisted.internet import reactor
from ctllm.tap import Options, makeService
options = Options({})
options.parseOptions(
    ["--config", "/dev/null", "proxy", "--port", "0", "--id", "p", "--cloud-key", "A" * 43]
)
makeService(options)
"""

#: Uses the modules that are imported lazily.
USE_LAZY_MODULES = """
import asyncio, ast, html, http.cookiejar, hyperlink, inspect, nacl.bindings, pickle, subprocess
import sys, tomllib
from autobahn.twisted.websocket import WampWebSocketServerProtocol
from autobahn.wamp.message import Hello
from twisted.application.service import Application
from twisted.internet.defer import succeed

print(html.unescape("&eacute;"))
print(len(http.cookiejar.CookieJar()))
print(subprocess.run([sys.executable, "-c", "raise SystemExit(7)"]).returncode)
print(hyperlink.URL.from_text("http://a/b").host)
print(Hello.__name__)
print(WampWebSocketServerProtocol().__class__.__mro__[1].__name__)
print(ast.literal_eval("7") + pickle.loads(pickle.dumps(7)) + tomllib.loads("a = 7")["a"])
print("Failure" in inspect.getsource(sys.modules["twisted.python.failure"]))
print(nacl.bindings.crypto_box_PUBLICKEYBYTES)
Application("made to be saved")
loop = asyncio.new_event_loop()
print(loop.run_until_complete(succeed(7).asFuture(loop)))
loop.close()
"""

INSTALL = "import ctllm.proxy_main\nctllm.proxy_main.install_lazy_imports()\n"

#: Kilobytes of memory that each module takes (Python 3.11, Twisted 26.10, autobahn 26.10).
HEAVY = {
    "cryptography": 8500,  # with its own OpenSSL
    "OpenSSL": 1000,
    "_hashlib": 3500,  # with the OpenSSL of the system
    "_ssl": 800,
    "autobahn.wamp.message": 2000,  # with cbor2
    "autobahn.twisted.wamp": 100,
    "cffi": 1500,  # with a C parser
    "click": 600,
    "asyncio.base_events": 1000,
    "concurrent.futures": 450,
    "http.client": 2400,  # with email
    "html.entities": 450,
    "tempfile": 650,
    "zipfile": 400,
    "hyperlink": 600,
    "subprocess": 400,
    "ctypes": 350,
    "difflib": 250,
    "backports.zstd": 500,
    "multipart": 400,
    "twisted.application.app": 1500,
    "twisted.application.internet": 550,
    "twisted.internet.ssl": 3200,
    "twisted.persisted.sob": 450,
    "twisted.web": 3000,
    "treq": 1500,
    "prometheus_client": 1200,
    "ast": 450,
    "attr.validators": 220,
    "inspect": 400,
    "ipaddress": 210,
    "logging": 190,
    "platform": 90,
    "random": 90,
    "typing_extensions": 300,
    "autobahn.wamp.types": 210,
    "uuid": 150,
    "autobahn.wamp.websocket": 200,
    "bz2": 70,
    "msgspec._json_schema": 50,
    "nacl.signing": 100,
    "nacl.bindings.crypto_pwhash": 200,  # with all of nacl.bindings but signatures
    "pickle": 250,
    "tomllib": 100,
    "twisted.internet.endpoints": 300,
    "twisted.python.threadpool": 130,
    "ctllm.cloud": 2000,
    "ctllm.desktop": 2000,
    "ctllm.demo": 700,
}

#: The modules of other packages that a proxy may import; of those below a name with a star, all.
MAY_IMPORT = {
    "attr*", "autobahn", "autobahn._version", "autobahn.exception", "autobahn.twisted.util",
    "autobahn.twisted.websocket", "autobahn.util", "autobahn.websocket*", "constantly*", "h11*",
    "incremental*", "msgspec*", "nacl", "nacl._sodium", "nacl.bindings.crypto_sign",
    "nacl.exceptions", "twisted", "txaio*", "zope*",
    *(f"twisted.{each}" for each in """
        _version application application.service internet internet._idna internet._multicast
        internet._posixstdio internet._resolver internet._signals internet.abstract
        internet.address internet.base internet.default internet.defer internet.epollreactor
        internet.error internet.fdesc internet.interfaces internet.main internet.posixbase
        internet.protocol internet.stdio internet.task internet.tcp internet.udp internet.unix
        logger logger._buffer logger._file logger._filter logger._flatten logger._format
        logger._global logger._interfaces logger._io logger._legacy logger._levels
        logger._logger logger._observer persisted plugin protocols python python._tzhelper
        python.components python.context python.deprecate python.failure python.filepath
        python.lockfile python.log python.modules python.reflect python.runtime python.sendmsg
        python.threadable python.usage python.util python.compat python.versions
    """.split()),
}  # fmt: skip


def unexpected(found: set[str]) -> list[str]:
    """Return the modules of `found` that a proxy may not import; the standard library's may."""
    stars = tuple(each[:-1] for each in MAY_IMPORT if each.endswith("*"))
    ours = ("ctllm", "_", *sys.stdlib_module_names)
    return [name for name in sorted(found - MAY_IMPORT)
            if name.partition(".")[0] not in ours
            and not name.startswith((*stars, "_"))]  # fmt: skip


def run(code: str) -> str:
    """Return what a new interpreter prints that runs `code`."""
    argv = [sys.executable, "-c", code]
    process = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def imported(code: str) -> set[str]:
    """Return the modules that a new interpreter has imported after `code`."""
    return set(json.loads(run(code + PRINT_MODULES)))


class ProxyMainTests(SynchronousTestCase):
    """Each test runs a new interpreter."""

    def test_a_proxy_imports_no_expensive_module(self) -> None:
        found = imported(INSTALL + CREATE_PROXY)
        self.assertIn("ctllm.proxy.service", found)
        self.assertEqual({name: kb for name, kb in HEAVY.items() if name in found}, {})

    def test_a_proxy_imports_of_other_packages_what_is_listed(self) -> None:
        self.assertEqual(unexpected(imported(INSTALL + CREATE_PROXY)), [])

    def test_without_lazy_imports_most_expensive_modules_are_imported(self) -> None:
        self.assertGreater(len(set(HEAVY) & imported(CREATE_PROXY)), len(HEAVY) // 2)

    def test_lazy_modules_work_when_they_are_used(self) -> None:
        self.assertEqual(
            run(INSTALL + CREATE_PROXY + USE_LAZY_MODULES).split(),
            ["é", "0", "7", "a", "Hello", "WampWebSocketServerProtocol", "21", "True", "32", "7"],
        )

    def test_hashes_are_the_same_without_openssl(self) -> None:
        code = "import hashlib; print(hashlib.sha1(b'x').digest(), hashlib.sha256(b'x').digest())"
        self.assertEqual(run(INSTALL + code), run(code))
