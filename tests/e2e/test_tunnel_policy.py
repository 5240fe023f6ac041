"""Which requests API keys and tokens may send to Ollama, and what reaches it."""

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

#: Requests that a key for models may not send, with paths that Ollama's server normalises.
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
async def started(tmp_path: Path) -> Any:
    """A cloud, alice's desktop, and an API key and an access token of hers."""
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
    """Return the requests that reached Ollama, without the desktop's own."""
    own = ("/api/version", "/api/tags", "/api/ps")
    return [f"{r.method} {r.path}" for r in cluster.ollama.requests if r.path not in own]


@ensureDeferred
async def test_a_key_can_use_models_but_not_manage_them(started: Cluster) -> None:
    """Each refusal states how to allow the request, which does not reach Ollama."""
    for method, path, body in REFUSED:
        status, _, response_body = await started.request(method, path, body, started.api_key)
        assert status == 403, (method, path, response_body)
        assert "ctllm keys add NAME --scope manage" in json.loads(response_body)["error"]
    assert client_requests(started) == []
    chat = {"model": "llama3.2", "messages": [], "stream": False}
    for path in ("/api/chat", "//api/chat", "/api/chat/"):
        status, _, response_body = await started.request("POST", path, chat, started.api_key)
        assert status == 200, response_body
    assert client_requests(started) == ["POST /api/chat"] * 3
    status, headers, _ = await started.request("GET", "/api/chat", token=started.api_key)
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("front", ["cloud", "nginx"])
@ensureDeferred
async def test_another_method_of_a_known_path_gets_ollamas_405(tmp_path: Path, front: str) -> None:
    """Whatever the scope of the key, so whether the cloud or the desktop refuses it."""
    cluster = Cluster(tmp_path)
    if front == "nginx" and cluster.nginx is None:
        cluster.use_nginx()
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    for scope in ("use", "manage"):
        cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", f"--scope={scope}", scope)
        await cluster.wait_for_api_key()
        for path, allow in (("/api/blobs/sha256:00", "HEAD, POST"), ("/api/chat", "POST")):
            status, headers, body = await cluster.request("GET", path, token=cluster.api_key)
            assert (status, headers.get("allow")) == (405, allow), (scope, body)
            assert json.loads(body)["error"]
    assert client_requests(cluster) == []
    await cluster.stop()


@ensureDeferred
async def test_a_manage_key_and_the_owner_can_manage_models(started: Cluster) -> None:
    """But not pull from other registries, or use Ollama's account."""
    manage_key = await started.run_ctllm("alice", "keys", "add", "--scope=manage", "wide")
    listed = json.loads(await started.run_ctllm("alice", "keys", "ls", "--json"))
    assert [(key["name"], key["scope"]) for key in listed] == [("app", "use"), ("wide", "manage")]
    started.api_key = manage_key
    await started.wait_for_api_key()
    for token in (manage_key, started.alice_token):
        copy = {"source": "llama3.2", "destination": "doomed"}
        assert (await started.request("POST", "/api/copy", copy, token))[0] == 200
        assert (await started.request("DELETE", "/api/delete", {"model": "doomed"}, token))[
            0
        ] == 200
        assert (await started.request("POST", "/api/pull", {"model": "tiny"}, token))[0] == 200
        for pull in ({"model": "192.168.1.1:8080/a/b"}, {"model": "tiny", "insecure": True}):
            status, _, response_body = await started.request("POST", "/api/pull", pull, token)
            assert status == 403, response_body
        for method, path, body in REFUSED[-5:]:
            status, _, response_body = await started.request(method, path, body, token)
            assert status == 403, response_body
            assert "desktop.allowed_requests" in json.loads(response_body)["error"]
    expected = ["POST /api/copy", "DELETE /api/delete", "POST /api/pull"] * 2
    assert client_requests(started) == expected


@pytest.mark.parametrize(
    ("allowed", "forwarded"), [("use", []), ("*", ["DELETE /api/delete", "POST /api/me"])]
)
@ensureDeferred
async def test_the_desktops_configuration_overrides_the_clouds_permission(
    cluster: Cluster, allowed: str, forwarded: list[str]
) -> None:
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port, f"--allowed-requests={allowed}")
    token = await cluster.create_token("alice")
    for method, path, body in (REFUSED[0], ("POST", "/api/me", None)):
        status, _, response_body = await cluster.request(method, path, body, token)
        assert (
            status == 403 and "desktop.allowed_requests" in json.loads(response_body)["error"]
        ) or forwarded, response_body
    assert client_requests(cluster) == forwarded


@ensureDeferred
async def test_remote_models_can_be_refused(cluster: Cluster) -> None:
    """Models of ollama.com are refused by cloud and endpoint; local models are not."""
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2", "gpt-oss:120b-cloud")
    endpoint = free_port()
    await cluster.start_desktop(
        "alice", port, "--remote-models=refuse", f"--desktop-listen=127.0.0.1:{endpoint}"
    )
    token = await cluster.create_token("alice")

    async def models() -> list[str]:
        return [model for each in await cluster.list_desktops(token) for model in each["models"]]

    await wait_until(models, "the desktop's models to be listed")
    assert await models() == ["llama3.2:latest"]
    for port_number in (cluster.cloud_port, endpoint):
        for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
            body = {"messages": [], "model": "gpt-oss:120b-cloud"}
            status, _, response_body = await cluster.request(
                "POST", path, body, token, port=port_number
            )
            assert (status, b"desktop.remote_models" in response_body) == (403, True), response_body
        chat = {"messages": [], "model": "llama3.2", "stream": False}
        assert (await cluster.request("POST", "/api/chat", chat, token, port=port_number))[0] == 200
    bodies = [each.body for each in cluster.ollama.requests if each.lines_sent and each.body]
    assert {json.loads(body)["model"] for body in bodies} == {"llama3.2"}


@ensureDeferred
async def test_requests_without_a_bearer_key(started: Cluster) -> None:
    """HEAD /, the ollama command without a key, keys in other headers, and a WebSocket."""
    assert (await started.request("HEAD", "/"))[0] == 200
    command = {"User-Agent": "ollama/0.12.6 (amd64 linux) Go/go1.24.1"}
    status, _, response_body = await started.request("GET", "/api/tags", headers=command)
    assert (status, "OLLAMA_HOST" in json.loads(response_body)["error"]) == (403, True)
    basic = base64.b64encode(f"me:{started.api_key}".encode()).decode()
    for headers in (
        {"Authorization": f"Basic {basic}"},
        {"api-key": started.api_key},
        {"Authorization": "Bearer ollama", "x-api-key": started.api_key},
    ):
        assert (await started.request("GET", "/api/tags", headers=headers))[0] == 200, headers
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert (await started.request("GET", "/v1/responses", headers=upgrade))[0] == 426
