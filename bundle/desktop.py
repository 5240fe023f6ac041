"""The bundle's `ctllm-desktop`: what `twistd -n ctllm desktop` runs."""

import sys

from ctllm.tap import run

run(["desktop", *sys.argv[1:]])
