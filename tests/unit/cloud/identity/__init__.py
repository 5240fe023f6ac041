"""Unit tests of `ctllm.cloud.identity`."""
