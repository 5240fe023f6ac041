"""`python -m ctllm ROLE` runs `twistd -n ctllm ROLE` without twistd's own options."""

from __future__ import annotations

import sys

from ctllm.lazy_imports import LAZY_MODULES, UNUSED_MODULES, install

if __name__ == "__main__":
    install(UNUSED_MODULES, LAZY_MODULES)  # before anything imports them
    from ctllm.tap import run

    run(sys.argv[1:])
