"""Tests of `ctllm.cloud.docker_api`."""
