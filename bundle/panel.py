"""The bundle's `ctllm-tray`."""

from tray.program import main

main()
