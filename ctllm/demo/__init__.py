"""A stand-in for Ollama: a real HTTP server with its wire, a demo that echoes and no model.

The desktop serves `demo:echo` through it when no Ollama answers, and every test uses it as the
one fake. Start at `ctllm.demo.server.Standin`.
"""

from ctllm.demo.records import Record
from ctllm.demo.script import Script
from ctllm.demo.server import Standin

__all__ = ["Record", "Script", "Standin"]
