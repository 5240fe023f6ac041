"""`python -m ctllm ROLE` runs `twistd -n ctllm ROLE` without twistd's own options."""

from __future__ import annotations

import sys

from ctllm.lazy_imports import (
    LAZY_IN_DESKTOPS,
    LAZY_MODULES,
    UNUSED_MODULES,
    install,
    unused_hash_modules,
)

if __name__ == "__main__":
    # Before anything imports them.
    if sys.argv[1:2] == ["desktop"]:
        install((*UNUSED_MODULES, *unused_hash_modules()), {**LAZY_MODULES, **LAZY_IN_DESKTOPS})
    else:
        install(UNUSED_MODULES, LAZY_MODULES)
    from ctllm.tap import run

    run(sys.argv[1:])
