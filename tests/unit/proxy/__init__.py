"""Tests of ctllm/proxy."""
