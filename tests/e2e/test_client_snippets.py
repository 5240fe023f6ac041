"""What `ctllm connect CLIENT` prints works as it is printed, at the endpoint and at the cloud.

The heavy clients are not installed for the tests: `make compatibility` sets CTLLM_HEAVY_CLIENTS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.client_snippets import CLIENTS, COMPATIBILITY, FILE_HEADING, SHELL_HEADING, TESTED
from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import FakeOllama
from tests.ports import free_port

BIN = Path(sys.executable).parent
CHECKED = COMPATIBILITY if os.environ.get("CTLLM_HEAVY_CLIENTS") else TESTED
NAMES = [client.name for client in CLIENTS if client.verified == CHECKED]
MODEL = "qwen3:4b"


@dataclass
class SnippetCluster:
    """Alice's desktop with an endpoint, and her cloud."""

    cluster: Cluster
    ollama: FakeOllama

    async def connect(self, *words: str) -> str:
        return await self.cluster.run_ctllm("desk", "connect", *words)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnippetCluster]:
    cluster = Cluster(tmp_path_factory.mktemp("snippets"))

    async def start() -> SnippetCluster:
        await cluster.start_cloud()
        ollama, port = cluster.start_fake_ollama(MODEL)
        await cluster.start_desktop(
            "alice", port, f"--desktop-listen=127.0.0.1:{free_port()}", state="desk"
        )
        cluster.api_key = await cluster.run_ctllm("desk", "keys", "add", "tests")
        await cluster.wait_for_api_key()
        return SnippetCluster(cluster, ollama)

    yield pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def write_files(printed: str, home: Path) -> str:
    """Do what is to be done with files; gives what is to be pasted into a shell."""
    sections = re.split(rf"^{FILE_HEADING}(.+):$", printed, flags=re.M)
    commands = []
    for heading, text in zip(sections[1::2], sections[2::2], strict=True):
        if f"{FILE_HEADING}{heading}:" == SHELL_HEADING:
            commands.append(text.strip())
        else:
            file = home / heading.removeprefix("~/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.strip() + "\n")
    return "\n".join(commands)


def run_shell(commands: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a shell that knows nothing but what was printed."""
    modules = BIN.parent / "npm" / "node_modules"
    if not (home / "node_modules").exists():
        (home / "node_modules").symlink_to(modules)
    env = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    return subprocess.run(
        ["sh", "-e", "-c", commands], cwd=home, env=env, capture_output=True, text=True, timeout=180
    )


@ensureDeferred
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["endpoint", "cloud"])
async def test_as_printed(desk: SnippetCluster, name: str, where: str, tmp_path: Path) -> None:
    """The client gets the answer of the model that this desktop has, and asks for no other."""
    desk.ollama.reset()
    printed = await desk.connect(name, f"--{where}")
    assert (desk.cluster.api_key in printed) == (where == "cloud")
    assert (str(desk.cluster.cloud_port) in printed) == (where == "cloud")
    done = await deferToThread(run_shell, write_files(printed, tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), done.stderr
    asked = [each for each in desk.ollama.requests if each.method == "POST"]
    assert asked and all(MODEL.encode() in (each.body or b"") for each in asked), asked


@ensureDeferred
async def test_both_are_shown(desk: SnippetCluster) -> None:
    """The endpoint first; a client that cannot use the cloud is told why."""

    async def named() -> bool:
        return MODEL in await desk.connect("codex")

    await wait_until(named, "the model to be known")
    printed = await desk.connect("codex")
    endpoint, cloud = printed.split("From anywhere")
    assert "no key is needed" in endpoint and desk.cluster.api_key not in endpoint
    assert f"{desk.cluster.url}/v1" in cloud and desk.cluster.api_key in cloud
    assert "sends no API key" in await desk.connect("ollama")
