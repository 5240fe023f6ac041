"""The endpoint of a desktop with another desktop behind the cloud: routing and failover."""

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
    """Alice's desktop with an endpoint; `attic` is the Ollama of her other desktop."""

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
            "alice",
            self.ollama_port,
            "--desktop-name=home",
            f"--desktop-listen=127.0.0.1:{self.port}",
            state=self.state,
        )
        await wait_until(self.is_ready, "the endpoint to list the models of both routes")

    async def stop(self) -> None:
        for process in (self.desktop, self.ollama):
            if process is not None:
                process.send_signal(signal.SIGCONT)
                await process.stop()
        self.attic.reset()

    async def start_ollama(self) -> None:
        self.ollama = await self.cluster.run_fake_ollama(self.ollama_port, "llama3.2", "phi3")

    async def is_ready(self) -> bool:
        return "qwen3:latest" in await self.models()

    async def models(self) -> list[str]:
        status, _, body = await self.request("GET", "/api/tags")
        return [model["name"] for model in json.loads(body)["models"]] if status == 200 else []

    async def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        return await self.cluster.request(method, path, body, headers=headers, port=self.port)

    async def generate(self, model: str = "llama3.2", **more: Any) -> tuple[int, str, str]:
        """Return status, route and body of a response to /api/generate."""
        body = {"model": model, "prompt": "say four little words", "stream": False, **more}
        status, headers, response = await self.request("POST", "/api/generate", body)
        return status, headers.get("ctllm-route", ""), response.decode()

    async def set_policy(self, policy: str) -> None:
        await self.cluster.run_ctllm(self.state, "prefer", policy)


@pytest.fixture(scope="module")
def attic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, FakeOllama]]:
    """A cloud and alice's other desktop."""
    cluster = Cluster(tmp_path_factory.mktemp("attic"))

    async def start() -> FakeOllama:
        await cluster.start_cloud()
        ollama, port = cluster.start_fake_ollama("llama3.2", "qwen3")
        await cluster.start_desktop("alice", port, "--desktop-name=attic", state="attic")
        return ollama

    yield cluster, pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


@pytest_twisted.async_yield_fixture()
async def home(attic: tuple[Cluster, FakeOllama]) -> Any:
    """Alice's desktop at home, started for each test."""
    desktop = Home(*attic)
    await desktop.start()
    yield desktop
    await desktop.stop()


@ensureDeferred
async def test_responses_name_route_desktop_and_model(home: Home) -> None:
    body = {"model": "llama3.2", "prompt": "hello"}
    status, headers, _ = await home.request("POST", "/api/generate", body)
    assert status == 200
    assert (headers["ctllm-route"], headers["ctllm-desktop"]) == ("local", "home")
    assert headers["ctllm-model"] == "llama3.2"
    status, headers, _ = await home.request("POST", "/api/generate", {**body, "model": "qwen3"})
    assert (headers["ctllm-route"], headers["ctllm-desktop"]) == ("cloud", "attic")
    assert (status, headers["ctllm-model"]) == (200, "qwen3")


@ensureDeferred
async def test_compressed_bodies_and_forms_are_routed_by_model(home: Home) -> None:
    """On the local route and on the way to the other desktop."""
    for model, route in (("phi3", "local"), ("qwen3", "cloud")):
        request = {"input": "hello", "model": model}
        body = load_zstd().compress(json.dumps(request).encode())
        status, headers, response = await home.request(
            "POST", "/v1/responses", body, {"Content-Encoding": "zstd"}
        )
        assert (status, headers.get("ctllm-route")) == (200, route), response
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{home.port}/v1", api_key="-")
        transcribe = client.audio.transcriptions.with_raw_response.create
        file = ("a.wav", bytes(100_000))
        transcription = await deferToThread(partial(transcribe, model=model, file=file))
        assert transcription.headers["ctllm-route"] == route


async def set_script(home: Home, path: str, **script: Any) -> None:
    """Set the script for `path` of the Ollama at home."""
    await home.cluster.set_script(home.ollama_port, path, **script)


@ensureDeferred
async def test_model_lists_of_both_routes_are_merged(home: Home) -> None:
    """Each model is listed once, in both dialects; the policy "never" omits the remote ones."""
    assert sorted(await home.models()) == ["llama3.2:latest", "phi3:latest", "qwen3:latest"]
    url = f"http://127.0.0.1:{home.port}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
    listed = await deferToThread(lambda: [model.id for model in client.models.list()])
    assert sorted(listed) == ["llama3.2:latest", "phi3:latest", "qwen3:latest"]
    await home.set_policy("never")
    assert sorted(await home.models()) == ["llama3.2:latest", "phi3:latest"]


