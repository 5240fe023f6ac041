"""Anthropic's SDK and LangChain, through a cloud, proxy and desktop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anthropic
import httpx
import ollama
import pytest
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster
from tests.fake_ollama import Script

T = TypeVar("T")
MODEL = "llama3.2"
HELLO: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture(autouse=True)
def reset_ollama(shared: Cluster) -> None:
    shared.ollama.reset()


async def with_anthropic(cluster: Cluster, work: Callable[[anthropic.Anthropic], T]) -> T:
    client = anthropic.Anthropic(base_url=cluster.url, api_key=cluster.api_key, max_retries=0)
    return await deferToThread(lambda: work(client))


def chat_model(cluster: Cluster) -> ChatOllama:
    headers = {"headers": {"Authorization": f"Bearer {cluster.api_key}"}}
    return ChatOllama(model=MODEL, base_url=cluster.url, client_kwargs=headers)


def stream_message(client: anthropic.Anthropic) -> tuple[str, str | None]:
    """Return a streamed message's text and stop reason."""
    with client.messages.stream(model=MODEL, max_tokens=99, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        return text, stream.get_final_message().stop_reason


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"fair in {city}"


@ensureDeferred
async def test_anthropic_messages_are_the_same_with_and_without_streaming(shared: Cluster) -> None:
    """Text and stop reason."""
    whole: Any = await with_anthropic(
        shared, lambda c: c.messages.create(model=MODEL, max_tokens=99, messages=HELLO)
    )
    text, reason = await with_anthropic(shared, stream_message)
    assert "hello there" in text
    assert (whole.content[0].text, whole.stop_reason) == (text, reason)


@ensureDeferred
async def test_anthropic_raises_for_errors_and_incomplete_responses(shared: Cluster) -> None:
    """A missing model raises NotFoundError."""
    with pytest.raises(anthropic.NotFoundError):
        await with_anthropic(
            shared, lambda c: c.messages.create(model="missing", max_tokens=9, messages=HELLO)
        )
    shared.ollama.script("/v1/messages", Script(break_after=3))
    with pytest.raises((anthropic.APIError, httpx.HTTPError)):
        await with_anthropic(shared, stream_message)


@ensureDeferred
async def test_anthropic_has_no_stop_reason_after_an_error_in_the_stream(shared: Cluster) -> None:
    """Ollama sends no error in this API. The stream ends without an end of success."""
    shared.ollama.script("/v1/messages", Script(error_in_stream=(3, "the model fell over")))
    text, reason = await with_anthropic(shared, stream_message)
    assert text
    assert reason is None


@ensureDeferred
async def test_langchain_chats_embeds_and_calls_tools(shared: Cluster) -> None:
    model = chat_model(shared)
    whole = await deferToThread(model.invoke, "hello there")
    parts = await deferToThread(lambda: list(model.stream("hello there")))
    assert "hello there" in whole.content
    assert "".join(str(part.content) for part in parts) == whole.content
    assert len(parts) > 3
    called = await deferToThread(model.bind_tools([weather]).invoke, "hello there")
    assert called.tool_calls[0]["name"] == "weather"
    headers = {"headers": {"Authorization": f"Bearer {shared.api_key}"}}
    embeddings = OllamaEmbeddings(
        model="nomic-embed-text", base_url=shared.url, client_kwargs=headers
    )
    assert len(await deferToThread(embeddings.embed_documents, ["one", "two"])) == 2


@ensureDeferred
async def test_langchain_raises_for_errors_and_incomplete_responses(shared: Cluster) -> None:
    """A missing model, an error in the stream, and a response that breaks off."""
    model = chat_model(shared)
    shared.ollama.script("/api/chat", Script(error_before=(404, '{"error":"no such model"}', {})))
    with pytest.raises(ollama.ResponseError, match="no such model"):
        await deferToThread(model.invoke, "hello")
    shared.ollama.script("/api/chat", Script(error_in_stream=(2, "the model fell over")))
    with pytest.raises(ollama.ResponseError, match="fell over"):
        await deferToThread(lambda: list(model.stream("hello")))
    shared.ollama.script("/api/chat", Script(break_after=2))
    with pytest.raises(ollama.ResponseError, match="No complete response"):
        await deferToThread(lambda: list(model.stream("hello")))
