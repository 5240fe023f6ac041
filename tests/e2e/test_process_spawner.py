"""The life cycle of a streaming proxy with the process spawner: start, stop, failure, cleanup."""

from __future__ import annotations

import json
import re
import signal
import stat
from collections import Counter
from pathlib import Path

from pytest_twisted import ensureDeferred

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.lifecycle_cases import (
    CHAT,
    assert_broken,
    audit_records,
    is_reachable,
    proxy_state,
    start_proxy,
    start_stream,
    start_with_desktop,
)
from tests.e2e.process_info import child_pids, is_running, kill, linux_only, option
from tests.fake_ollama import Script

# -- start and stop


@linux_only
@ensureDeferred
async def test_a_proxy_starts_on_demand_as_a_confined_process(cluster: Cluster) -> None:
    """It listens on a socket in a private folder, has resource limits, and is given no secret."""
    canary = "canary-of-the-environment"
    cluster.extra_environment["DATABASE_PASSWORD"] = canary
    cloud = await cluster.start_cloud()
    token = await cluster.create_token("alice")
    assert (await proxy_state(cluster, token))["state"] == "absent"
    assert await cluster.list_desktops(token) == []
    assert child_pids(cloud.pid) == []

    assert (await start_proxy(cluster, token))[2]["state"] == "running"
    (proxy,) = child_pids(cloud.pid)
    socket = Path(option(proxy, "socket"))
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660  # its folder is private
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700

    limits = Path(f"/proc/{proxy}/limits").read_text()
    for name, limit in (
        ("Max core file size", 0),
        ("Max file size", 0),
        ("Max open files", 8192),
        ("Max data size", 536870912),
    ):
        assert re.search(rf"^{name} +{limit} +{limit} ", limits, re.M), limits

    exposed = (
        Path(f"/proc/{proxy}/environ").read_bytes() + Path(f"/proc/{proxy}/cmdline").read_bytes()
    )
    secrets = [
        (cluster.state_dir("cloud") / "cloud" / name).read_bytes().strip()
        for name in ("signing-key", "instance-secret")
    ]
    for secret in (*secrets, token.encode(), canary.encode(), b"alice"):
        assert secret not in exposed

    for _ in range(3):
        status, _, _ = await cluster.request("GET", "/api/tags", token=token)
        assert status == 503  # no desktop is connected
    assert child_pids(cloud.pid) == [proxy]


@linux_only
@ensureDeferred
async def test_an_idle_proxy_stops_but_not_during_a_silent_response(cluster: Cluster) -> None:
    """A response that pauses for longer than the idle timeout counts as activity."""
    cloud = await start_with_desktop(
        cluster, "--proxy-idle-timeout-seconds=1", "--proxy-health-interval-seconds=1"
    )
    (proxy,) = child_pids(cloud.pid)
    socket = Path(option(proxy, "socket"))
    cluster.ollama.script("/api/chat", Script(lines=3, pause_after=(1, 4.0)))
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200
    assert json.loads(body.splitlines()[-1])["done"] is True
    assert child_pids(cloud.pid) == [proxy]
    desktop = cluster.processes[-1]
    await desktop.stop()
    await wait_until(lambda: not is_running(proxy), "the idle proxy to be removed", 10)
    await wait_until(lambda: not socket.parent.exists(), "its folder to be removed")
    assert (await proxy_state(cluster, cluster.alice_token))["state"] == "absent"
    assert audit_records(cluster)[-1]["reason"] == "idle"


@linux_only
@ensureDeferred
async def test_a_user_stops_and_starts_their_proxy(cluster: Cluster) -> None:
    """DELETE ends the process and PUT starts another; both are idempotent."""
    cloud = await cluster.start_cloud()
    token = await cluster.create_token("alice")
    assert (await start_proxy(cluster, token))[0] == 200
    (first,) = child_pids(cloud.pid)
    socket = Path(option(first, "socket"))
    for _ in range(2):
        status, _, body = await cluster.request("DELETE", "/ctllm/proxy", token=token)
        assert (status, body) == (204, b"")
        assert not is_running(first)
        assert not socket.parent.exists()
        assert (await proxy_state(cluster, token))["state"] == "absent"
    for _ in range(2):
        assert (await start_proxy(cluster, token))[2]["state"] == "running"
    (second,) = child_pids(cloud.pid)
    assert second != first


