"""Tests of ctllm/ollama."""
