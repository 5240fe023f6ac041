"""Drives `litellm` as a library, by its providers for Ollama, OpenAI and Anthropic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import litellm
from litellm.llms.ollama.common_utils import OllamaModelInfo

from tests.compatibility.drivers.common import (
    EMBEDDER,
    MODEL,
    PARAMETERS,
    PNG,
    SCHEMA,
    TOOL,
    serve,
    to_json_types,
    user_messages,
)

IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
JSON = {"type": "json_object"}
FUNCTION = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
#: Fields that the client generates.
GENERATED_FIELDS = {"id", "item_id", "created", "created_at", "completed_at"}


class Client:
    """The client's providers with one base URL, which has `/v1` for OpenAI's."""

    def __init__(self, base: str, key: str) -> None:
        self.at: dict[str, Any] = {"api_base": base, "api_key": key}
        self.v1: dict[str, Any] = {**self.at, "api_base": f"{base}/v1", "max_retries": 0}

    def chat(self, said: Any, **more: Any) -> Any:
        return comparable(complete(f"ollama_chat/{MODEL}", said, **self.at, **more))

    def generate(self, said: Any, **more: Any) -> Any:
        return comparable(complete(f"ollama/{MODEL}", said, **self.at, **more))

    def openai(self, said: Any, **more: Any) -> Any:
        return comparable(complete(f"openai/{MODEL}", said, **self.v1, **more))

    def text(self, prompt: str, **more: Any) -> Any:
        model = f"text-completion-openai/{MODEL}"
        return comparable(litellm.text_completion(prompt, model=model, **self.v1, **more))

    def respond(self, said: Any, **more: Any) -> Any:
        return comparable(litellm.responses(input=said, model=f"openai/{MODEL}", **self.v1, **more))

    def anthropic(self, said: Any, **more: Any) -> Any:
        more = {"max_tokens": 999, "max_retries": 0, **more}
        return comparable(complete(f"anthropic/{MODEL}", said, **self.at, **more))

    def embed(self, model: str, at: dict[str, Any], text: str) -> Any:
        return comparable(litellm.embedding(model=model, input=[text, "two"], **at))


def complete(model: str, said: Any, **more: Any) -> Any:
    return litellm.completion(model=model, messages=user_messages(said), **more)


def comparable(value: Any) -> Any:
    """Return the client's value, or its chunks, without generated fields."""
    if hasattr(value, "model_dump"):
        return without_generated(to_json_types(value))
    return comparable_chunks(value) if isinstance(value, Iterator) else without_generated(value)


def comparable_chunks(stream: Iterator[Any]) -> Iterator[Any]:
    for chunk in stream:
        yield without_generated(to_json_types(chunk))


def without_generated(value: Any) -> Any:
    if isinstance(value, list):
        return [without_generated(each) for each in value]
    if isinstance(value, dict):
        return {
            name: without_generated(v) for name, v in value.items() if name not in GENERATED_FIELDS
        }
    return value


def with_image(text: str) -> Any:
    return [{"type": "text", "text": text}, IMAGE]


CALLS = {
    "POST /api/chat whole": Client.chat,
    "POST /api/chat streamed": lambda c, text: c.chat(text, stream=True),
    "POST /api/chat tools": lambda c, text: c.chat(text, tools=[TOOL]),
    "POST /api/chat images": lambda c, text: c.chat(with_image(text)),
    "POST /api/chat thinking": lambda c, text: c.chat(text, reasoning_effort="low", stream=True),
    "POST /api/chat structured": lambda c, text: c.chat(text, response_format=FORMAT),
    "POST /api/generate whole": Client.generate,
    "POST /api/generate streamed": lambda c, text: c.generate(text, stream=True),
    "POST /api/generate images": lambda c, text: c.generate(with_image(text)),
    "POST /api/generate thinking": lambda c, text: c.generate(text, reasoning_effort="low"),
    "POST /api/generate structured": lambda c, text: c.generate(text, response_format=JSON),
    "POST /api/embed": lambda c, text: c.embed(f"ollama/{EMBEDDER}", c.at, text),
    "GET /api/tags": lambda c, _: OllamaModelInfo().get_models(**c.at),
    "POST /api/show": lambda c, _: litellm.get_model_info(f"ollama/{MODEL}", **c.at),
    "POST /v1/chat/completions whole": Client.openai,
    "POST /v1/chat/completions streamed": lambda c, text: c.openai(
        text, stream=True, stream_options={"include_usage": True}
    ),
    "POST /v1/chat/completions tools": lambda c, text: c.openai(text, tools=[TOOL]),
    "POST /v1/chat/completions images": lambda c, text: c.openai(with_image(text)),
    "POST /v1/chat/completions thinking": lambda c, text: c.openai(
        text, reasoning_effort="low", allowed_openai_params=["reasoning_effort"], stream=True
    ),
    "POST /v1/chat/completions structured": lambda c, text: c.openai(text, response_format=FORMAT),
    "POST /v1/completions whole": Client.text,
    "POST /v1/completions streamed": lambda c, text: c.text(text, stream=True),
    "POST /v1/embeddings": lambda c, text: c.embed(f"openai/{EMBEDDER}", c.v1, text),
    "POST /v1/responses whole": Client.respond,
    "POST /v1/responses streamed": lambda c, text: c.respond(text, stream=True),
    "POST /v1/responses tools": lambda c, text: c.respond(text, tools=[FUNCTION]),
    "POST /v1/messages whole": Client.anthropic,
    "POST /v1/messages streamed": lambda c, text: c.anthropic(text, stream=True),
    "POST /v1/messages tools": lambda c, text: c.anthropic(text, tools=[TOOL]),
    "POST /v1/messages images": lambda c, text: c.anthropic(with_image(text)),
}

if __name__ == "__main__":
    serve(Client, CALLS)
