"""Compare each client's calls directly and through ctllm: `make compatibility`."""
