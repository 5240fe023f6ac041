"""Runs one streaming proxy: `python -m ctllm.proxy_main` with the options of the role proxy.

It has the options and services of `twistd -n ctllm proxy`, but takes half the memory and two thirds
of the time to start. A cloud runs such a process for each of its users.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from ctllm.lazy_imports import (
    LAZY_MODULES,
    UNUSED_MODULES,
    LazyNames,
    install,
    unused_hash_modules,
)

#: What a proxy does without. Its sockets are local, so it needs no TLS: neither pyOpenSSL nor
#: OpenSSL (10 MB). ctypes is for Twisted on Windows; the sandbox removes this entry for its own
#: system calls (200 kB).
UNUSED_IN_PROXIES = ("OpenSSL", "_ssl", "ctypes", "twisted.protocols.tls")

#: What only a proxy does without: it listens without Twisted's endpoints, reads no configuration
#: file, and verifies signatures and does no other cryptography. No request may use what is lazy in
#: a proxy: the user that it switches to may not be able to read Python's files.
LAZY_IN_PROXIES: dict[str, LazyNames] = {
    "uuid": {"UUID": "", "SafeUUID": "ctllm.light_functions"},
    "decimal": {"Decimal": ""},
    "twisted.internet.endpoints": {},
}


def main(arguments: Sequence[str]) -> None:
    """Run a proxy until it is stopped."""
    install_lazy_imports()
    from ctllm.tap import run

    run(["--config", os.devnull, "proxy", *arguments])


def install_lazy_imports() -> None:
    """Prevent imports that a proxy does not use. Call this before anything imports them."""
    unused = (*UNUSED_MODULES, *UNUSED_IN_PROXIES, *unused_hash_modules())
    install(unused, {**LAZY_MODULES, **LAZY_IN_PROXIES, **_lazy_hashes()})


def _lazy_hashes() -> dict[str, LazyNames]:
    """Return that `hashlib`, which imports all hashes, is lazy; import those that a proxy uses."""
    if not unused_hash_modules():
        return {}
    sha256 = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
    names = {"sha1": "_sha1", "sha256": sha256}
    for module in names.values():
        importlib.import_module(module)  # now: the proxy's user may not be able to read it
    return {"hashlib": names}


if __name__ == "__main__":
    main(sys.argv[1:])