@ensureDeferred
async def test_a_stalled_desktop_is_omitted_from_the_lists(home: Home) -> None:
    """The local models and those of the other remote desktop are listed."""
    ollama, port = home.cluster.start_fake_ollama("gemma3")
    cellar = await home.cluster.start_desktop(
        "alice", port, "--desktop-name=cellar", state="cellar"
    )
    try:

        async def is_listed() -> bool:
            return "gemma3:latest" in await home.models()

        await wait_until(is_listed, "the third desktop's models to be listed")
        for path, key in (("/v1/models", "data"), ("/api/tags", "models")):
            ollama.script(path, Script(delay_before_head=300.0))
            _, _, body = await home.request("GET", path)
            listed = sorted(model.get("id", model.get("name")) for model in json.loads(body)[key])
            assert listed == ["llama3.2:latest", "phi3:latest", "qwen3:latest"]
        records = [record for record in ollama.requests if record.path == "/v1/models"]
        assert records and not any(record.header("ctllm-timeout") for record in records)
    finally:
        await cellar.stop()


@ensureDeferred
async def test_requests_fail_over_while_ollama_is_down(home: Home) -> None:
    """The next request is served remotely; a while after Ollama is back, they are local again."""
    await home.ollama.stop(signal.SIGKILL)
    status, route, response = await home.generate()
    assert (status, route) == (200, "cloud"), response
    ids = {"llama3.2", "llama3.2:latest"}
    assert json.loads(response)["model"] in ids and json.loads(response)["done"]
    await home.start_ollama()

    async def is_local() -> bool:
        return (await home.generate())[1] == "local"

    began = time.monotonic()
    await wait_until(is_local, "requests to be local again")
    assert time.monotonic() - began > 3, "The local route was used at once; Ollama may be flapping."


@ensureDeferred
async def test_a_request_without_a_response_fails_over_with_its_complete_body(home: Home) -> None:
    """Ollama reads the request and closes the connection before the response."""
    await set_script(home, "/api/generate", verbatim="", break_after=0)
    picture = "A" * 3_000_000
    status, route, response = await home.generate(images=[picture])
    assert (status, route) == (200, "cloud"), response
    (record,) = [record for record in home.attic.requests if record.path == "/api/generate"]
    assert record.body_length > len(picture)


@ensureDeferred
async def test_a_response_that_has_begun_does_not_fail_over(home: Home) -> None:
    """Ollama's client raises, and the other desktop gets no request."""
    await set_script(home, "/api/generate", lines=8, break_after=3)
    client = ollama.Client(f"http://127.0.0.1:{home.port}")
    words: list[str] = []

    def read_stream() -> None:
        for part in client.generate("llama3.2", "go", stream=True):
            words.append(part.response or "")

    with pytest.raises(ollama.ResponseError, match="closed the connection"):
        await deferToThread(read_stream)
    assert len(words) == 3
    assert not [record for record in home.attic.requests if record.path == "/api/generate"]


@ensureDeferred
async def test_requests_fail_over_when_ollama_freezes(home: Home) -> None:
    """Connections stay open without a response; a waiting request fails over within seconds."""
    home.ollama.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    status, route, response = await home.generate()
    assert (status, route) == (200, "cloud"), response
    assert time.monotonic() - began < 15
    home.ollama.send_signal(signal.SIGCONT)


@ensureDeferred
async def test_a_request_waits_while_its_model_loads(home: Home) -> None:
    """A late response is no failure."""
    await set_script(home, "/api/generate", load_seconds=8.0)
    status, route, response = await home.generate()
    assert (status, route) == (200, "local"), response


@ensureDeferred
async def test_a_503_of_ollama_fails_over_or_is_relayed(home: Home) -> None:
    """It is relayed unchanged when no other desktop may serve the request."""
    await set_script(
        home, "/api/generate", error_before=[503, '{"error":"server busy"}', {"Retry-After": "9"}]
    )
    assert (await home.generate())[:2] == (200, "cloud")
    await home.set_policy("never")
    status, headers, response = await home.request("POST", "/api/generate", {"model": "llama3.2"})
    assert (status, response, headers["retry-after"]) == (503, b'{"error":"server busy"}', "9")


@ensureDeferred
async def test_each_routing_policy_is_followed_and_survives_a_restart(home: Home) -> None:
    """The policies with both routes healthy, and "never" and "local" without an Ollama."""

    async def routes() -> list[str]:
        return [(await home.generate(model))[1] for model in ("llama3.2", "qwen3")]

    assert await routes() == ["local", "cloud"]
    await home.set_policy("cloud")
    assert await routes() == ["cloud", "cloud"]
    await home.set_policy("local")
    assert await routes() == ["local", "local"]  # the local Ollama responds with 404 for qwen3
    assert (await home.generate("qwen3"))[0] == 404
    await home.set_policy("never")
    await home.ollama.stop(signal.SIGKILL)
    status, route, response = await home.generate()
    assert (status, route) == (503, ""), response
    assert "Ollama" in response
    await home.desktop.stop()
    restarted = home.desktop = home.cluster.run_role(
        "desktop", home.state, f"--ollama-host=127.0.0.1:{home.ollama_port}",
        f"--desktop-listen=127.0.0.1:{home.port}",
    )  # fmt: skip
    await wait_until(
        lambda: "Cloud connection: connected" in restarted.output, "the desktop to be back"
    )
    assert (await home.generate())[0] == 503, "The policy is lost after the restart."
    await home.set_policy("local")

    async def is_remote() -> bool:
        return (await home.generate())[:2] == (200, "cloud")

    await wait_until(is_remote, "the cloud route while Ollama is down")


