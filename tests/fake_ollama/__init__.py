"""A fake Ollama: the demo server with scripts and records, for tests and benchmarks."""

from tests.fake_ollama.records import Record
from tests.fake_ollama.script import Script
from tests.fake_ollama.server import FakeOllama

__all__ = ["FakeOllama", "Record", "Script"]
