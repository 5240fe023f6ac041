"""The bundle's `ctllm-tray`."""

from ctllm_tray.main import main

main()
