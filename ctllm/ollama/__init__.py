"""Ollama's HTTP API: endpoints, dialects, lists of models, and the model of a request."""
