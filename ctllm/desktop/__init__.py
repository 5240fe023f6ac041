"""Beside Ollama: the loopback endpoint and the bridge that dials out."""
