"""A cluster with several desktops of one user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ollama
import openai

from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import FakeOllama


class MultiDesktopCluster(Cluster):
    """A cloud and two desktops of alice, named "study" and "attic"."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.ollamas: dict[str, FakeOllama] = {}
        self.cloud_pid = 0

    async def start(self) -> None:
        self.cloud_pid = (await self.start_cloud()).pid
        await self.add_desktop("study", "llama3.2", "shared-model")
        await self.add_desktop("attic", "qwen3:4b", "shared-model", "nomic-embed-text")
        self.api_key = await self.run_ctllm("study", "keys", "add", "--scope=manage", "tests")
        self.alice_token = await self.create_token("alice")
        await self.wait_for_api_key()
        await self.wait_for_desktops("study", "attic")

    async def add_desktop(self, name: str, *models: str, check_interval: int = 600) -> Any:
        """Start a desktop; by default only requests make it check its models before a test ends."""
        self.ollamas[name], port = self.start_fake_ollama(*models)
        options = (f"--desktop-name={name}", f"--ollama-check-interval-seconds={check_interval}")
        return await self.start_desktop("alice", port, *options, state=name)

    async def remove_desktop(self, name: str, desktop: Any) -> None:
        """Stop a desktop and wait until it is not listed."""
        await desktop.stop()
        del self.ollamas[name]
        await self.wait_for_desktops(*self.ollamas)

    async def reset(self) -> None:
        """Restore the initial models and forget the recorded requests."""
        for name, fake_ollama in self.ollamas.items():
            fake_ollama.reset()
            await self.request(
                "DELETE", "/api/delete", {"model": "-"}, self.api_key, {"Ctllm-Desktop": name}
            )
        await self.wait_for_desktops(*self.ollamas)
        for fake_ollama in self.ollamas.values():
            fake_ollama.reset()

    async def wait_for_desktops(self, *names: str) -> None:
        """Wait until exactly these desktops are listed, each with its present models."""

        async def are_listed() -> bool:
            listed = {
                each["name"]: each["models"] for each in await self.list_desktops(self.alice_token)
            }
            return listed == {name: self.ollamas[name].models for name in names}

        await wait_until(are_listed, f"{names} to be listed with their models")

    def ollama_client(self, **headers: str) -> ollama.Client:
        headers = {"Authorization": f"Bearer {self.api_key}", **headers}
        return ollama.Client(host=self.url, headers=headers)

    def openai_client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0)

    def requested_desktops(self, path: str) -> list[str]:
        """Return the desktops whose Ollama received a request for `path`, once per request."""
        return [
            name
            for name, fake_ollama in self.ollamas.items()
            for record in fake_ollama.requests
            if record.path == path
        ]

    def proxy_memory(self) -> int:
        """Resident bytes of alice's streaming proxy."""
        with open(f"/proc/{self.cloud_pid}/task/{self.cloud_pid}/children") as children:
            (proxy,) = children.read().split()
        with open(f"/proc/{proxy}/statm") as statm:
            return int(statm.read().split()[1]) * 4096
