"""The client libraries of Ollama and OpenAI, through a cloud, proxy and desktop."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, TypeVar

import ollama
import openai
import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster
from tests.fake_ollama import Script

T = TypeVar("T")
MODEL = "llama3.2"
HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


def ollama_client(cluster: Cluster) -> ollama.Client:
    return ollama.Client(host=cluster.url, headers={"Authorization": f"Bearer {cluster.api_key}"})


def openai_client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=cluster.api_key, max_retries=0)


async def with_ollama(cluster: Cluster, work: Callable[[ollama.Client], T]) -> T:
    return await deferToThread(lambda: work(ollama_client(cluster)))


async def with_openai(cluster: Cluster, work: Callable[[openai.OpenAI], T]) -> T:
    return await deferToThread(lambda: work(openai_client(cluster)))


@pytest.fixture(autouse=True)
def reset_ollama(shared: Cluster) -> None:
    shared.ollama.reset()


@ensureDeferred
async def test_ollama_streams_a_chat(shared: Cluster) -> None:
    """Each chunk arrives separately, and the last one is marked as done."""
    parts = await with_ollama(
        shared, lambda c: list(c.chat(model=MODEL, messages=HELLO, stream=True))
    )
    text = "".join(part.message.content or "" for part in parts)
    assert "hello there" in text
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 3


@ensureDeferred
async def test_ollama_chats_without_streaming(shared: Cluster) -> None:
    response = await with_ollama(shared, lambda c: c.chat(model=MODEL, messages=HELLO))
    assert "hello there" in (response.message.content or "")
    assert response.done


@ensureDeferred
async def test_ollama_generates_the_same_text_with_and_without_streaming(shared: Cluster) -> None:
    whole = await with_ollama(shared, lambda c: c.generate(model=MODEL, prompt="echo me"))
    parts = await with_ollama(
        shared, lambda c: list(c.generate(model=MODEL, prompt="echo me", stream=True))
    )
    assert "".join(part.response or "" for part in parts) == whole.response
    assert "echo me" in whole.response


@ensureDeferred
async def test_ollama_embeds_lists_models_and_shows_them(shared: Cluster) -> None:
    embedded = await with_ollama(
        shared, lambda c: c.embed(model="nomic-embed-text", input=["one", "two"])
    )
    assert len(embedded.embeddings) == 2
    listed = await with_ollama(shared, lambda c: c.list())
    assert {model.model for model in listed.models} >= {"llama3.2", "nomic-embed-text"} or {
        model.model for model in listed.models
    } >= {"llama3.2:latest", "nomic-embed-text:latest"}
    shown = await with_ollama(shared, lambda c: c.show(MODEL))
    assert shown.details is not None
    assert (await with_ollama(shared, lambda c: c.ps())) is not None


@ensureDeferred
async def test_ollama_pulls_with_progress(shared: Cluster) -> None:
    """Progress arrives line by line, and the model is listed afterwards."""
    steps = await with_ollama(shared, lambda c: list(c.pull("tiny", stream=True)))
    assert len(steps) > 2
    assert any(step.completed for step in steps)
    assert steps[-1].status == "success"
    names = [m.model for m in (await with_ollama(shared, lambda c: c.list())).models]
    assert any(str(name).startswith("tiny") for name in names)


@ensureDeferred
async def test_ollama_calls_tools_and_sends_images(shared: Cluster) -> None:
    """Images reach Ollama unchanged."""
    called = await with_ollama(
        shared, lambda c: c.chat(model=MODEL, messages=HELLO, tools=[WEATHER])
    )
    assert (called.message.tool_calls or ())[0].function.name == "weather"
    message = [{"role": "user", "content": "what is this", "images": [PNG]}]
    await with_ollama(shared, lambda c: c.chat(model=MODEL, messages=message))
    recorded = [r for r in shared.ollama.requests if r.target == "/api/chat"][-1]
    assert json.loads(recorded.body or b"")["messages"][0]["images"] == [PNG]


@ensureDeferred
async def test_openai_chats_with_and_without_streaming(shared: Cluster) -> None:
    """Both have the same text."""

    def streamed(client: openai.OpenAI) -> str:
        chunks: Any = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    whole: Any = await with_openai(
        shared, lambda c: c.chat.completions.create(model=MODEL, messages=HELLO)
    )
    assert whole.choices[0].message.content == await with_openai(shared, streamed)
    assert "hello there" in whole.choices[0].message.content


@ensureDeferred
async def test_openai_calls_tools_embeddings_models_and_responses(shared: Cluster) -> None:
    called: Any = await with_openai(
        shared,
        lambda c: c.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER]),
    )
    assert called.choices[0].message.tool_calls[0].function.name == "weather"
    embedded = await with_openai(
        shared, lambda c: c.embeddings.create(model="nomic-embed-text", input="one")
    )
    assert embedded.data[0].embedding
    listed = await with_openai(shared, lambda c: [model.id for model in c.models.list()])
    assert any(name.startswith(MODEL) for name in listed)
    events = await with_openai(
        shared,
        lambda c: [e.type for e in c.responses.create(model=MODEL, input="hi", stream=True)],
    )
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"


@ensureDeferred
async def test_openai_sends_images_unchanged(shared: Cluster) -> None:
    content = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    messages: Any = [{"role": "user", "content": content}]
    await with_openai(shared, lambda c: c.chat.completions.create(model=MODEL, messages=messages))
    recorded = [r for r in shared.ollama.requests if r.target == "/v1/chat/completions"][-1]
    assert json.loads(recorded.body or b"")["messages"][0]["content"] == content


@ensureDeferred
async def test_errors_before_the_stream_raise_the_clients_error(shared: Cluster) -> None:
    """With Ollama's status and message."""
    with pytest.raises(ollama.ResponseError) as ollama_error:
        await with_ollama(shared, lambda c: c.chat(model="missing", messages=HELLO))
    assert ollama_error.value.status_code == 404
    assert "missing" in ollama_error.value.error
    with pytest.raises(openai.NotFoundError):
        await with_openai(
            shared, lambda c: c.chat.completions.create(model="missing", messages=HELLO)
        )
    shared.ollama.script(
        "/api/chat", Script(error_before=(429, '{"error":"slow down"}', {"Retry-After": "7"}))
    )
    status, headers, body = await shared.request(
        "POST", "/api/chat", {"model": MODEL, "messages": HELLO}, shared.api_key
    )
    assert (status, headers["retry-after"], body) == (429, "7", b'{"error":"slow down"}')


@ensureDeferred
async def test_an_error_in_the_stream_raises(shared: Cluster) -> None:
    """After status 200, in Ollama's client."""
    shared.ollama.script("/api/chat", Script(error_in_stream=(2, "the model fell over")))
    with pytest.raises(ollama.ResponseError, match="fell over"):
        await with_ollama(shared, lambda c: list(c.chat(model=MODEL, messages=HELLO, stream=True)))


@ensureDeferred
async def test_an_incomplete_response_raises(shared: Cluster) -> None:
    """In both clients."""
    shared.ollama.script("/api/chat", Script(break_after=2))
    with pytest.raises(ollama.ResponseError, match="No complete response"):
        await with_ollama(shared, lambda c: list(c.chat(model=MODEL, messages=HELLO, stream=True)))
    shared.ollama.script("/v1/chat/completions", Script(break_after=2))
    with pytest.raises(openai.APIError):
        await with_openai(
            shared,
            lambda c: list(c.chat.completions.create(model=MODEL, messages=HELLO, stream=True)),
        )
