"""A stand-in for Ollama: a real HTTP server with its wire, a demo that echoes and no model.

The desktop serves `demo:echo` through it when no Ollama answers, and every test uses it as the
one fake. Start at `ctllm.standin.server.Standin`.
"""

from ctllm.standin.records import Record
from ctllm.standin.script import Script
from ctllm.standin.server import Standin

__all__ = ["Record", "Script", "Standin"]
