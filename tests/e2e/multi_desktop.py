"""A world with several desktops of one user."""

from __future__ import annotations

from typing import Any

import ollama
import openai

from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import FakeOllama


class MultiDesktopCluster(Cluster):
    """A world with a cloud, and desktops of alice's in the study and the attic."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self.ollamas: dict[str, FakeOllama] = {}
        self.cloud_pid = 0

    async def start(self) -> None:
        self.cloud_pid = (await self.start_cloud()).pid
        await self.add_desktop("study", "llama3.2", "shared-model")
        await self.add_desktop("attic", "qwen3:4b", "shared-model", "nomic-embed-text")
        self.api_key = await self.run_ctllm("study", "keys", "add", "--manage", "tests")
        self.alice_token = await self.create_token("alice")
        await self.wait_for_api_key()
        await self.wait_for_desktops("study", "attic")

    async def add_desktop(self, name: str, *models: str, check_interval: int = 600) -> Any:
        """A desktop that looks for changes so seldom that only exchanges make it look."""
        self.ollamas[name], port = self.start_fake_ollama(*models)
        options = (f"--desktop-name={name}", f"--ollama-check-interval-seconds={check_interval}")
        return await self.start_desktop("alice", port, *options, state=name)

    async def remove_desktop(self, name: str, desktop: Any) -> None:
        """Stop a desktop for good."""
        await desktop.stop()
        del self.ollamas[name]
        await self.wait_for_desktops(*self.ollamas)

    async def reset(self) -> None:
        """The models that there were at first, and no memory of requests."""
        for room, fake_ollama in self.ollamas.items():
            fake_ollama.reset()
            await self.request(
                "DELETE", "/api/delete", {"model": "-"}, self.api_key, {"Ctllm-Desktop": room}
            )
        await self.wait_for_desktops(*self.ollamas)
        for fake_ollama in self.ollamas.values():
            fake_ollama.reset()

    async def wait_for_desktops(self, *names: str) -> None:
        """Wait until these desktops are connected, and have told of the models they have."""

        async def known() -> bool:
            told = {
                each["name"]: each["models"] for each in await self.list_desktops(self.alice_token)
            }
            return told == {room: self.ollamas[room].models for room in names}

        await wait_until(known, f"{names} to be known with their models")

    def ollama_client(self, **headers: str) -> ollama.Client:
        headers = {"Authorization": f"Bearer {self.api_key}", **headers}
        return ollama.Client(host=self.url, headers=headers)

    def openai_client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0)

    def requested_desktops(self, path: str) -> list[str]:
        """The rooms whose Ollama got a request for `path`, in the order of rooms."""
        return [
            room
            for room, fake_ollama in self.ollamas.items()
            for record in fake_ollama.requests
            if record.path == path
        ]

    def proxy_memory(self) -> int:
        """Resident bytes of alice's streaming proxy."""
        with open(f"/proc/{self.cloud_pid}/task/{self.cloud_pid}/children") as children:
            (proxy,) = children.read().split()
        with open(f"/proc/{proxy}/statm") as statm:
            return int(statm.read().split()[1]) * 4096
