"""Tests of `ctllm.cloud.spawners`."""
