"""Unit tests of `ctllm.cloud.admin`."""
