"""Unit tests of `ctllm.cloud`."""
