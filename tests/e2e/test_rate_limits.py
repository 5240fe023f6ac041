"""Limits in a minute at a real cloud: of users, of addresses, and with real clients."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from ipaddress import ip_network
from typing import Any

import anthropic
import ollama
import openai
import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import FRONT, Cluster, wait_until
from tests.e2e.lifecycle_cases import CHAT, audit_records, start_stream, start_with_desktop

MODEL = "llama3.2"
HELLO: Any = [{"role": "user", "content": "hello there"}]
#: Has the form of an access token, so that its signature would be verified.
FORGED = "eyJhbGciOiJFZERTQSIsInR5cCI6ImN0bGxtLWFjY2Vzcytqd3QifQ.e30.c2ln"
HANDSHAKE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip

#: For tests that are a trusted reverse proxy themselves.
needs_its_own_addresses = pytest.mark.skipif(
    FRONT == "nginx", reason="nginx replaces X-Forwarded-For by the address of its client"
)


def send(
    cluster: Cluster, source: str, token: str, headers: dict[str, str], count: int, path: str
) -> list[tuple[int, str | None]]:
    """Send requests from an address; return the status and Retry-After of each response."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", cluster.cloud_port, timeout=30, source_address=(source, 0)
    )
    found = []
    for _ in range(count):
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}", **headers})
        response = connection.getresponse()
        response.read()
        found.append((response.status, response.getheader("retry-after")))
    connection.close()
    return found


