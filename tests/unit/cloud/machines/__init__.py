"""Unit tests of `ctllm.cloud.machines`."""
