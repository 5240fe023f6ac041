"""Drives `ollama`, Ollama's own client for Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ollama

from tests.compatibility.drivers.common import (
    EMBEDDER,
    MODEL,
    PNG,
    SCHEMA,
    TOOL,
    serve,
    user_messages,
)


def make_client(base: str, key: str) -> ollama.Client:
    return ollama.Client(host=base, headers={"Authorization": f"Bearer {key}"})


def chat(client: ollama.Client, text: str, **more: Any) -> Any:
    return client.chat(model=MODEL, messages=user_messages(text), **more)


def generate(client: ollama.Client, text: str, **more: Any) -> Any:
    return client.generate(model=MODEL, prompt=text, **more)


def upload(client: ollama.Client, text: str) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text.encode() * 20_000)
        return client.create_blob(file.name)


CALLS = {
    "POST /api/chat whole": chat,
    "POST /api/chat streamed": lambda c, text: chat(c, text, stream=True),
    "POST /api/chat tools": lambda c, text: chat(c, text, tools=[TOOL]),
    "POST /api/chat images": lambda c, text: c.chat(
        model=MODEL, messages=user_messages(text, images=[PNG])
    ),
    "POST /api/chat thinking": lambda c, text: chat(c, text, think=True, stream=True),
    "POST /api/chat structured": lambda c, text: chat(c, text, format=SCHEMA),
    "POST /api/generate whole": generate,
    "POST /api/generate streamed": lambda c, text: generate(c, text, stream=True),
    "POST /api/generate images": lambda c, text: generate(c, text, images=[PNG]),
    "POST /api/generate thinking": lambda c, text: generate(c, text, think=True),
    "POST /api/generate structured": lambda c, text: generate(c, text, format=SCHEMA),
    "POST /api/embed": lambda c, text: c.embed(model=EMBEDDER, input=[text, "two"]),
    "POST /api/embeddings": lambda c, text: c.embeddings(model=EMBEDDER, prompt=text),
    "GET /api/tags": lambda c, _: c.list(),
    "GET /api/ps": lambda c, _: c.ps(),
    "POST /api/show": lambda c, _: c.show(MODEL),
    "POST /api/create whole": lambda c, text: c.create(model="mine", from_=MODEL, system=text),
    "POST /api/create streamed": lambda c, _: c.create(model="mine", from_=MODEL, stream=True),
    "POST /api/copy": lambda c, _: c.copy(MODEL, "other"),
    "POST /api/pull whole": lambda c, _: c.pull("tiny"),
    "POST /api/pull streamed": lambda c, _: c.pull("tiny", stream=True),
    "POST /api/push whole": lambda c, _: c.push("tiny"),
    "POST /api/push streamed": lambda c, _: c.push("tiny", stream=True),
    "DELETE /api/delete": lambda c, _: c.delete("tiny"),
    "POST /api/blobs/sha256:…": upload,
}

if __name__ == "__main__":
    serve(make_client, CALLS)
