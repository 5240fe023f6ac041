"""Tests of ctllm/auth."""
