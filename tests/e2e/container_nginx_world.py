"""A cloud, a desktop and Ollama behind nginx as its container starts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest_twisted
from twisted.internet.defer import Deferred

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.container_nginx import ContainerNginx
from tests.e2e.debian_system import DebianSystem
from tests.fake_ollama.records import Record


@dataclass
class World:
    """The cluster and its nginx. `cluster.api_key` is a token of alice."""

    cluster: Cluster
    nginx: ContainerNginx

    def requests_for(self, path: str) -> list[Record]:
        """Return Ollama's records of a path; the desktop sends requests of its own to others."""
        return [each for each in self.cluster.ollama.requests if each.path == path]

    async def wait_for_record(self, condition: Callable[[Record], bool]) -> None:
        """Wait until the last request for a chat is as described."""
        await wait_until(lambda: any(map(condition, self.requests_for("/api/chat"))), "a record")


def run_world(system: DebianSystem, folder: Path, **environ: object) -> Iterator[World]:
    """Run all of it; nginx has the variables `environ`."""
    cluster = Cluster(folder)
    nginx = ContainerNginx(system, f"127.0.0.1:{cluster.backend_port}")

    async def start() -> None:
        await cluster.start_cloud(f"--auth-request-listen=unix:{nginx.authorizer}:mode=660")
        cluster.ollama, ollama_port = cluster.start_fake_ollama("llama3.2")
        await cluster.start_desktop("alice", ollama_port)
        cluster.api_key = await cluster.create_token("alice")
        nginx.start(cluster.state_dir("cloud"), **environ)

    try:
        pytest_twisted.blockon(Deferred.fromCoroutine(start()))
        yield World(cluster, nginx)
    finally:
        pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))
        nginx.stop()
