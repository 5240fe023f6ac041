"""Unit tests of `ctllm.cli`."""
