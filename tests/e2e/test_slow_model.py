"""Models that pause for longer than common timeouts, before or within a response."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import ollama
import openai
from pytest_twisted import ensureDeferred
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster
from tests.e2e.raw_client import RawClient, parse_chunked_body
from tests.fake_ollama import Record, Script

#: Seconds; longer than the common timeout of one minute.
PAUSE = 90.0
WORDS = ("one ", "two ", "three ", "four ")
TEXT = "".join(WORDS)


def messages(word: str) -> Any:
    return [{"role": "user", "content": word}]


def chat_with_ollama(cluster: Cluster, word: str) -> str:
    client = ollama.Client(host=cluster.url, headers={"Authorization": f"Bearer {cluster.api_key}"})
    parts = list(client.chat(model="llama3.2", messages=messages(word), stream=True))
    assert parts[-1].done
    return "".join(part.message.content or "" for part in parts)


def chat_with_ollama_without_streaming(cluster: Cluster, word: str) -> str:
    client = ollama.Client(host=cluster.url, headers={"Authorization": f"Bearer {cluster.api_key}"})
    return client.chat(model="llama3.2", messages=messages(word)).message.content or ""


def chat_with_openai(cluster: Cluster, word: str) -> str:
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=cluster.api_key)
    chunks: Any = client.chat.completions.create(
        model="llama3.2", messages=messages(word), stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def chat_with_curl(cluster: Cluster, word: str) -> str:
    body = json.dumps({"model": "llama3.2", "messages": messages(word)})
    argv = ["curl", "-sSN", "--fail", f"{cluster.url}/api/chat", "-d", body]
    config = f'header = "Authorization: Bearer {cluster.api_key}"\n'
    completed = subprocess.run([*argv, "-K", "-"], input=config, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return "".join(json.loads(line)["message"]["content"] for line in completed.stdout.splitlines())


def chat_with_raw_client(cluster: Cluster, word: str) -> str:
    client = RawClient(cluster.cloud_port)
    body = {"model": "llama3.2", "messages": messages(word)}
    client.socket.settimeout(PAUSE + 60)
    content, complete = parse_chunked_body(
        client.send_request("POST", "/api/chat", cluster.api_key, body).read_until(b"\r\n0\r\n\r\n")
    )
    client.socket.close()
    assert complete
    return "".join(json.loads(line)["message"]["content"] for line in content.splitlines())


def has_word(word: str) -> Any:
    """Return a predicate for requests whose body has the word."""
    return lambda record: word.encode() in (record.body or b"")


@ensureDeferred
async def test_a_slow_model_does_not_time_out(shared: Cluster) -> None:
    """With each client, before the first byte and within the response."""
    before = Script(lines=WORDS, load_seconds=PAUSE)
    middle = Script(lines=WORDS, pause_after=(2, PAUSE))
    shared.ollama.script(has_word("patience"), before)
    shared.ollama.script(has_word("reflection"), middle)
    chats = (
        chat_with_ollama,
        chat_with_ollama_without_streaming,
        chat_with_openai,
        chat_with_curl,
        chat_with_raw_client,
    )
    responses = await gatherResults(
        [deferToThread(chat, shared, word) for chat in chats for word in ("patience", "reflection")]
    )
    assert responses == [TEXT] * (2 * len(chats))
    requests: list[Record] = [r for r in shared.ollama.requests if r.method == "POST"]
    assert len(requests) == 2 * len(chats)  # no client retried
    assert all((record.closed_at or 0.0) - record.started >= PAUSE for record in requests)
