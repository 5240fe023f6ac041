"""Who may ask what of whose Ollama: a real cloud, a real desktop, and what reaches Ollama."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import Cluster, wait_until
from tests.ports import free_port

#: What a key that may use models must not reach, in the ways that Ollama's server reads as one.
REFUSED = (
    ("DELETE", "/api/delete", {"model": "llama3.2"}),
    ("DELETE", "//api/%64elete/", {"model": "llama3.2"}),
    ("DELETE", "/api%2Fdelete", {"model": "llama3.2"}),
    ("DELETE", "/api/tags/../delete", {"model": "llama3.2"}),
    ("POST", "/api/pull", {"model": "192.168.1.1:8080/a/b", "insecure": True}),
    ("POST", "/api/push", {"model": "llama3.2"}),
    ("POST", "/api/create", {"model": "x", "from": "llama3.2"}),
    ("POST", "/api/copy", {"source": "llama3.2", "destination": "x"}),
    ("POST", "/api/blobs/sha256:" + "0" * 64, b"x"),
    ("POST", "/api/me", None),
    ("POST", "/api/signout", None),
    ("DELETE", "/api/user/keys/AAAA", None),
    ("GET", "/debug/pprof/", None),
    ("GET", "/debug/pprof/heap", None),
)


@pytest_twisted.async_yield_fixture()
async def town(tmp_path: Path) -> Any:
    """A cloud, alice's desktop, and two of her keys."""
    cluster = Cluster(tmp_path)
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "app")
    cluster.alice_token = await cluster.create_token("alice")
    await cluster.wait_for_api_key()
    yield cluster
    await cluster.stop()


def client_requests(cluster: Cluster) -> list[str]:
    """What Ollama was asked, but for what the desktop itself asks."""
    own = ("/api/version", "/api/tags", "/api/ps")
    return [f"{r.method} {r.path}" for r in cluster.ollama.requests if r.path not in own]


@ensureDeferred
async def test_a_key_may_use_models_and_no_more(town: Cluster) -> None:
    """Each refusal says how to allow it, and nothing of it reaches Ollama."""
    for method, path, body in REFUSED:
        status, _, said = await town.request(method, path, body, town.api_key)
        assert status == 403, (method, path, said)
        assert "ctllm keys add NAME --manage" in json.loads(said)["error"]
    assert client_requests(town) == []
    chat = {"model": "llama3.2", "messages": [], "stream": False}
    for path in ("/api/chat", "//api/chat", "/api/chat/"):
        status, _, said = await town.request("POST", path, chat, town.api_key)
        assert status == 200, said
    assert client_requests(town) == ["POST /api/chat"] * 3
    status, headers, _ = await town.request("GET", "/api/chat", token=town.api_key)
    assert (status, headers["allow"]) == (405, "POST")


@ensureDeferred
async def test_who_may_manage(town: Cluster) -> None:
    """A key made for that, and the owner's page: models, no other registries, not the account."""
    wide = await town.run_ctllm("alice", "keys", "add", "--manage", "wide")
    assert await town.run_ctllm("alice", "keys", "ls") == "app\nwide (manage)"
    town.api_key = wide
    await town.wait_for_api_key()
    for token in (wide, town.alice_token):
        copy = {"source": "llama3.2", "destination": "doomed"}
        assert (await town.request("POST", "/api/copy", copy, token))[0] == 200
        assert (await town.request("DELETE", "/api/delete", {"model": "doomed"}, token))[0] == 200
        assert (await town.request("POST", "/api/pull", {"model": "tiny"}, token))[0] == 200
        for pull in ({"model": "192.168.1.1:8080/a/b"}, {"model": "tiny", "insecure": True}):
            status, _, said = await town.request("POST", "/api/pull", pull, token)
            assert status == 403, said
        for method, path, body in REFUSED[-5:]:
            status, _, said = await town.request(method, path, body, token)
            assert status == 403, said
            assert "desktop.allowed_requests" in json.loads(said)["error"]
    expected = ["POST /api/copy", "DELETE /api/delete", "POST /api/pull"] * 2
    assert client_requests(town) == expected


@pytest.mark.parametrize(
    ("allow", "passes"), [("use", []), ("*", ["DELETE /api/delete", "POST /api/me"])]
)
@ensureDeferred
async def test_the_desktop_has_the_last_word(
    cluster: Cluster, allow: str, passes: list[str]
) -> None:
    """Whatever the cloud lets its owner do, the desktop's own configuration decides."""
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port, f"--allowed-requests={allow}")
    token = await cluster.create_token("alice")
    for method, path, body in (REFUSED[0], ("POST", "/api/me", None)):
        status, _, said = await cluster.request(method, path, body, token)
        assert (
            status == 403 and "desktop.allowed_requests" in json.loads(said)["error"]
        ) or passes, said
    assert client_requests(cluster) == passes


@ensureDeferred
async def test_never_leaves_my_machine(cluster: Cluster) -> None:
    """Models of ollama.com are refused, through the cloud and at the endpoint; others are not."""
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2", "gpt-oss:120b-cloud")
    endpoint = free_port()
    await cluster.start_desktop(
        "alice", port, "--remote-models=refuse", f"--desktop-listen=127.0.0.1:{endpoint}"
    )
    token = await cluster.create_token("alice")

    async def models() -> list[str]:
        return [model for each in await cluster.list_desktops(token) for model in each["models"]]

    await wait_until(models, "the desktop to have told its models")
    assert await models() == ["llama3.2:latest"]
    for at in (cluster.cloud_port, endpoint):
        for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
            body = {"messages": [], "model": "gpt-oss:120b-cloud"}
            status, _, said = await cluster.request("POST", path, body, token, port=at)
            assert (status, b"desktop.remote_models" in said) == (403, True), said
        chat = {"messages": [], "model": "llama3.2", "stream": False}
        assert (await cluster.request("POST", "/api/chat", chat, token, port=at))[0] == 200
    bodies = [each.body for each in cluster.ollama.requests if each.lines_sent and each.body]
    assert {json.loads(body)["model"] for body in bodies} == {"llama3.2"}


@ensureDeferred
async def test_who_is_at_the_door(town: Cluster) -> None:
    """What clients see that bring no key, a key in other clothes, or a WebSocket."""
    assert (await town.request("HEAD", "/"))[0] == 200
    command = {"User-Agent": "ollama/0.12.6 (amd64 linux) Go/go1.24.1"}
    status, _, said = await town.request("GET", "/api/tags", headers=command)
    assert (status, "OLLAMA_HOST" in json.loads(said)["error"]) == (403, True)
    basic = base64.b64encode(f"me:{town.api_key}".encode()).decode()
    for headers in (
        {"Authorization": f"Basic {basic}"},
        {"api-key": town.api_key},
        {"Authorization": "Bearer ollama", "x-api-key": town.api_key},
    ):
        assert (await town.request("GET", "/api/tags", headers=headers))[0] == 200, headers
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert (await town.request("GET", "/v1/responses", headers=upgrade))[0] == 426