@ensureDeferred
async def test_the_number_of_proxies_is_limited(cluster: Cluster) -> None:
    """One user too many gets 503 with Retry-After until another user's proxy stops."""
    await cluster.start_cloud("--max-proxies=1")
    alice, bob = await cluster.create_token("alice"), await cluster.create_token("bob")
    assert (await start_proxy(cluster, alice))[0] == 200
    status, headers, result = await start_proxy(cluster, bob)
    assert (status, result["error"]["code"]) == (503, "overloaded")
    assert int(headers["retry-after"]) > 0
    assert "maximum number of users" in result["error"]["message"]
    status, headers, _ = await cluster.request("GET", "/api/tags", token=bob)
    assert status == 503 and "retry-after" in headers
    assert (await proxy_state(cluster, alice))["state"] == "running"
    await cluster.request("DELETE", "/ctllm/proxy", token=alice)
    assert (await start_proxy(cluster, bob))[0] == 200


# -- failures of a proxy


@ensureDeferred
async def test_a_killed_proxy_is_replaced_and_the_desktop_reconnects(cluster: Cluster) -> None:
    """Its responses are aborted; a client that retries after 503 is served within seconds."""
    cloud = await start_with_desktop(cluster)
    (first,) = child_pids(cloud.pid)
    response = await start_stream(cluster, cluster.alice_token)
    kill(first, signal.SIGKILL)
    await assert_broken(response)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to reconnect", 10
    )
    (second,) = child_pids(cloud.pid)
    assert second != first
    (record,) = [line for line in audit_records(cluster) if line["event"] == "proxy.died"]
    assert (record["reason"], record["detail"]) == (
        "exited",
        "exited unexpectedly: it was ended by SIGKILL",
    )


@ensureDeferred
async def test_a_proxy_that_exits_repeatedly_restarts_after_a_delay(cluster: Cluster) -> None:
    """Until then its user gets 503 with the reason and the delay."""
    cloud = await cluster.start_cloud()
    token = await cluster.create_token("alice")
    for _ in range(6):
        status, headers, result = await start_proxy(cluster, token)
        if status == 503:
            break
        (proxy,) = child_pids(cloud.pid)
        kill(proxy, signal.SIGKILL)
        await wait_until(lambda pid=proxy: not is_running(pid), "the killed proxy to be gone")
    assert status == 503
    wait = int(headers["retry-after"])
    assert wait >= 1
    assert result["error"]["message"] == (
        f"Your streaming proxy exited unexpectedly: it was ended by SIGKILL. Try again in {wait} s."
    )
    state = await proxy_state(cluster, token)
    assert (state["state"], state["error"]) == (
        "failed",
        "Your streaming proxy exited unexpectedly: it was ended by SIGKILL.",
    )

    async def starts() -> bool:
        return (await start_proxy(cluster, token))[0] == 200

    await wait_until(starts, "the proxy to start after the delay", wait + 5)


@ensureDeferred
async def test_a_hung_proxy_is_replaced(cluster: Cluster) -> None:
    """A proxy that does not respond to health checks is killed."""
    cloud = await start_with_desktop(cluster, "--proxy-health-interval-seconds=1")
    (hung,) = child_pids(cloud.pid)
    kill(hung, signal.SIGSTOP)
    try:
        await wait_until(lambda: not is_running(hung), "the hung proxy to be ended", 40)
    finally:
        kill(hung, signal.SIGKILL)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "a new proxy to serve requests", 10
    )
    (record,) = [line for line in audit_records(cluster) if line["event"] == "proxy.died"]
    assert record["reason"] == "unresponsive"


# -- the end of the cloud


