"""The endpoint of one desktop, with another one behind the cloud: who answers, and what then?"""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import ollama
import openai
import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.http.message.content_coding import load_zstd
from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.fake_ollama import FakeOllama
from tests.fake_ollama.script import Script
from tests.ports import free_port


class Home:
    """Alice's desktop with an endpoint; `attic` is the Ollama beside her other one."""

    def __init__(self, cluster: Cluster, attic: FakeOllama) -> None:
        self.cluster = cluster
        self.attic = attic
        self.state = secrets.token_hex(4)
        self.port = free_port()
        self.ollama_port = free_port()
        self.ollama: ChildProcess
        self.desktop: ChildProcess

    async def start(self) -> None:
        await self.start_ollama()
        self.desktop = await self.cluster.start_desktop(
            "alice", self.ollama_port, "--desktop-name=home", f"--desktop-listen=127.0.0.1:{self.port}",
            state=self.state,
        )  # fmt: skip
        await wait_until(self.up, "the endpoint to have looked at both sides")

    async def stop(self) -> None:
        for program in (self.desktop, self.ollama):
            if program is not None:
                program.send_signal(signal.SIGCONT)
                await program.stop()
        self.attic.reset()

    async def start_ollama(self) -> None:
        self.ollama = await self.cluster.run_fake_ollama(self.ollama_port, "llama3.2", "phi3")

    async def up(self) -> bool:
        return "qwen3:latest" in await self.models()

    async def models(self) -> list[str]:
        status, _, body = await self.ask("GET", "/api/tags")
        return [each["name"] for each in json.loads(body)["models"]] if status == 200 else []

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        return await self.cluster.request(method, path, body, headers=headers, port=self.port)

    async def generate(self, model: str = "llama3.2", **more: Any) -> tuple[int, str, str]:
        """Status, side and text of one answer."""
        body = {"model": model, "prompt": "say four little words", "stream": False, **more}
        status, headers, said = await self.ask("POST", "/api/generate", body)
        return status, headers.get("ctllm-route", ""), said.decode()

    async def prefer(self, preference: str) -> None:
        await self.cluster.run_ctllm(self.state, "prefer", preference)


@pytest.fixture(scope="module")
def attic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, FakeOllama]]:
    """A cloud, and alice's other desktop."""
    made = Cluster(tmp_path_factory.mktemp("attic"))

    async def start() -> FakeOllama:
        await made.start_cloud()
        ollama, port = made.start_fake_ollama("llama3.2", "qwen3")
        await made.start_desktop("alice", port, "--desktop-name=attic", state="attic")
        return ollama

    yield made, pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


@pytest_twisted.async_yield_fixture()
async def home(attic: tuple[Cluster, FakeOllama]) -> Any:
    """Her desktop at home, new for each test."""
    made = Home(*attic)
    await made.start()
    yield made
    await made.stop()


@ensureDeferred
async def test_who_answers_is_said(home: Home) -> None:
    """By side, machine and model; in every dialect."""
    body = {"model": "llama3.2", "prompt": "hello"}
    status, headers, _ = await home.ask("POST", "/api/generate", body)
    assert status == 200
    assert (headers["ctllm-route"], headers["ctllm-desktop"]) == ("local", "home")
    assert headers["ctllm-model"] == "llama3.2"
    status, headers, _ = await home.ask("POST", "/api/generate", {**body, "model": "qwen3"})
    assert (headers["ctllm-route"], headers["ctllm-desktop"]) == ("cloud", "attic")
    assert (status, headers["ctllm-model"]) == (200, "qwen3")


@ensureDeferred
async def test_compressed_bodies_and_forms(home: Home) -> None:
    """Their model is seen, here and on the way to the other desktop."""
    for model, side in (("phi3", "local"), ("qwen3", "cloud")):
        asked = {"input": "hello", "model": model}
        body = load_zstd().compress(json.dumps(asked).encode())
        status, headers, said = await home.ask(
            "POST", "/v1/responses", body, {"Content-Encoding": "zstd"}
        )
        assert (status, headers.get("ctllm-route")) == (200, side), said
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{home.port}/v1", api_key="-")
        transcribe = client.audio.transcriptions.with_raw_response.create
        file = ("a.wav", bytes(100_000))
        answer = await deferToThread(partial(transcribe, model=model, file=file))
        assert answer.headers["ctllm-route"] == side


async def script(home: Home, path: str, **script: Any) -> None:
    """What the Ollama at home does at `path`."""
    await home.cluster.set_script(home.ollama_port, path, **script)


@ensureDeferred
async def test_lists_are_of_both(home: Home) -> None:
    """An app sees every model that it may use, each once; in OpenAI's words, too."""
    assert sorted(await home.models()) == ["llama3.2:latest", "phi3:latest", "qwen3:latest"]
    url = f"http://127.0.0.1:{home.port}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
    listed = await deferToThread(lambda: [each.id for each in client.models.list()])
    assert sorted(listed) == ["llama3.2:latest", "phi3:latest", "qwen3:latest"]
    await home.prefer("never")
    assert sorted(await home.models()) == ["llama3.2:latest", "phi3:latest"]


