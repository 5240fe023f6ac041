"""Unit tests of `ctllm.cloud.proxies`."""
