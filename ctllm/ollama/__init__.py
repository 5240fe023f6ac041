"""Ollama's HTTP API: its paths, its dialects, and where a request names its model."""
