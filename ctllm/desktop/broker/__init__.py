"""The broker: it sends each request of a local app to this desktop's Ollama or to the cloud."""
