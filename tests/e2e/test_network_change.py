"""The machine of a desktop gets another address, as a laptop that is carried about."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="only root makes network namespaces"
)


class Cable:
    """A namespace for the desktop, and a cable from it to here."""

    def __init__(self) -> None:
        self.name = f"ctl{secrets.token_hex(3)}"
        self.net = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}"
        self.here = f"{self.net}.1"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def inside(self, *words: str) -> None:
        self.ip("-n", self.name, *words)

    def lay(self) -> None:
        self.ip("netns", "add", self.name)
        self.ip("link", "add", self.name, "type", "veth", "peer", "eth0", "netns", self.name)
        self.ip("addr", "add", f"{self.here}/24", "dev", self.name)
        self.ip("link", "set", self.name, "up")
        self.inside("link", "set", "lo", "up")
        self.inside("link", "set", "eth0", "up")
        self.inside("addr", "add", f"{self.net}.2/24", "dev", "eth0")

    def take_up(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        subprocess.run(["ip", "link", "del", self.name], check=False, capture_output=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable()
    made.lay()
    yield made
    made.take_up()


@ensureDeferred
async def test_another_address(cable: Cable, cluster: Cluster) -> None:
    """The bridge dials again at once, and an answer under way loses nothing."""
    port, ollama = free_port(), free_port()
    cloud = cluster.run_role(
        "cloud", "cloud", f"--listen={cable.here}:{port}", "--metrics-listen=off",
    )  # fmt: skip
    await wait_until(lambda: f"starting on {port}" in cloud.output, "the cloud")
    await cluster.run_ctllm(
        "alice", "login", "--insecure-http", await cluster.create_invite("alice")
    )
    key = await cluster.run_ctllm("alice", "keys", "add", "tests")

    def start(name: str, *words: str) -> Any:
        ip = shutil.which("ip") or "ip"
        return cluster.start_process(name, ip, "netns", "exec", cable.name, sys.executable, *words)

    fake_ollama = start("ollama", "-m", "tests.fake_ollama", f"--port={ollama}", "--model=llama3.2",
                    "--word-interval=0.1")  # fmt: skip
    await wait_until(lambda: '"port"' in fake_ollama.output, "Ollama")
    desktop = start(
        "desktop", "-m", "ctllm", "desktop", f"--state-dir={cluster.state_dir('alice')}",
        "--desktop-listen=off",
        f"--ollama-host=127.0.0.1:{ollama}",
    )  # fmt: skip
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")
    assert desktop.output.count("is not encrypted") == 1

    def ask() -> bytes:
        connection = http.client.HTTPConnection(cable.here, port, timeout=60)
        body = json.dumps({"model": "llama3.2", "prompt": "word " * 40})
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/api/generate", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        begun.append(answer.readline())
        return begun[0] + answer.read()

    begun: list[bytes] = []

    async def works() -> bool:
        def probe() -> int:
            connection = http.client.HTTPConnection(cable.here, port, timeout=10)
            connection.request("GET", "/api/version", headers={"Authorization": f"Bearer {key}"})
            return connection.getresponse().status

        return await deferToThread(probe) == 200

    await wait_until(works, "the key to work")
    answer = deferToThread(ask)
    await wait_until(lambda: begun, "the answer to begin")
    seen = desktop.output.count("Cloud connection: connected")
    cable.inside("addr", "del", f"{cable.net}.2/24", "dev", "eth0")
    cable.inside("addr", "add", f"{cable.net}.3/24", "dev", "eth0")
    await wait_until(lambda: "the network changed" in desktop.output, "it to be noticed", 5)
    await wait_until(
        lambda: desktop.output.count("Cloud connection: connected") > seen, "the bridge", 5
    )
    lines = [json.loads(line) for line in (await answer).splitlines()]
    assert lines[-1]["done"] is True
    assert sum(line["response"].count("word") for line in lines) == 40
