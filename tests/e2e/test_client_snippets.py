"""The output of `ctllm connect CLIENT` works as printed, and so do the programs of the tutorial.

Large clients are not installed for the tests: `make compatibility` sets CTLLM_HEAVY_CLIENTS.
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

from ctllm.client_snippets import (
    CLIENTS,
    COMPATIBILITY,
    FILE_HEADING,
    PLACEHOLDER_KEY,
    SHELL_HEADING,
    TESTED,
)
from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import FakeOllama, Script
from tests.ports import free_port

BIN = Path(sys.executable).parent
CHECKED = COMPATIBILITY if os.environ.get("CTLLM_HEAVY_CLIENTS") else TESTED
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "program.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TUTORIAL.read_text(), re.M | re.S)
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
def snippets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnippetCluster]:
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
    """Write the files of printed instructions; return the shell commands."""
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
    """Run commands in a shell with only PATH and HOME in its environment."""
    modules = BIN.parent / "npm" / "node_modules"
    if not (home / "node_modules").exists():
        (home / "node_modules").symlink_to(modules)
    env = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    return subprocess.run(
        ["sh", "-e", "-c", commands], cwd=home, env=env, capture_output=True, text=True, timeout=180
    )


@ensureDeferred
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["endpoint", "cloud"])
async def test_a_client_works_as_printed(
    snippets: SnippetCluster, name: str, target: str, tmp_path: Path
) -> None:
    """It gets a response, and requests only the model that this desktop has."""
    snippets.ollama.reset()
    printed = await snippets.connect(name, f"--{target}")
    keys = set(re.findall(r"ctllm-k-[\w-]+", printed))
    assert len(keys) == (target == "cloud")
    for snippets.cluster.api_key in keys:
        await snippets.cluster.wait_for_api_key()
    assert (str(snippets.cluster.cloud_port) in printed) == (target == "cloud")
    completed = await deferToThread(run_shell, write_files(printed, tmp_path), tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.strip(), completed.stderr
    requests = [each for each in snippets.ollama.requests if each.method == "POST"]
    assert requests and all(MODEL.encode() in (each.body or b"") for each in requests), requests


def run_program(text: str, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """Run a program of the tutorial with the environment that the tutorial sets."""
    env = {
        "PATH": os.environ["PATH"],
        "CTLLM_URL": cluster.url,
        "CTLLM_API_KEY": cluster.api_key,
        "MODEL": MODEL,
    }
    argv = [sys.executable, "-c", text]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=180)


@ensureDeferred
async def test_the_programs_of_the_tutorial_work_as_printed(snippets: SnippetCluster) -> None:
    """Also where the response breaks off: then the second one says so, and fails."""
    snippets.ollama.reset()
    snippets.ollama.script("/api/chat", Script(lines=9))
    ends = []
    for program in PROGRAMS:
        completed = await deferToThread(run_program, program, snippets.cluster)
        assert completed.returncode == 0, completed.stderr
        ends.append(completed.stdout.splitlines()[-1])
    assert "The response is complete." in ends and len(ends) == 4
    assert [each.path for each in snippets.ollama.requests].count("/api/chat") == 1
    (careful,) = [program for program in PROGRAMS if "APIError" in program]
    snippets.ollama.script("/v1/chat/completions", Script(lines=9, break_after=4))
    completed = await deferToThread(run_program, careful, snippets.cluster)
    assert completed.returncode == 1 and completed.stdout
    assert "The response is not complete: " in completed.stderr


@ensureDeferred
async def test_connect_shows_the_endpoint_and_the_cloud(snippets: SnippetCluster) -> None:
    """The endpoint first; for a client that cannot use the cloud, the reason."""

    async def is_model_shown() -> bool:
        return MODEL in await snippets.connect("codex")

    await wait_until(is_model_shown, "the model to be shown")
    printed = await snippets.connect("codex")
    endpoint, cloud = printed.split("From anywhere")
    assert "no API key needed" in endpoint and PLACEHOLDER_KEY not in endpoint
    assert f"{snippets.cluster.url}/v1" in cloud and PLACEHOLDER_KEY in cloud
    assert "ctllm connect codex --cloud" in cloud
    assert "gives the program no API key" in await snippets.connect("ollama-launch")
    assert "OLLAMA_AUTH=1\nollama signin" in await snippets.connect("ollama", "--cloud")
