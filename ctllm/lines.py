"""Lines to paste: how each kind of client is pointed at the cloud."""

from __future__ import annotations


def lines_to_paste(url: str, key: str, model: str) -> str:
    """Shell lines that work as they are, for the cloud at `url` with an API `key`."""
    return f"""\
Paste these, here or on any machine that reaches the cloud:

  # curl
  curl {url}/api/generate -H "Authorization: Bearer {key}" \\
    -d '{{"model": "{model}", "prompt": "Say hello."}}'

  # Ollama's own clients
  export OLLAMA_HOST={url} OLLAMA_API_KEY={key}

  # OpenAI's SDKs, and whatever is built on them
  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}
"""
