"""Starts one streaming proxy in little memory: `python -m ctllm.proxy_main` with its options.

It runs what `twistd -n ctllm proxy` runs, by way of the same options and services. A cloud has
such a process for each of its users, hence the trouble: half the memory, two thirds of the time.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from ctllm.lazy_imports import LAZY_WAMP, LazyNames, install

#: Optional to those who import them, and of no use here. A proxy's socket is within one machine:
#: it needs no TLS, and thereby neither pyOpenSSL nor OpenSSL (10 MB).
UNUSED_MODULES = (
    "OpenSSL",
    "_ssl",
    # autobahn's: for texts, of which a tunnel has none; colours, compression.
    "_nvx_utf8validator",
    "click",
    "snappy",
    "brotli",
    "brotlicffi",
    # Twisted's: for Windows. For a few calls of our own it is imported all the same (200 kB).
    "ctypes",
)

#: Needed by nothing that a proxy does, but by the word of an import at the top of a module.
LAZY_MODULES: dict[str, LazyNames] = {
    # Twisted's: half of an HTTP client, asyncio beside its own reactor, Python code within
    # archives, applications kept in files.
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
    # Our own: the nearest option to one that does not exist.
    "difflib": {},
}


def main(arguments: Sequence[str]) -> None:
    """Run the proxy that `arguments` describe until it is stopped."""
    install_lazy_imports()
    from ctllm.tap import run

    run(["--config", os.devnull, "proxy", *arguments])


def install_lazy_imports() -> None:
    """Have this process, which has imported none of it yet, spare what a proxy does not use."""
    install([*UNUSED_MODULES, *_unused_hash_modules()], LAZY_MODULES)


def _unused_hash_modules() -> list[str]:
    """OpenSSL's hashes (4 MB), where Python was built with its own; not all distributions do."""
    sha2 = ["_sha2"] if sys.version_info >= (3, 12) else ["_sha256", "_sha512"]
    own = ["_md5", "_sha1", *sha2, "_sha3", "_blake2"]
    return ["_hashlib"] if all(map(importlib.util.find_spec, own)) else []


if __name__ == "__main__":
    main(sys.argv[1:])
