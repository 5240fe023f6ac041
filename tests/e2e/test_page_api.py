"""The cloud's API for the page: pairing a desktop, latencies, the proxy, a desktop's preference."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.oidc_provider import configure, start_provider

#: Programs of the provider: one whose tokens are a desktop's, and another.
CLIENTS = ("desktop", "another")


async def pair(cluster: Cluster, token: str) -> list[str]:
    """Return the words of the command that the page shows."""
    status, _, body = await cluster.request("POST", "/ctllm/session/pairing", None, token)
    assert status == 201, body
    words = json.loads(body)["command"].split(" ")
    assert words[:2] == ["ctllm", "login"]
    return list(words[1:])


async def try_login(cluster: Cluster, state: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(BIN / "ctllm"), f"--state-dir={cluster.state_dir(state)}", *words]
    return await deferToThread(
        subprocess.run, argv, capture_output=True, text=True, env=cluster.environment()
    )


@ensureDeferred
async def test_a_command_of_the_page_logs_in_a_desktop_of_the_same_user(cluster: Cluster) -> None:
    await cluster.start_cloud()
    _, port = cluster.start_fake_ollama("llama3.2")
    token = await cluster.create_token("alice")
    words = await pair(cluster, token)
    result = await try_login(cluster, "attic", *words)
    assert result.returncode == 0 and "alice" in result.stdout, result
    desktop = cluster.run_role(
        "desktop", "attic", f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off"
    )
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, desktop.output)
    (listed,) = await cluster.list_desktops(token)
    again = await try_login(cluster, "study", *words)
    assert again.returncode == 1 and "used before" in again.stderr, again
    assert await cluster.list_desktops(await cluster.create_token("bob")) == []
    audit = await cluster.run_ctllm("cloud", "audit", "--json")
    secret = words[-1].partition("#invite=")[2]
    assert "pairing.created" in audit and '"pairing"' in audit and secret not in audit
    # It stays logged in when the browser that paired it logs out, and not when alice is revoked.
    assert listed["models"]
    unused = await pair(cluster, token)
    await cluster.run_ctllm("cloud", "revoke", "alice")
    late = await try_login(cluster, "study", *unused)
    assert late.returncode == 1 and "logged in" not in late.stdout.lower(), late
    await wait_until(
        lambda: "not logged in" in desktop.output.lower(), "the desktop to be logged out"
    )


@ensureDeferred
async def test_programs_pair_no_desktops(cluster: Cluster) -> None:
    """Neither with a provider's token, nor as a desktop."""
    provider = await start_provider(cluster, users={"ada": []})
    configure(cluster, provider.table("acme"))
    await cluster.start_cloud()
    tokens = [(await provider.sign_in("ada", client))["access_token"] for client in CLIENTS]
    for token in (*tokens, await cluster.create_token("alice", "desktop"), "x"):
        status, _, _ = await cluster.request("POST", "/ctllm/session/pairing", None, token)
        assert status == (401 if token == "x" else 403)


@ensureDeferred
async def test_desktops_have_a_latency_and_the_proxy_starts_and_stops(cluster: Cluster) -> None:
    await cluster.start_cloud()
    _, port = cluster.start_fake_ollama("llama3.2")
    token = await cluster.create_token("alice")

    async def proxy(method: str = "GET") -> Any:
        status, _, body = await cluster.request(method, "/ctllm/proxy", None, token)
        assert status in (200, 204), body
        return json.loads(body) if body else None

    absent = await proxy()
    assert absent["state"] == "absent" and absent["spawner"] is None
    assert (absent["memory_bytes"], absent["started_at"]) == (None, None)
    started = await proxy("POST")
    assert (started["state"], started["spawner"], started["exchanges"]) == ("running", "process", 0)
    assert 10 << 20 < started["memory_bytes"] < 200 << 20
    assert abs(started["started_at"] - time.time()) < 60
    assert (await proxy())["idle_seconds"] >= 0
    desktop = await cluster.start_desktop("alice", port)

    async def latency() -> Any:
        listed = await cluster.list_desktops(token)
        return bool(listed) and listed[0]["latency_ms"] is not None and listed[0]

    listed = await wait_until(latency, "the first ping of the tunnel")
    assert 0 < listed["latency_ms"] < 4000
    await desktop.stop()
    await proxy("DELETE")
    assert (await proxy())["state"] == "absent"
    await proxy("DELETE")


@ensureDeferred
async def test_the_cloud_sets_a_policy_only_if_it_sends_no_more_to_it(cluster: Cluster) -> None:
    await cluster.start_cloud()
    _, port = cluster.start_fake_ollama("llama3.2")
    token = await cluster.create_token("alice")
    await cluster.start_desktop("alice", port)
    (listed,) = await cluster.list_desktops(token)

    async def preference(method: str, policy: str = "", token: str = token) -> tuple[int, Any]:
        body = {"routing_policy": policy} if policy else None
        headers = {"Ctllm-Desktop": listed["id"]}
        status, _, answer = await cluster.request(
            method, "/ctllm/desktop/preference", body, token, headers
        )
        return status, json.loads(answer)

    assert await preference("GET") == (200, {"routing_policy": "auto"})
    assert (await preference("PUT", "cloud"))[0] == 403
    assert await preference("PUT", "local") == (200, {"routing_policy": "local"})
    status, error = await preference("PUT", "auto")
    assert status == 403 and "ctllm prefer auto" in error["error"]["message"]
    stored = cluster.state_dir("alice") / "desktop" / "preference.json"
    assert json.loads(stored.read_text())["preference"] == "local"
    key = await cluster.run_ctllm("alice", "keys", "add", "k", "--scope", "manage")
    cluster.api_key = key
    await cluster.wait_for_api_key()
    assert (await preference("GET", token=key))[0] == 403
    setup = await cluster.request(
        "GET", "/ctllm/desktop/setup", None, token, {"Ctllm-Desktop": listed["id"]}
    )
    assert setup[0] == 404  # it is for that machine alone
