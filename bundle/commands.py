"""The bundle's `ctllm`."""

from ctllm.cli import main

main()