async def statuses(
    cluster: Cluster,
    source: str,
    token: str,
    count: int = 1,
    path: str = "/api/version",
    **headers: str,
) -> Counter[int]:
    """Send requests from an address; count the statuses of the responses."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found = await deferToThread(send, cluster, source, token, named, count, path)
    assert all(wait and 1 <= int(wait) <= 60 for status, wait in found if status == 429), found
    return Counter(status for status, _ in found)


async def use_up_rate(cluster: Cluster) -> None:
    """Send requests of alice until one is refused for their number."""

    async def is_refused() -> bool:
        return 429 in await statuses(cluster, "127.0.0.1", cluster.alice_token)

    await wait_until(is_refused, "alice's limit")


async def refusal(cluster: Cluster, path: str, body: Any) -> tuple[dict[str, str], Any]:
    """Return headers and body of a response with status 429."""
    status, headers, text = await cluster.request("POST", path, body, cluster.alice_token)
    assert status == 429 and 1 <= int(headers["retry-after"]) <= 4, text
    return headers, json.loads(text)


@ensureDeferred
async def test_a_user_over_the_rate_gets_429_in_each_dialect_and_sdks_wait_as_told(
    cluster: Cluster,
) -> None:
    """Neither another user nor a response in progress is affected."""
    await start_with_desktop(cluster, "--requests-per-minute=20")
    bob = await cluster.create_token("bob")
    streaming = await start_stream(cluster, cluster.alice_token)
    streaming.addErrback(lambda _: None)  # it ends with the test
    await use_up_rate(cluster)
    record = await cluster.ollama.wait_for(lambda each: each.path == "/api/chat")
    sent = record.lines_sent
    _, error = await refusal(cluster, "/api/chat", CHAT)
    assert "limit is 20 in a minute" in error["error"]
    _, error = await refusal(cluster, "/v1/chat/completions", CHAT)
    assert error["error"]["type"] == "rate_limit_error"
    assert error["error"]["code"] == "rate_limit_exceeded"
    _, error = await refusal(cluster, "/v1/messages", {**CHAT, "max_tokens": 9})
    assert (error["type"], error["error"]["type"]) == ("error", "rate_limit_error")
    assert await statuses(cluster, "127.0.0.1", bob, 3) == {503: 3}  # bob has no desktop
    assert await statuses(cluster, "127.0.0.1", cluster.alice_token, path="/ctllm/session") == {
        200: 1
    }
    await wait_until(lambda: record.lines_sent > sent + 5, "the response to go on")
    key = cluster.alice_token
    await use_up_rate(cluster)
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=key, max_retries=1)
    models = await deferToThread(lambda: client.models.list())
    assert [model.id for model in models.data] == [f"{MODEL}:latest"]
    await use_up_rate(cluster)
    other = anthropic.Anthropic(base_url=cluster.url, auth_token=key, api_key=None, max_retries=1)
    message: Any = await deferToThread(
        lambda: other.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
    )
    assert message.role == "assistant"
    await use_up_rate(cluster)
    plain = ollama.Client(host=cluster.url, headers={"Authorization": f"Bearer {key}"})
    with pytest.raises(ollama.ResponseError) as caught:
        await deferToThread(plain.list)
    assert caught.value.status_code == 429 and "Try again in" in caught.value.error


@ensureDeferred
async def test_a_key_has_a_limit_of_its_own(cluster: Cluster) -> None:
    """Its user may go on without it."""
    await start_with_desktop(cluster)
    cluster.api_key = await cluster.run_ctllm(
        "alice", "keys", "add", "slow", "--requests-per-minute", "3"
    )
    await cluster.wait_for_api_key()  # the first of three
    found = await statuses(cluster, "127.0.0.1", cluster.api_key, 4)
    assert found == {200: 2, 429: 2}
    assert await statuses(cluster, "127.0.0.1", cluster.alice_token, 5) == {200: 5}


@ensureDeferred
async def test_a_flood_of_bad_tokens_locks_out_nobody_else(cluster: Cluster) -> None:
    """Good clients of the same address and of another one get in, also with new tokens."""
    await start_with_desktop(cluster, "--failed-requests-per-minute=30")
    session = await cluster.log_in(await cluster.create_invite("alice"), "desktop")
    invite = await cluster.create_invite("carol")
    key = await cluster.run_ctllm("alice", "keys", "add", "tests")
    flood = await statuses(cluster, "127.0.0.1", FORGED, 300)
    assert flood[401] <= 32 and flood[429] >= 268, flood
    for path, headers in (("/ctllm/session", {}), ("/v1/models", {}), ("/ws/tunnel", HANDSHAKE)):
        assert await statuses(cluster, "127.0.0.1", FORGED, 1, path, **headers) == {429: 1}, path
    assert await statuses(cluster, "127.0.0.1", cluster.alice_token, 5) == {200: 5}
    body = {"refresh": session["refresh"]}
    status, _, text = await cluster.request("POST", "/ctllm/session/token", body)
    assert status == 200, text
    assert await statuses(cluster, "127.0.0.1", json.loads(text)["token"]) == {200: 1}
    assert (await cluster.log_in(invite))["user"]["name"] == "carol"
    cluster.api_key = key
    await cluster.wait_for_api_key()
    beside = await statuses(cluster, "127.0.0.1", FORGED, 1, **{"x-api-key": key})
    assert beside == {200: 1}
    assert await statuses(cluster, "127.0.0.2", FORGED, 3) == {401: 3}
    assert await statuses(cluster, "127.0.0.2", cluster.alice_token) == {200: 1}
    refused = [each for each in audit_records(cluster) if each["event"] == "request.refused"]
    assert len(refused) < 10, refused


@needs_its_own_addresses
@ensureDeferred
async def test_only_a_trusted_proxy_tells_the_address_of_its_client(cluster: Cluster) -> None:
    """Another client cannot escape its limit, or have somebody else's address limited."""
    await cluster.start_cloud("--trusted-proxies=127.0.0.9/32", "--failed-requests-per-minute=5")
    for each in range(5):
        spoofed = f"203.0.113.7, 198.51.100.{each}"
        await statuses(cluster, "127.0.0.1", FORGED, 1, X_Forwarded_For=spoofed)
    found = await statuses(cluster, "127.0.0.1", FORGED, 1, X_Forwarded_For="192.0.2.9")
    assert found == {429: 1}
    honest = {"X_Forwarded_For": "203.0.113.7"}
    assert await statuses(cluster, "127.0.0.9", FORGED, 5, **honest) == {401: 5}
    assert await statuses(cluster, "127.0.0.9", FORGED, 1, **honest) == {429: 1}
    claims = {"X_Forwarded_For": "192.0.2.66, 203.0.113.7"}  # the client wrote the first
    assert await statuses(cluster, "127.0.0.9", FORGED, 1, **claims) == {429: 1}
    for malformed in ("\xff" * 50, "203.0.113.7.", "," * 200, "[::1", "unknown"):
        found = await statuses(cluster, "127.0.0.9", FORGED, 1, X_Forwarded_For=malformed)
        assert set(found) <= {401, 429}
    addresses = {each.get("address") for each in audit_records(cluster)}
    assert addresses == {"127.0.0.0/24", "203.0.113.0/24"}


@needs_its_own_addresses
@ensureDeferred
async def test_a_flood_from_many_networks_fills_neither_memory_nor_the_disk(
    cluster: Cluster,
) -> None:
    """Each IPv6 network has its own limit, and all of them few lines in the audit log."""
    await cluster.start_cloud("--failed-requests-per-minute=2")
    for each in range(300):
        address = {"X_Forwarded_For": f"2001:db8:{each:x}::1"}
        assert await statuses(cluster, "127.0.0.1", FORGED, 1, **address) == {401: 1}
    same = [{"X_Forwarded_For": f"2001:db8:ffff:1::{each}"} for each in range(3)]
    found = [await statuses(cluster, "127.0.0.1", FORGED, 1, **address) for address in same]
    assert found == [{401: 1}, {401: 1}, {429: 1}]
    lines = [each for each in audit_records(cluster) if each["event"] == "request.refused"]
    assert 120 <= len(lines) <= 245, len(lines)
    networks = {str(ip_network(f"2001:db8:{each:x}::/48")) for each in range(300)}
    assert {each["address"] for each in lines if "address" in each} <= networks