@ensureDeferred
async def test_one_of_three_stalls(home: Home) -> None:
    """The lists are of the two that answer: here, and the one of two behind the cloud."""
    ollama, port = home.cluster.start_fake_ollama("gemma3")
    cellar = await home.cluster.start_desktop(
        "alice", port, "--desktop-name=cellar", state="cellar"
    )
    try:

        async def known() -> bool:
            return "gemma3:latest" in await home.models()

        await wait_until(known, "the third desktop's models to be listed")
        for path, ids in (("/v1/models", "data"), ("/api/tags", "models")):
            ollama.script(path, Script(delay_before_head=300.0))
            _, _, body = await home.ask("GET", path)
            listed = sorted(each.get("id", each.get("name")) for each in json.loads(body)[ids])
            assert listed == ["llama3.2:latest", "phi3:latest", "qwen3:latest"]
        records = [each for each in ollama.requests if each.path == "/v1/models"]
        assert records and not any(each.header("ctllm-timeout") for each in records)
    finally:
        await cellar.stop()


@ensureDeferred
async def test_moved_when_ollama_is_gone(home: Home) -> None:
    """The very next request is answered, by the other desktop; and later ones by this one again."""
    await home.ollama.stop(signal.SIGKILL)
    status, side, said = await home.generate()
    assert (status, side) == (200, "cloud"), said
    ids = {"llama3.2", "llama3.2:latest"}
    assert json.loads(said)["model"] in ids and json.loads(said)["done"]
    await home.start_ollama()

    async def back() -> bool:
        return (await home.generate())[1] == "local"

    began = time.monotonic()
    await wait_until(back, "this machine to be preferred again")
    assert time.monotonic() - began > 3, "it came back at once, and may be gone again as soon"


@ensureDeferred
async def test_moved_with_its_whole_body(home: Home) -> None:
    """A request whose Ollama reads it and then breaks off before any answer is sent once more."""
    await script(home, "/api/generate", verbatim="", break_after=0)
    picture = "A" * 3_000_000
    status, side, said = await home.generate(images=[picture])
    assert (status, side) == (200, "cloud"), said
    (record,) = [each for each in home.attic.requests if each.path == "/api/generate"]
    assert record.body_length > len(picture)


@ensureDeferred
async def test_a_begun_answer_is_not_moved(home: Home) -> None:
    """Ollama's own client raises; nobody else is asked, and the end is not a clean one."""
    await script(home, "/api/generate", lines=8, break_after=3)
    client = ollama.Client(f"http://127.0.0.1:{home.port}")
    words: list[str] = []

    def talk() -> None:
        for part in client.generate("llama3.2", "go", stream=True):
            words.append(part.response or "")

    with pytest.raises(ollama.ResponseError, match="closed the connection"):
        await deferToThread(talk)
    assert len(words) == 3
    assert not [each for each in home.attic.requests if each.path == "/api/generate"]


@ensureDeferred
async def test_moved_when_ollama_freezes(home: Home) -> None:
    """Connections stand and nothing answers: what waits there is asked elsewhere within seconds."""
    home.ollama.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    status, side, said = await home.generate()
    assert (status, side) == (200, "cloud"), said
    assert time.monotonic() - began < 15
    home.ollama.send_signal(signal.SIGCONT)


@ensureDeferred
async def test_a_loading_model_is_not_down(home: Home) -> None:
    """Silence is no failure: the request stays where it is, however long a model loads."""
    await script(home, "/api/generate", load_seconds=8.0)
    status, side, said = await home.generate()
    assert (status, side) == (200, "local"), said


@ensureDeferred
async def test_a_busy_ollama(home: Home) -> None:
    """Its 503 moves a request; where nobody else can answer, it is passed on as it is."""
    await script(
        home, "/api/generate", error_before=[503, '{"error":"server busy"}', {"Retry-After": "9"}]
    )
    assert (await home.generate())[:2] == (200, "cloud")
    await home.prefer("never")
    status, headers, said = await home.ask("POST", "/api/generate", {"model": "llama3.2"})
    assert (status, said, headers["retry-after"]) == (503, b'{"error":"server busy"}', "9")


@ensureDeferred
async def test_preferences(home: Home) -> None:
    """Each of the four with both sides well, and with either one gone; kept over a restart."""

    async def sides() -> list[str]:
        return [(await home.generate(model))[1] for model in ("llama3.2", "qwen3")]

    assert await sides() == ["local", "cloud"]
    await home.prefer("cloud")
    assert await sides() == ["cloud", "cloud"]
    await home.prefer("local")
    assert await sides() == ["local", "local"]  # a 404 of this machine's own for qwen3
    assert (await home.generate("qwen3"))[0] == 404
    await home.prefer("never")
    await home.ollama.stop(signal.SIGKILL)
    status, side, said = await home.generate()
    assert (status, side) == (503, ""), said
    assert "Ollama" in said
    await home.desktop.stop()
    again = home.desktop = home.cluster.run_role(
        "desktop", home.state, f"--ollama-host=127.0.0.1:{home.ollama_port}",
        f"--desktop-listen=127.0.0.1:{home.port}",
    )  # fmt: skip
    await wait_until(lambda: "bridge: connected" in again.output, "the desktop to be back")
    assert (await home.generate())[0] == 503, "it has forgotten"
    await home.prefer("local")

    async def moved() -> bool:
        return (await home.generate())[:2] == (200, "cloud")

    await wait_until(moved, "the cloud to answer while there is no Ollama")


