"""Drives `langchain-ollama`. It streams from Ollama whatever it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from tests.compatibility.drivers.serving import EMBEDDER, MODEL, PNG, SCHEMA, TOOL, serve


class Client:
    """Its models, all at one address."""

    def __init__(self, base: str, key: str) -> None:
        headers = {"headers": {"Authorization": f"Bearer {key}"}}
        self._at: dict[str, Any] = {"base_url": base, "client_kwargs": headers}

    def chat(self, **more: Any) -> ChatOllama:
        return ChatOllama(model=MODEL, **self._at, **more)

    def llm(self, **more: Any) -> OllamaLLM:
        return OllamaLLM(model=MODEL, **self._at, **more)

    def embedder(self) -> OllamaEmbeddings:
        return OllamaEmbeddings(model=EMBEDDER, **self._at)


def told(message: BaseMessage) -> dict[str, Any]:
    """A message less the ids that the client draws for it."""
    said = message.model_dump(mode="json", exclude={"id"})
    for name in ("tool_calls", "tool_call_chunks", "invalid_tool_calls"):
        said[name] = [{**call, "id": ""} for call in said.get(name) or []]
    return said


def stream(model: Any, text: Any) -> Iterator[Any]:
    for piece in model.stream(text):
        yield piece if isinstance(piece, str) else told(piece)


def look(client: Client, text: str) -> dict[str, Any]:
    url = f"data:image/png;base64,{PNG}"
    content: list[Any] = [{"type": "text", "text": text}, {"type": "image_url", "image_url": url}]
    return told(client.chat().invoke([HumanMessage(content=content)]))


CALLS = {
    "POST /api/chat whole": lambda c, text: told(c.chat().invoke(text)),
    "POST /api/chat streamed": lambda c, text: stream(c.chat(), text),
    "POST /api/chat tools": lambda c, text: told(c.chat().bind_tools([TOOL]).invoke(text)),
    "POST /api/chat images": look,
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
