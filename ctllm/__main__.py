"""`python -m ctllm ROLE` runs `twistd -n ctllm ROLE` without twistd's own options."""

from __future__ import annotations

import sys

from ctllm.tap import run

if __name__ == "__main__":
    run(sys.argv[1:])
