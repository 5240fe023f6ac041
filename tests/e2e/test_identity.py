"""Who is who: sign-in and sign-out, API keys, and that nobody reaches what is another's."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ctllm.cloud.identity import Assertions, Folder, load_keys, proxy_id
from ctllm.standin import Script, Standin
from ctllm.wire.assertions import SERVE, USE
from ctllm.wire.keys import key_hash
from tests.e2e.processes import children, linux, option
from tests.e2e.world import Program, World, until

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "ctllm.tunnel.v1",
}


class Person:
    """A user with a desktop: a token, an API key, and an Ollama that only they may use."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ollama: Standin
        self.desktop: Program
        self.token = self.key = self.id = self.desktop_id = ""

    async def arrive(self, town: World) -> None:
        """Sign in, connect a desktop, have a key."""
        self.ollama, port = town.standin(f"model-of-{self.name}")
        self.ollama.script("/api/chat", Script(lines=(f"words of {self.name}",)))
        self.desktop = await town.desktop(self.name, port, f"--desktop-name=attic-of-{self.name}")
        self.key = await town.command(self.name, "keys", "add", "app")
        answer = await town.session(await town.invite(self.name))
        self.token, self.id = answer["token"], answer["user"]["id"]
        kept = town.state(self.name) / "desktop" / "credentials.json"
        self.desktop_id = json.loads(kept.read_text())["desktop_id"]
        await until(lambda: self.served(town), f"the key of {self.name} to work")

    async def served(self, town: World) -> bool:
        """Whether the key works."""
        return (await town.http("GET", "/api/version", token=self.key))[0] == 200


class Town(World):
    """A cloud with two people in it; `secrets` are those that tests came to know."""

    alice_: Person
    bob: Person
    secrets: set[str]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cloud, alice and bob, for all tests here."""
    made = Town(tmp_path_factory.mktemp("town"))
    made.people = {name: Person(name) for name in ("alice", "bob")}

    async def start() -> None:
        made.program = await made.cloud()
        for person in made.people.values():
            await person.arrive(made)

    pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
