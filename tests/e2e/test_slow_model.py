"""Silence is not death: a model may take its time, before the first word and between two."""

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

#: Longer than the minute after which most things between two machines hang up.
SILENCE = 90.0
WORDS = ("one ", "two ", "three ", "four ")
SAID = "".join(WORDS)


def asking(word: str) -> Any:
    return [{"role": "user", "content": word}]


def by_ollama(cluster: Cluster, word: str) -> str:
    client = ollama.Client(host=cluster.url, headers={"Authorization": f"Bearer {cluster.api_key}"})
    parts = list(client.chat(model="llama3.2", messages=asking(word), stream=True))
    assert parts[-1].done
    return "".join(part.message.content or "" for part in parts)


def by_ollama_at_once(cluster: Cluster, word: str) -> str:
    client = ollama.Client(host=cluster.url, headers={"Authorization": f"Bearer {cluster.api_key}"})
    return client.chat(model="llama3.2", messages=asking(word)).message.content or ""


def by_openai(cluster: Cluster, word: str) -> str:
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=cluster.api_key)
    chunks: Any = client.chat.completions.create(
        model="llama3.2", messages=asking(word), stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def by_curl(cluster: Cluster, word: str) -> str:
    body = json.dumps({"model": "llama3.2", "messages": asking(word)})
    argv = ["curl", "-sSN", "--fail", f"{cluster.url}/api/chat", "-d", body]
    secret = f'header = "Authorization: Bearer {cluster.api_key}"\n'
    done = subprocess.run([*argv, "-K", "-"], input=secret, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return "".join(json.loads(line)["message"]["content"] for line in done.stdout.splitlines())


def by_hand(cluster: Cluster, word: str) -> str:
    client = RawClient(cluster.cloud_port)
    body = {"model": "llama3.2", "messages": asking(word)}
    client.socket.settimeout(SILENCE + 60)
    got, whole = parse_chunked_body(
        client.send_request("POST", "/api/chat", cluster.api_key, body).read_until(b"\r\n0\r\n\r\n")
    )
    client.socket.close()
    assert whole
    return "".join(json.loads(line)["message"]["content"] for line in got.splitlines())


def about(word: str) -> Any:
    """Which requests ask with this word."""
    return lambda record: word.encode() in (record.body or b"")


@ensureDeferred
async def test_ninety_seconds_of_silence(shared: Cluster) -> None:
    """Before the first byte and in the middle: nobody hangs up, and every answer is whole."""
    before = Script(lines=WORDS, load_seconds=SILENCE)
    middle = Script(lines=WORDS, pause_after=(2, SILENCE))
    shared.ollama.script(about("patience"), before)
    shared.ollama.script(about("reflection"), middle)
    ways = (by_ollama, by_ollama_at_once, by_openai, by_curl, by_hand)
    answers = await gatherResults(
        [deferToThread(way, shared, word) for way in ways for word in ("patience", "reflection")]
    )
    assert answers == [SAID] * (2 * len(ways))
    asked: list[Record] = [r for r in shared.ollama.requests if r.method == "POST"]
    assert len(asked) == 2 * len(ways)  # nobody gave up and asked again
    assert all((record.closed_at or 0.0) - record.started >= SILENCE for record in asked)
