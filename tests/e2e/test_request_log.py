"""`log_requests`: the lines of cloud, streaming proxy and desktop have the id of the response."""

from __future__ import annotations

import json
import re

from pytest_twisted import ensureDeferred

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.lifecycle_cases import is_reachable

SECRET = "hunter2secret"
CHAT = {"model": SECRET, "messages": [{"role": "user", "content": SECRET}]}


@ensureDeferred
async def test_nginx_and_each_part_log_the_same_id(cluster: Cluster) -> None:
    """Of requests that the streaming proxy responds to, and of those that the cloud refuses."""
    if cluster.nginx is None:
        cluster.use_nginx()
    assert cluster.nginx is not None
    cluster.nginx.logs_requests = True
    option = "--log-requests=on"
    cloud = await cluster.start_cloud(option)
    _, ollama = cluster.start_fake_ollama("llama3.2")
    desktop = await cluster.start_desktop("alice", ollama, option)
    token = await cluster.create_token("alice")
    await wait_until(lambda: is_reachable(cluster, token), "requests to reach the desktop")
    own_id = {"Ctllm-Request-Id": "a" * 32}
    status, headers, _ = await cluster.request("POST", "/api/chat", CHAT, token, own_id)
    id = headers["ctllm-request-id"]
    assert status == 404 and re.fullmatch("[0-9a-f]{32}", id) and id != "a" * 32
    line, asked = f"Request {id}: POST /api/chat, status", "none, authorized, "
    await wait_until(lambda: f"{line} 404" in desktop.output, "the line of the desktop")
    await wait_until(lambda: f"{line} 404" in cloud.output, "the line of the proxy")
    assert f"{line} {asked}" in cloud.output
    log = cluster.nginx.access_log
    await wait_until(lambda: f'"request_id":"{id}"' in log.read_text(), "the line of nginx")
    status, _, _ = await cluster.request("POST", "/v1/messages", CHAT, "hunter2secret", own_id)
    assert status == 401
    await wait_until(lambda: '"route":"/v1/messages"' in log.read_text(), "the line of nginx")
    refused = json.loads(log.read_text().splitlines()[-1])
    line = f"Request {refused['request_id']}: POST /v1/messages, status 401, refused"
    await wait_until(lambda: line in cloud.output, "the line of the refusal")
    assert "hunter2secret" not in log.read_text() + cloud.output and "a" * 32 not in cloud.output


@ensureDeferred
async def test_each_part_logs_the_id_of_the_response_and_nothing_that_a_client_wrote(
    cluster: Cluster,
) -> None:
    """A client cannot choose the id."""
    option = "--log-requests=on"
    cloud = await cluster.start_cloud(option, "--log-format=json")
    _, ollama = cluster.start_fake_ollama("llama3.2")
    desktop = await cluster.start_desktop("alice", ollama, option)
    token = await cluster.create_token("alice")
    await wait_until(lambda: is_reachable(cluster, token), "requests to reach the desktop")
    query = {"Ctllm-Request-Id": "a" * 32, "X-Secret": SECRET}
    status, headers, _ = await cluster.request("POST", f"/api/chat?{SECRET}", CHAT, token, query)
    id = headers["ctllm-request-id"]
    assert status == 404 and re.fullmatch("[0-9a-f]{32}", id) and id != "a" * 32
    line = f"Request {id}: POST /api/chat, status 404, completed, "
    await wait_until(lambda: line in desktop.output, "the line of the desktop")
    await wait_until(lambda: cloud.output.count(line) == 2, "the lines of cloud and proxy")
    assert f'"request_id":"{id}"' in cloud.output
    for output in (cloud.output, desktop.output):
        assert SECRET not in output and token not in output
        assert not re.search(r"Request .*alice", output)
