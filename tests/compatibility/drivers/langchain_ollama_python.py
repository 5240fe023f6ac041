"""Drives `langchain-ollama`, which always streams from Ollama."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from tests.compatibility.drivers.common import EMBEDDER, MODEL, PNG, SCHEMA, TOOL, serve


class Client:
    """The client's models with one base URL."""

    def __init__(self, base: str, key: str) -> None:
        headers = {"headers": {"Authorization": f"Bearer {key}"}}
        self._options: dict[str, Any] = {"base_url": base, "client_kwargs": headers}

    def chat(self, **more: Any) -> ChatOllama:
        return ChatOllama(model=MODEL, **self._options, **more)

    def llm(self, **more: Any) -> OllamaLLM:
        return OllamaLLM(model=MODEL, **self._options, **more)

    def embedder(self) -> OllamaEmbeddings:
        return OllamaEmbeddings(model=EMBEDDER, **self._options)


def without_ids(message: BaseMessage) -> dict[str, Any]:
    """Return a message without the ids that the client generates."""
    fields = message.model_dump(mode="json", exclude={"id"})
    for name in ("tool_calls", "tool_call_chunks", "invalid_tool_calls"):
        fields[name] = [{**call, "id": ""} for call in fields.get(name) or []]
    return fields


def stream(model: Any, text: Any) -> Iterator[Any]:
    for chunk in model.stream(text):
        yield chunk if isinstance(chunk, str) else without_ids(chunk)


def chat_with_image(client: Client, text: str) -> dict[str, Any]:
    url = f"data:image/png;base64,{PNG}"
    content: list[Any] = [{"type": "text", "text": text}, {"type": "image_url", "image_url": url}]
    return without_ids(client.chat().invoke([HumanMessage(content=content)]))


CALLS = {
    "POST /api/chat whole": lambda c, text: without_ids(c.chat().invoke(text)),
    "POST /api/chat streamed": lambda c, text: stream(c.chat(), text),
    "POST /api/chat tools": lambda c, text: without_ids(c.chat().bind_tools([TOOL]).invoke(text)),
    "POST /api/chat images": chat_with_image,
    "POST /api/chat thinking": lambda c, text: stream(c.chat(reasoning=True), text),
    "POST /api/chat structured": lambda c, text: (
        c.chat()
        .with_structured_output({"title": "answer", "description": "It", **SCHEMA})
        .invoke(text)
    ),
    "POST /api/generate whole": lambda c, text: c.llm().invoke(text),
    "POST /api/generate streamed": lambda c, text: stream(c.llm(), text),
    "POST /api/generate thinking": lambda c, text: (
        c.llm(reasoning=True).generate([text]).generations[0][0].generation_info
    ),
    "POST /api/generate structured": lambda c, text: c.llm(format="json").invoke(text),
    "POST /api/embed": lambda c, text: c.embedder().embed_documents([text, "two"]),
    "GET /api/tags": lambda c, _: c.chat(validate_model_on_init=True).model,
}

if __name__ == "__main__":
    serve(Client, CALLS)
