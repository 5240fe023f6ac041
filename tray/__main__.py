"""`python -m tray` is `ctllm-tray`."""

from tray.program import main

if __name__ == "__main__":
    main()