@ensureDeferred
async def test_requests_that_change_models_are_always_local(home: Home) -> None:
    """Also while the local Ollama is down, when they get 503."""
    await home.set_policy("cloud")
    status, headers, _ = await home.request("DELETE", "/api/delete", {"model": "phi3"})
    assert (status, headers["ctllm-route"]) == (200, "local")
    await home.ollama.stop(signal.SIGKILL)
    for method, path, body in (
        ("DELETE", "/api/delete", {"model": "qwen3"}),
        ("POST", "/api/pull", {"model": "qwen3"}),
        ("POST", "/api/copy", {"source": "qwen3", "destination": "mine"}),
        ("POST", "/api/push", {"model": "qwen3"}),
        ("HEAD", f"/api/blobs/sha256:{'0' * 64}", None),
    ):
        assert (await home.request(method, path, body))[0] == 503, path
    paths = {record.path for record in home.attic.requests}
    assert not paths & {"/api/delete", "/api/pull", "/api/copy", "/api/push"}


@ensureDeferred
async def test_without_a_local_ollama_inference_is_remote_and_the_rest_refused(home: Home) -> None:
    """A refusal says what to do."""
    await home.ollama.stop(signal.SIGKILL)

    async def is_noticed() -> bool:
        return (await home.request("POST", "/v1/rerank", {}))[0] == 404

    await wait_until(is_noticed, "the desktop to notice that its Ollama is down")
    message = {"role": "user", "content": "hello"}
    chat = {"model": "qwen3", "messages": [message], "stream": False}
    for path in ("//api/chat", "/api/chat/", "/v1/chat/completions/"):
        status, headers, response = await home.request("POST", path, chat)
        assert (status, headers.get("ctllm-route")) == (200, "cloud"), response
    for method, path, expected in (
        ("POST", "/chat/completions", 404), ("POST", "/v1/moderations", 404),
        ("GET", "/ctllm/desktops", 401), ("GET", "/x/../ctllm/session", 401),  # the page's own
    ):  # fmt: skip
        status, headers, _ = await home.request(method, path)
        assert (status, "retry-after" in headers) == (expected, False), path
    assert (await home.request("HEAD", "/"))[0] == 200
    status, _, response = await home.request("POST", "/api/pull", {"model": "qwen3"})
    assert status == 503
    for part in ("attic", "ctllm keys add NAME --scope manage", f"{home.cluster.url}/api/pull"):
        assert part in json.loads(response)["error"]


@ensureDeferred
async def test_a_disconnect_cancels_a_remote_request(home: Home) -> None:
    """The other desktop's Ollama stops generating."""
    home.attic.script("/api/generate", Script(lines=200, line_interval=0.05))
    await home.set_policy("cloud")
    body = json.dumps({"model": "llama3.2", "prompt": "go"}).encode()
    count = await deferToThread(read_lines_and_close, home.port, body, 2)
    assert count == 2
    (record,) = [record for record in home.attic.requests if record.path == "/api/generate"]
    await wait_until(
        lambda: record.closed_by == "client",
        "the connection of the other desktop's Ollama to close",
    )
    assert record.lines_sent < 100


def read_lines_and_close(port: int, body: bytes, lines: int) -> int:
    """Read `lines` lines of a streamed response and close; return the number of lines read."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/api/generate", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    read = sum(1 for _ in range(lines) if response.readline())
    connection.close()
    return read


@ensureDeferred
async def test_credentials_of_local_apps_are_not_sent_to_the_cloud(home: Home) -> None:
    """The request is authenticated by the desktop's own token instead."""
    await home.set_policy("cloud")
    status, _, _ = await home.cluster.request(
        "POST", "/api/generate", {"model": "llama3.2"}, port=home.port,
        headers={"Authorization": "Bearer app", "X-Api-Key": "app", "Cookie": "a=b"},
    )  # fmt: skip
    assert status == 200
    (record,) = [record for record in home.attic.requests if record.path == "/api/generate"]
    names = {name.lower() for name, _ in record.headers}
    assert not names & {"authorization", "x-api-key", "cookie", "ctllm-exclude-desktop"}


@ensureDeferred
async def test_a_single_desktop_does_not_fail_over_to_itself(cluster: Cluster) -> None:
    """The error names its own Ollama."""
    await cluster.start_cloud()
    port, ollama_port = free_port(), free_port()
    await cluster.start_desktop(
        "alice", ollama_port, f"--desktop-listen=127.0.0.1:{port}", state="home"
    )
    status, _, body = await cluster.request("POST", "/api/generate", {"model": "x"}, port=port)
    assert (
        status == 503 and f"Ollama at http://127.0.0.1:{ollama_port}" in json.loads(body)["error"]
    )
