"""`python -m ctllm_tray` is `ctllm-tray`."""

from ctllm_tray.main import main

if __name__ == "__main__":
    main()
