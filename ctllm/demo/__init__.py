"""The demo model: Ollama's API over HTTP, with a model that echoes.

The desktop serves `demo:echo` when no Ollama responds.
"""

from ctllm.demo.server import DEMO_MODEL, DemoServer

__all__ = ["DEMO_MODEL", "DemoServer"]
