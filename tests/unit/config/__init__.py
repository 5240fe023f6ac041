"""Unit tests of `ctllm.config`."""
