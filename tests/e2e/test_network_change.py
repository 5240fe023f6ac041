"""The IP address of a desktop changes, as when a laptop joins another network."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.network_namespace import NetworkNamespace
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"),
    reason="needs root and `ip` for a network namespace",
)


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    namespace = NetworkNamespace()
    namespace.create()
    yield namespace
    namespace.remove()


@ensureDeferred
async def test_the_desktop_reconnects_when_its_address_changes(
    namespace: NetworkNamespace, cluster: Cluster
) -> None:
    """It reconnects at once, and an active response is complete."""
    port, ollama = free_port(), free_port()
    cloud = cluster.run_role(
        "cloud", "cloud", f"--listen={namespace.host_address}:{port}", "--metrics-listen=off",
    )  # fmt: skip
    signing_key = cluster.state_dir("cloud") / "cloud" / "signing-key"
    await wait_until(signing_key.exists, f"the cloud to start:\n{cloud.output}")
    await cluster.run_ctllm(
        "alice", "login", "--insecure-http", await cluster.create_invite("alice")
    )
    key = await cluster.run_ctllm("alice", "keys", "add", "tests")

    def start(name: str, *words: str) -> Any:
        ip = shutil.which("ip") or "ip"
        return cluster.start_process(
            name, ip, "netns", "exec", namespace.name, sys.executable, *words
        )

    fake_ollama = start("ollama", "-m", "tests.fake_ollama", f"--port={ollama}", "--model=llama3.2",
                    "--word-interval=0.1")  # fmt: skip
    await wait_until(lambda: '"port"' in fake_ollama.output, "the fake Ollama to listen")
    desktop = start(
        "desktop", "-m", "ctllm", "desktop", f"--state-dir={cluster.state_dir('alice')}",
        "--desktop-listen=off",
        f"--ollama-host=127.0.0.1:{ollama}",
    )  # fmt: skip
    await wait_until(
        lambda: "Cloud connection: connected" in desktop.output, "the desktop to connect"
    )
    assert desktop.output.count("is not encrypted") == 1

    def generate() -> bytes:
        connection = http.client.HTTPConnection(namespace.host_address, port, timeout=60)
        body = json.dumps({"model": "llama3.2", "prompt": "word " * 40})
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/api/generate", body, headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        first_line.append(response.readline())
        return first_line[0] + response.read()

    first_line: list[bytes] = []

    async def is_key_accepted() -> bool:
        def probe() -> int:
            connection = http.client.HTTPConnection(namespace.host_address, port, timeout=10)
            connection.request("GET", "/api/version", headers={"Authorization": f"Bearer {key}"})
            return connection.getresponse().status

        return await deferToThread(probe) == 200

    await wait_until(is_key_accepted, "the API key to be accepted")
    response = deferToThread(generate)
    await wait_until(lambda: first_line, "the response to begin")
    connections = desktop.output.count("Cloud connection: connected")
    namespace.ip_inside("addr", "del", f"{namespace.prefix}.2/24", "dev", "eth0")
    namespace.ip_inside("addr", "add", f"{namespace.prefix}.3/24", "dev", "eth0")
    await wait_until(
        lambda: "the network changed" in desktop.output, "the change to be detected", 5
    )
    await wait_until(
        lambda: desktop.output.count("Cloud connection: connected") > connections,
        "the desktop to reconnect",
        5,
    )
    lines = [json.loads(line) for line in (await response).splitlines()]
    assert lines[-1]["done"] is True
    assert sum(line["response"].count("word") for line in lines) == 40
