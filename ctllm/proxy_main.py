"""Runs one streaming proxy: `python -m ctllm.proxy_main` with the options of the role proxy.

It has the options and services of `twistd -n ctllm proxy`, but takes half the memory and two thirds
of the time to start. A cloud runs such a process for each of its users.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from ctllm.lazy_imports import LAZY_WAMP, LazyNames, install

#: Optional dependencies of libraries, unused in a proxy. Its sockets are local, so it needs no TLS:
#: neither pyOpenSSL nor OpenSSL (10 MB).
UNUSED_MODULES = (
    "OpenSSL",
    "_ssl",
    # autobahn: text messages, coloured output, compression.
    "_nvx_utf8validator",
    "click",
    "snappy",
    "brotli",
    "brotlicffi",
    # Twisted: Windows. The sandbox removes this entry for its own system calls (200 kB).
    "ctypes",
)

#: Modules that libraries import at the top of a module, but that a proxy never uses.
LAZY_MODULES: dict[str, LazyNames] = {
    # Twisted: its HTTP client, asyncio, imports from archives, persistent applications.
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
    "subprocess": {},
    **LAZY_WAMP,
    # ctllm: suggestions for unknown options.
    "difflib": {},
}


def main(arguments: Sequence[str]) -> None:
    """Run a proxy until it is stopped."""
    install_lazy_imports()
    from ctllm.tap import run

    run(["--config", os.devnull, "proxy", *arguments])


def install_lazy_imports() -> None:
    """Prevent imports that a proxy does not use. Call this before anything imports them."""
    install([*UNUSED_MODULES, *_unused_hash_modules()], LAZY_MODULES)


def _unused_hash_modules() -> list[str]:
    """Return OpenSSL's hashes (4 MB), if Python has its own. Some distributions omit those."""
    sha2 = ["_sha2"] if sys.version_info >= (3, 12) else ["_sha256", "_sha512"]
    own = ["_md5", "_sha1", *sha2, "_sha3", "_blake2"]
    return ["_hashlib"] if all(map(importlib.util.find_spec, own)) else []


if __name__ == "__main__":
    main(sys.argv[1:])
