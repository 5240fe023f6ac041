"""A desktop's own resources, below `/ctllm/desktop/`: requests that are not for Ollama."""
