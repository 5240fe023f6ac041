"""The bundle's `ctllm-keyring`, which the others start: what asks the system's keyring."""

from ctllm.keyring_main import main

main()