@linux_only
@ensureDeferred
async def test_a_stopping_cloud_removes_its_proxies(cluster: Cluster) -> None:
    """No process, socket or folder remains; responses are aborted at once and do not hang."""
    cloud = await start_with_desktop(cluster)
    (proxy,) = child_pids(cloud.pid)
    socket = Path(option(proxy, "socket"))
    response = await start_stream(cluster, cluster.alice_token)
    cloud.send_signal(signal.SIGTERM)
    await assert_broken(response)
    await wait_until(lambda: cloud.transport.pid is None, "the cloud to exit", 10)
    assert not is_running(proxy)
    assert not socket.parent.exists()
    assert list((cluster.state_dir("cloud") / "run").iterdir()) == []
    assert "Traceback" not in cloud.output


@linux_only
@ensureDeferred
async def test_proxies_of_a_killed_cloud_exit(cluster: Cluster) -> None:
    """The next start of the cloud removes their folders, and the desktop reconnects."""
    cloud = await start_with_desktop(cluster)
    (proxy,) = child_pids(cloud.pid)
    socket = Path(option(proxy, "socket"))
    response = await start_stream(cluster, cluster.alice_token)
    await cloud.stop(signal.SIGKILL)
    await assert_broken(response)
    await wait_until(lambda: not is_running(proxy), "the orphaned proxy to exit", 10)
    restarted = await cluster.start_cloud()
    assert not socket.parent.exists()
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to reconnect", 10
    )
    (other,) = child_pids(restarted.pid)
    assert option(other, "id") and other != proxy


# -- metrics and audit log


@ensureDeferred
async def test_metrics_and_audit_log_contain_no_names_and_no_content(cluster: Cluster) -> None:
    """No file or log contains what was sent; metrics and logs do not contain the user's name."""
    cloud = await cluster.start_cloud()
    cluster.ollama, ollama = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("zaphod", ollama)
    token = await cluster.create_token("zaphod")
    await wait_until(lambda: is_reachable(cluster, token), "the desktop to be reachable")
    cluster.ollama.script("/api/chat", Script(lines=("said-by-", "the-model")))
    chat = {"model": "llama3.2", "messages": [{"role": "user", "content": "said-by-zaphod"}]}
    status, _, body = await cluster.request("POST", "/api/chat", chat, token)
    assert status == 200 and b"said-by-" in body
    missing = {**chat, "model": "said-to-be-missing"}
    assert (await cluster.request("POST", "/api/chat", missing, token))[0] == 404
    assert (await cluster.request("GET", "/api/tags", token="said-by-nobody"))[0] == 401

    status, headers, page = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
    assert status == 200 and headers["content-type"].startswith("text/plain")
    metrics = dict(line.rsplit(" ", 1) for line in page.decode().splitlines() if line[0] != "#")
    assert metrics['ctllm_proxies{state="running"}'] == "1.0"
    assert metrics["ctllm_proxy_starts_total"] == "1.0"
    assert float(metrics['ctllm_requests_total{outcome="completed"}']) >= 3
    assert metrics["ctllm_requests_in_progress"] == "0.0"
    assert metrics["ctllm_authentication_failures_total"] == "1.0"
    assert b"zaphod" not in page
    assert (await cluster.request("GET", "/metrics", token=token))[0] != 200

    for program in reversed(cluster.processes):
        await program.stop()
    lines = audit_records(cluster)
    events = Counter(line["event"] for line in lines)
    assert events == {
        "proxy.started": 1, "proxy.stopped": 1, "session.created": 2, "request.refused": 1
    }  # fmt: skip
    (proxy,) = {line["proxy"] for line in lines if line["event"].startswith("proxy.")}
    (user,) = {line["user"] for line in lines if line["event"] == "session.created"}
    assert re.fullmatch(r"[0-9a-f]{32}", user) and proxy == f"ctllm-proxy-{user}"
    assert "zaphod" not in json.dumps(lines)
    files = [path for path in cluster.directory.rglob("*") if path.is_file()]
    assert files
    for text in [path.read_bytes() for path in files] + [
        program.output.encode() for program in cluster.processes
    ]:
        assert b"said-" not in text
    assert "zaphod" not in cloud.output
