"""Drives `openai`, OpenAI's own client for Python."""

from __future__ import annotations

from typing import Any

import openai

from tests.compatibility.drivers.common import (
    EMBEDDER,
    MODEL,
    PARAMETERS,
    PNG,
    SCHEMA,
    TOOL,
    serve,
    user_messages,
)

IMAGE = f"data:image/png;base64,{PNG}"
FORMAT = {"name": "answer", "schema": SCHEMA, "strict": True}


def make_client(base: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)


def chat(client: openai.OpenAI, content: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=user_messages(content), **more)


def respond(client: openai.OpenAI, input: Any, **more: Any) -> Any:
    return client.responses.create(model=MODEL, input=input, **more)


def stream(made: Any) -> Any:
    """A stream as an iterator, which it is not in every version."""
    return iter(made)


CALLS = {
    "POST /v1/chat/completions whole": chat,
    "POST /v1/chat/completions streamed": lambda c, text: stream(
        chat(c, text, stream=True, stream_options={"include_usage": True})
    ),
    "POST /v1/chat/completions tools": lambda c, text: chat(c, text, tools=[TOOL]),
    "POST /v1/chat/completions images": lambda c, text: chat(
        c,
        [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": IMAGE}}],
    ),
    "POST /v1/chat/completions thinking": lambda c, text: stream(
        chat(c, text, reasoning_effort="low", stream=True)
    ),
    "POST /v1/chat/completions structured": lambda c, text: chat(
        c, text, response_format={"type": "json_schema", "json_schema": FORMAT}
    ),
    "POST /v1/completions whole": lambda c, text: c.completions.create(model=MODEL, prompt=text),
    "POST /v1/completions streamed": lambda c, text: stream(
        c.completions.create(model=MODEL, prompt=text, stream=True)
    ),
    "POST /v1/embeddings": lambda c, text: c.embeddings.create(model=EMBEDDER, input=[text, "b"]),
    "GET /v1/models": lambda c, _: list(c.models.list()),
    "GET /v1/models/…": lambda c, _: c.models.retrieve(MODEL),
    "POST /v1/responses whole": respond,
    "POST /v1/responses streamed": lambda c, text: stream(respond(c, text, stream=True)),
    "POST /v1/responses tools": lambda c, text: respond(
        c,
        text,
        tools=[{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}],
    ),
    "POST /v1/responses images": lambda c, text: respond(
        c,
        user_messages(
            [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": IMAGE}]
        ),
    ),
    "POST /v1/responses thinking": lambda c, text: stream(
        respond(c, text, reasoning={"effort": "low"}, stream=True)
    ),
    "POST /v1/responses structured": lambda c, text: respond(
        c, text, text={"format": {"type": "json_schema", **FORMAT}}
    ),
}

if __name__ == "__main__":
    serve(make_client, CALLS)
