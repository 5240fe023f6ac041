"""Drives `llm-ollama`: the library and the program `llm` with this plugin."""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import llm
from llm_ollama import registry

from tests.compatibility.drivers.common import EMBEDDER, MODEL, PARAMETERS, PNG, SCHEMA, serve


class Client:
    """The plugin, which reads base URL and key from the environment and caches on disk."""

    def __init__(self, base: str, key: str) -> None:
        os.environ |= {"OLLAMA_HOST": base, "OLLAMA_API_KEY": key}
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the cache of models' capabilities."""
        registry.cache.set_dir(tempfile.mkdtemp(dir=os.environ["LLM_USER_PATH"]))

    def prompt(self, text: str, **more: Any) -> Any:
        return llm.get_model(f"ollama/{MODEL}").prompt(text, **more)


def run_llm(*arguments: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": tempfile.mkdtemp(dir=os.environ["HOME"])}
    done = subprocess.run(["llm", *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def stream(client: Client, text: str, **more: Any) -> Iterator[Any]:
    for event in client.prompt(text, stream=True, **more).stream_events():
        yield event.type, event.chunk


def call_tools(client: Client, text: str) -> Any:
    def weather(city: str) -> str:
        return f"fair in {city}"

    tool = llm.Tool("weather", "The weather", PARAMETERS, weather)
    response = client.prompt(text, stream=False, tools=[tool])
    return [(call.name, call.arguments) for call in response.tool_calls()]


def chat_with_image(client: Client, text: str) -> Any:
    image = llm.Attachment(type="image/png", content=base64.b64decode(PNG))
    return client.prompt(text, stream=False, attachments=[image]).text()


def show(client: Client, _: str) -> Any:
    client.clear_cache()
    return [str(model) for model in llm.get_models()]


CALLS = {
    "POST /api/chat whole": lambda c, text: c.prompt(text, stream=False).json(),
    "POST /api/chat streamed": stream,
    "POST /api/chat tools": call_tools,
    "POST /api/chat images": chat_with_image,
    "POST /api/chat thinking": lambda c, text: stream(c, text, think=True),
    "POST /api/chat structured": lambda c, text: c.prompt(text, stream=False, schema=SCHEMA).text(),
    "POST /api/embed": lambda c, text: list(
        llm.get_embedding_model(f"ollama/{EMBEDDER}").embed_multi([text, "two"])
    ),
    "GET /api/tags": lambda c, _: run_llm("ollama", "models"),
    "POST /api/show": show,
}

if __name__ == "__main__":
    serve(Client, CALLS)
