"""Which client can call what, directly and through ctllm: run it with `make compatibility`."""