@ensureDeferred
async def test_what_changes_models_stays_here(home: Home) -> None:
    """A model that is removed, pulled or made is this machine's, even while its Ollama is gone."""
    await home.prefer("cloud")
    status, headers, _ = await home.ask("DELETE", "/api/delete", {"model": "phi3"})
    assert (status, headers["ctllm-route"]) == (200, "local")
    await home.ollama.stop(signal.SIGKILL)
    for method, path, body in (
        ("DELETE", "/api/delete", {"model": "qwen3"}),
        ("POST", "/api/pull", {"model": "qwen3"}),
        ("POST", "/api/copy", {"source": "qwen3", "destination": "mine"}),
        ("POST", "/api/push", {"model": "qwen3"}),
        ("HEAD", f"/api/blobs/sha256:{'0' * 64}", None),
    ):
        assert (await home.ask(method, path, body))[0] == 503, path
    before = {each.path for each in home.attic.requests}
    assert not before & {"/api/delete", "/api/pull", "/api/copy", "/api/push"}


@ensureDeferred
async def test_without_an_ollama_of_its_own(home: Home) -> None:
    """Inference goes where there is one; the rest is refused at once, with what to do."""
    await home.ollama.stop(signal.SIGKILL)

    async def noticed() -> bool:
        return (await home.ask("POST", "/v1/rerank", {}))[0] == 404

    await wait_until(noticed, "the desktop to see that its Ollama is gone")
    hello = {"role": "user", "content": "hello"}
    chat = {"model": "qwen3", "messages": [hello], "stream": False}
    for path in ("//api/chat", "/api/chat/", "/v1/chat/completions/"):
        status, headers, said = await home.ask("POST", path, chat)
        assert (status, headers.get("ctllm-route")) == (200, "cloud"), said
    for method, path in (
        ("POST", "/chat/completions"), ("POST", "/v1/moderations"), ("GET", "/ctllm/desktops"),
        ("GET", "/x/../ctllm/session"),
    ):  # fmt: skip
        status, headers, _ = await home.ask(method, path)
        assert (status, "retry-after" in headers) == (404, False), path
    assert (await home.ask("HEAD", "/"))[0] == 200
    status, _, said = await home.ask("POST", "/api/pull", {"model": "qwen3"})
    assert status == 503
    for part in ("attic", "ctllm keys add NAME --manage", f"{home.cluster.url}/api/pull"):
        assert part in json.loads(said)["error"]


@ensureDeferred
async def test_who_leaves_cancels_wherever_it_is(home: Home) -> None:
    """On either side, before the first byte and in mid-answer, the generation ends."""
    home.attic.script("/api/generate", Script(lines=200, line_interval=0.05))
    await home.prefer("cloud")
    body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
    left = await deferToThread(leave_after, home.port, body, 2)
    assert left == 2
    (record,) = [each for each in home.attic.requests if each.path == "/api/generate"]
    await wait_until(lambda: record.closed_by == "client", "the other desktop's Ollama to be told")
    assert record.lines_sent < 100


def leave_after(port: int, body: bytes, lines: int) -> int:
    """Read so many lines of a streamed answer and close."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/api/generate", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    read = sum(1 for _ in range(lines) if answer.readline())
    connection.close()
    return read


@ensureDeferred
async def test_credentials_of_apps_stay_here(home: Home) -> None:
    """What an app shows to localhost is shown to nobody else; the cloud hears the desktop's own."""
    await home.prefer("cloud")
    status, _, _ = await home.cluster.request(
        "POST", "/api/generate", {"model": "llama3.2"}, port=home.port,
        headers={"Authorization": "Bearer app", "X-Api-Key": "app", "Cookie": "a=b"},
    )  # fmt: skip
    assert status == 200
    (record,) = [each for each in home.attic.requests if each.path == "/api/generate"]
    names = {name.lower() for name, _ in record.headers}
    assert not names & {"authorization", "x-api-key", "cookie", "ctllm-exclude-desktop"}


@ensureDeferred
async def test_the_only_desktop(cluster: Cluster) -> None:
    """One that is alone is not sent to itself through the cloud: its own error is told."""
    await cluster.start_cloud()
    port, gone = free_port(), free_port()
    await cluster.start_desktop("alice", gone, f"--desktop-listen=127.0.0.1:{port}", state="home")
    status, _, body = await cluster.request("POST", "/api/generate", {"model": "x"}, port=port)
    assert status == 503 and f"Ollama at http://127.0.0.1:{gone}" in json.loads(body)["error"]
